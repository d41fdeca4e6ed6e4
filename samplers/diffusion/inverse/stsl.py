"""Second-order Tweedie sampler from surrogate loss (STSL): guidance that knows a spread is left.

    E[log p(y | x_0) | z] ~ f(z) = log p(y | D) + c / 2 tr(H Cov[x_0 | z])
    Cov[x_0 | z] = kappa^2 J,    H = Hessian of the log-likelihood at D,    J = dD / dz
    z := z + (kappa^2 - kappa'^2) / m grad f(z),  m times in a step

To second order f is a lower bound of log p(y | z), which `DPS` takes for log p(y | D). The trace is
that of a random product, ``kappa^2 e' H J e``, one probe a gradient. Under a Gaussian prior and a
linear observation it does not depend on z: the method is then DPS with ``guidance="likelihood"``.
Biased.

A gradient step is stable while its gain is below 2,

    (kappa^2 - kappa'^2) / m * |J A'|^2 / noise_std^2 < 2

in the spectral norm. Along a direction that has the variance v under the prior, J = 1 / 2 at
kappa^2 = v, and the first factors make v / 2 times the step in log kappa: where such a direction is
seen with little noise, thousands of gradients are needed, as more steps or as a larger
``num_gradients``. With fewer the draws diverge.

The trace needs a denoiser whose derivative is a covariance. That of a network is so at low noise
only (see `TMPD`), and the gradient of what it is not leads away: ``trusted_below`` says up to which
level it is believed.

Differences from the paper
--------------------------
The paper works in the latent space of an autoencoder and takes the trace of the Hessian of
log p(z) alone, by a finite difference of two scores; this is the same in the space of the data,
seen through the likelihood, by a derivative. ``c`` = 1 is the bound. The lengths of the paper's
steps are numbers to be tuned, whatever the noise of the data; here they are those of the reverse
equation, whose score is the gradient of f.

References
----------
.. [1] Rout, Chen, Kumar, Caramanis, Shakkottai and Chu, "Beyond first-order Tweedie: solving
   inverse problems using latent diffusion", CVPR 2024, arXiv:2312.00852.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax, random
from jaxtyping import Array, Float, PRNGKeyArray

from ppl.linear_gaussian import LinearGaussian
from ppl.noise import normal
from ppl.sampler import nonnegative, positive, size
from samplers.diffusion.chain import Step, ancestral
from samplers.diffusion.inverse.chain import Chain, scheduled
from samplers.diffusion.inverse.guided import batch_size, schedule
from samplers.diffusion.inverse.problem import Problem, require_linear
from samplers.diffusion.paths import Level, NoisePath
from samplers.diffusion.sampler import Silent


class STSL(Chain):
    """Second-order Tweedie sampler: biased, for any likelihood.

    Parameters
    ----------
    correction
        Weight c of the trace; 0 is DPS.
    trusted_below
        Noise level below which the trace is used: any for exact denoisers, a fraction of the
        data's standard deviation for networks.
    num_gradients
        Gradient steps m in a step of the chain, each with a probe of its own.
    schedule, num_steps
        As in `DiffusionSampler`.
    batch_size
        Chains that run at the same time.

    Raises
    ------
    TargetError
        For a target that is no posterior under a diffusion prior, and a linear observation without
        noise.
    """

    correction: Float[Array, ""] = nonnegative("correction", default=1.0)
    trusted_below: Float[Array, ""] = positive("trusted_below", default=1e6)
    num_gradients: int = size("num_gradients", default=1)
    schedule: Silent = schedule()
    num_steps: int = size("num_steps", default=1000)
    batch_size: int = batch_size()  # pyright: ignore[reportIncompatibleVariableOverride]
    steps: Step | None = None

    def check(self, target: Any) -> None:
        super().check(target)
        if isinstance(target.log_likelihood_fn, LinearGaussian):
            require_linear(target, "STSL")

    def write(self, path: NoisePath) -> Step:
        return scheduled(path, self.schedule, self.num_steps)

    def begin(self, rng_key: PRNGKeyArray, problem: Problem, first: Step) -> Array:
        return first.start.kappa * problem.prior.noise(rng_key, 1)[0]

    def bound(self, problem: Problem, z: Array, level: Level, probe: Array) -> Array:
        """The f of the module, with its trace along one probe."""
        denoised, moved = jax.jvp(lambda z: problem.denoise(z, level), (z,), (probe,))
        score = jax.grad(problem.log_likelihood)
        curved = jax.jvp(score, (denoised,), (moved,))[1]
        trace = level.kappa**2 * jnp.vdot(probe, curved)
        trusted = level.kappa <= self.trusted_below.astype(z.dtype)
        weight = jnp.where(trusted, self.correction.astype(z.dtype) / 2, 0)
        return problem.log_likelihood(denoised) + weight * trace

    def move(self, rng_key: PRNGKeyArray, problem: Problem, state: Array, step: Step) -> Array:
        key_noise, key_probes = random.split(rng_key)
        level, after = step.start, step.end.kappa
        kept, sd = ancestral(level.kappa, after)
        strength = (level.kappa**2 - after**2) / self.num_gradients

        def uphill(z: Array, key: PRNGKeyArray) -> tuple[Array, None]:
            probe = random.rademacher(key, z.shape, z.dtype)
            slope = jax.grad(lambda z: self.bound(problem, z, level, probe))(z)
            return z + strength * slope, None

        guided, _ = lax.scan(uphill, state, random.split(key_probes, self.num_gradients))
        eps = normal(key_noise, state.shape, state.dtype)
        plain = kept * state + (1 - kept) * problem.denoise(state, level)
        return plain + sd * eps + (guided - state)

    @property
    def evaluations_per_step(self) -> int:
        return 1 + 4 * self.num_gradients
