"""Decoupled annealing posterior sampling (DAPS): a draw at no noise in every step, then new noise.

    x_0 ~ p(x_0 | z, y) as  N(x, r^2 I) p(y | x_0),   x: the end of the probability flow from z
    z' = x_0 + kappa' eps

A step does not start where the last one ended but from a draw of the data with fresh noise, so that
errors of one level are not carried to the next. The flow takes ``num_ode_steps`` calls of the
denoiser. Under a linear observation the draw is exact, by the equation that `LinearGaussian`
solves; otherwise it is the end of ``num_langevin_steps`` steps of Langevin's from x, whose size is
``step_size`` and falls along the levels to a hundredth of it.

Biased: what is left open given z is taken for white noise of variance r^2, by default kappa^2.
Under a smooth prior that is too wide, up to half as wide again; ``data_variance`` = v takes
r^2 = kappa^2 v / (kappa^2 + v).

Differences from the paper
--------------------------
The paper's code believes the data more than they deserve, with a noise of a fifth of theirs; here
``tau`` is the noise of the data unless it is given. The flow ends at the denoised value of the end
of the path. The inner draw under linear observations is exact.

References
----------
.. [1] Zhang, Chu, Berner, Meng, Anandkumar and Song, "Improving diffusion inverse problem solving
   with decoupled noise annealing", CVPR 2025, arXiv:2407.01521. Algorithm 1.
"""

from typing import Any

import equinox as eqx
from jax import random
from jaxtyping import Array, Float, PRNGKeyArray

from ppl.linear_gaussian import LinearGaussian
from ppl.noise import normal
from ppl.sampler import positive, size
from samplers.diffusion.chain import Step
from samplers.diffusion.inverse.chain import Chain, langevin, scheduled, walk
from samplers.diffusion.inverse.guided import batch_size, schedule
from samplers.diffusion.inverse.problem import Problem, require_linear
from samplers.diffusion.paths import NoisePath
from samplers.diffusion.sampler import Silent
from samplers.mcmc.windows import optional

LAST_STEP = 0.01  # of the Langevin steps at the end of the levels, in units of the first


class DAPS(Chain):
    """Decoupled annealing posterior sampling: biased, for any likelihood.

    Parameters
    ----------
    num_ode_steps
        Steps of the probability flow at each level; 1: its denoised value.
    tau
        Noise of the data that the draw assumes, for linear observations; None: theirs.
    data_variance
        The v of the module; None: r = kappa.
    langevin
        Whether the draw is by Langevin steps also where it could be exact.
    num_langevin_steps, step_size
        Those of each level.
    schedule, num_steps
        As in `DiffusionSampler`.
    batch_size
        Chains that run at the same time.

    Raises
    ------
    TargetError
        For a target that is no posterior under a diffusion prior, a linear observation without
        noise, and ``tau`` with a likelihood that is not linear.
    """

    num_ode_steps: int = size("num_ode_steps", default=5)
    tau: Float[Array, ""] | None = optional(positive("tau"))
    data_variance: Float[Array, ""] | None = optional(positive("data_variance"))
    langevin: bool = eqx.field(static=True, default=False)
    num_langevin_steps: int = size("num_langevin_steps", default=100)
    step_size: Float[Array, ""] = positive("step_size", default=1e-4)
    schedule: Silent = schedule()
    num_steps: int = size("num_steps", default=200)
    batch_size: int = batch_size()  # pyright: ignore[reportIncompatibleVariableOverride]
    steps: Step | None = None

    def check(self, target: Any) -> None:
        super().check(target)
        if self.tau is not None or isinstance(target.log_likelihood_fn, LinearGaussian):
            require_linear(target, "DAPS(tau=...)" if self.tau is not None else "DAPS")

    def write(self, path: NoisePath) -> Step:
        return scheduled(path, self.schedule, self.num_steps, self.num_ode_steps)

    def begin(self, rng_key: PRNGKeyArray, problem: Problem, first: Step) -> Array:
        return first.start.kappa * problem.prior.noise(rng_key, 1)[0]

    def move(self, rng_key: PRNGKeyArray, problem: Problem, state: Array, step: Step) -> Array:
        key_draw, key_noise = random.split(rng_key)
        x = walk(key_draw, problem, state, step.inside, noise=False)
        variance = step.start.kappa**2
        if self.data_variance is not None:
            v = self.data_variance.astype(x.dtype)
            variance = variance * v / (variance + v)
        if isinstance(problem.target.log_likelihood_fn, LinearGaussian):
            likelihood = problem.likelihood
            if self.tau is not None:
                tau = self.tau.astype(x.dtype)
                likelihood = eqx.tree_at(lambda fn: fn.noise_std, likelihood, tau)
            log_likelihood = lambda x: likelihood(problem.position(x))
            if not self.langevin:
                drawn = likelihood.draw_given(key_draw, problem.position(x), variance)
                return self._renoised(key_noise, problem.point(drawn), step)
        else:
            log_likelihood = problem.log_likelihood
        progress = step.index.astype(x.dtype) / (self.num_steps - 1)
        size = self.step_size.astype(x.dtype) * (1 - (1 - LAST_STEP) * progress)
        drawn = langevin(key_draw, log_likelihood, x, variance, size, self.num_langevin_steps)
        return self._renoised(key_noise, drawn, step)

    def _renoised(self, rng_key: PRNGKeyArray, x: Array, step: Step) -> Array:
        return x + step.end.kappa * normal(rng_key, x.shape, x.dtype)

    @property
    def evaluations_per_step(self) -> int:
        return self.num_ode_steps
