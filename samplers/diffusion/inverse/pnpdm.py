"""Plug-and-play diffusion models (PnP-DM): a Gibbs sampler between the data and the prior.

    z ~ p(y | z) N(z; x, rho^2 I)       exact for linear observations, Langevin steps otherwise
    x ~ p(x) N(z; x, rho^2 I)           the reverse diffusion from level rho to no noise

The pair (x, z) has the law p(x) N(z; x, rho^2 I) p(y | z). For a linear observation its x is the
posterior under noise of covariance ``noise_std^2 I + rho^2 A A'``: with rho held fixed that is what
the draws tend to, exactly but for the steps of the diffusion, and as rho falls it tends to the
posterior, while the sampler mixes ever more slowly. Levels fall by ``decay`` a step, from
``rho_max`` to ``rho_min``, where they stay. Biased: by the last rho, by the steps, and by what the
chain has not forgotten of its start.

References
----------
.. [1] Wu, Sun, Chen, Zhang, Yue and Bouman, "Principled probabilistic imaging using diffusion
   models as plug-and-play priors", NeurIPS 2024, arXiv:2405.18782. Algorithm 1.
"""

from typing import Any

import numpy as np
from jax import random
from jaxtyping import Array, Float, PRNGKeyArray

from ppl.linear_gaussian import LinearGaussian
from ppl.sampler import fraction, positive, size
from samplers.diffusion.chain import Step
from samplers.diffusion.inverse.chain import Chain, langevin, moves, walk
from samplers.diffusion.inverse.guided import batch_size
from samplers.diffusion.inverse.problem import Problem, require_linear
from samplers.diffusion.paths import NoisePath


class PnPDM(Chain):
    """Plug-and-play diffusion models: biased, for any likelihood.

    Parameters
    ----------
    rho_max, rho_min, decay
        The levels ``max(rho_max decay^k, rho_min)``, in units of the data; equal ones hold rho
        fixed.
    num_steps
        Rounds of the two draws.
    num_inner_steps
        Steps of the reverse diffusion in a round.
    num_langevin_steps, step_size
        Of the draw given the data where it is not exact. The size is below twice the inverse of the
        likelihood's largest curvature; where rho^2 is smaller it is shortened to fit.
    batch_size
        Chains that run at the same time.

    Raises
    ------
    ValueError
        For levels that the path of the prior does not have.
    TargetError
        For a target that is no posterior under a diffusion prior, and a linear observation without
        noise.
    """

    rho_max: Float[Array, ""] = positive("rho_max", default=10.0)
    rho_min: Float[Array, ""] = positive("rho_min", default=0.05)
    decay: Float[Array, ""] = fraction("decay", default=0.9)
    num_steps: int = size("num_steps", default=100)
    num_inner_steps: int = size("num_inner_steps", default=20)
    num_langevin_steps: int = size("num_langevin_steps", default=100)
    step_size: Float[Array, ""] = positive("step_size", default=1e-3)
    batch_size: int = batch_size()  # pyright: ignore[reportIncompatibleVariableOverride]
    steps: Step | None = None

    def check(self, target: Any) -> None:
        super().check(target)
        if isinstance(target.log_likelihood_fn, LinearGaussian):
            require_linear(target, "PnPDM")

    def write(self, path: NoisePath) -> Step:
        high, low, decay = (float(x) for x in (self.rho_max, self.rho_min, self.decay))
        ends = [float(path.level(np.asarray(t)).kappa) for t in (path.t_min, path.t_max)]
        if not ends[0] <= low <= high <= ends[1]:
            raise ValueError(
                f"PnPDM walks from rho_max to rho_min within the path of the prior, whose noise "
                f"goes from {ends[1]:.4g} to {ends[0]:.4g} in units of the data; got "
                f"rho_max={high:.4g} and rho_min={low:.4g}"
            )
        rhos = np.maximum(high * decay ** np.arange(self.num_steps), low)
        return moves(path, rhos, self.num_inner_steps)

    def begin(self, rng_key: PRNGKeyArray, problem: Problem, first: Step) -> Array:
        return first.start.kappa * problem.prior.noise(rng_key, 1)[0]

    def move(self, rng_key: PRNGKeyArray, problem: Problem, state: Array, step: Step) -> Array:
        key_data, key_prior = random.split(rng_key)
        variance = step.start.kappa**2
        if isinstance(problem.target.log_likelihood_fn, LinearGaussian):
            drawn = problem.likelihood.draw_given(key_data, problem.position(state), variance)
            z = problem.point(drawn)
        else:
            size = 1 / (1 / self.step_size.astype(state.dtype) + 1 / variance)
            z = langevin(
                key_data, problem.log_likelihood, state, variance, size, self.num_langevin_steps
            )
        return walk(key_prior, problem, z, step.inside, noise=True)

    @property
    def evaluations_per_step(self) -> int:
        return self.num_inner_steps
