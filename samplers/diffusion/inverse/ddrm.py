"""Denoising diffusion restoration models (DDRM): one coordinate at a time, by singular vectors.

In the basis of A = U diag(s) V', with d = U' y / s, noise r = noise_std / s in units of the data,
h = V' D and new noise eps, each coordinate goes from kappa to kappa' by

    s = 0:         h + sqrt(1 - eta^2) kappa' (z - h) / kappa + eta kappa' eps
    kappa' < r:    h + sqrt(1 - eta^2) kappa' (d - h) / r + eta kappa' eps
    kappa' >= r:   (1 - eta_data) h + eta_data d + sqrt(kappa'^2 - eta_data^2 r^2) eps

and starts from N(d, kappa^2 - r^2) where kappa >= r, from N(0, kappa^2) elsewhere. What was
measured well is held to the data while noise is higher than theirs, and left to the prior below. No
derivative of the denoiser is needed, few steps are enough, and the law of the noise is that of each
level if D were the truth. It is not: biased, and the coordinates know of each other through the
denoiser only.

References
----------
.. [1] Kawar, Elad, Ermon and Song, "Denoising diffusion restoration models", NeurIPS 2022,
   arXiv:2201.11793.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from ppl.energy import Energy
from ppl.linear_operators import normal_like
from ppl.sampler import share, size
from samplers.diffusion.chain import Step
from samplers.diffusion.inverse.basis import Basis, require_basis
from samplers.diffusion.inverse.chain import Chain, scheduled
from samplers.diffusion.inverse.guided import batch_size, schedule
from samplers.diffusion.inverse.problem import Problem, require_linear
from samplers.diffusion.paths import NoisePath
from samplers.diffusion.sampler import Silent


class DDRM(Chain):
    """Denoising diffusion restoration models: biased, for operators with singular values.

    Parameters
    ----------
    eta
        Share of the standard deviation of the noise that is drawn anew in a step.
    eta_data
        Share of the data in a step while the noise is above theirs.
    schedule, num_steps
        As in `DiffusionSampler`.
    batch_size
        Chains that run at the same time.

    Raises
    ------
    TargetError
        For a target that is no posterior under a diffusion prior, a likelihood that is not linear,
        an operator without a decomposition, and noise that differs between the observations. The
        noise may be zero.
    """

    eta: Float[Array, ""] = share("eta", default=0.85)
    eta_data: Float[Array, ""] = share("eta_data", default=1.0)
    schedule: Silent = schedule()
    num_steps: int = size("num_steps", default=100)
    batch_size: int = batch_size()  # pyright: ignore[reportIncompatibleVariableOverride]
    steps: Step | None = None

    def check(self, target: Energy) -> None:
        super().check(target)
        require_linear(target, "DDRM", noise=False, svd=True)
        require_basis(target, "DDRM")

    def write(self, path: NoisePath) -> Step:
        return scheduled(path, self.schedule, self.num_steps)

    def begin(self, rng_key: PRNGKeyArray, problem: Problem, first: Step) -> Array:
        basis, kappa = Basis(problem), first.start.kappa
        known = basis.seen & (kappa >= basis.noise)
        sd = jnp.sqrt(jnp.where(known, kappa**2 - basis.noise**2, kappa**2))
        eps = normal_like(rng_key, basis.data)
        return basis.point(jnp.where(known, basis.data, 0) + sd * eps)

    def move(self, rng_key: PRNGKeyArray, problem: Problem, state: Array, step: Step) -> Array:
        basis, kappa, after = Basis(problem), step.start.kappa, step.end.kappa
        eta, eta_data = self.eta.astype(state.dtype), self.eta_data.astype(state.dtype)
        d, r = basis.data, basis.noise
        z, h = (basis.coefficients(x) for x in (state, problem.denoise(state, step.start)))
        eps = normal_like(rng_key, z)
        kept = jnp.sqrt(1 - eta**2) * after
        unseen = h + kept * (z - h) / kappa + eta * after * eps
        below = h + kept * (d - h) / jnp.where(r > 0, r, 1) + eta * after * eps
        sd = jnp.sqrt(jnp.maximum(after**2 - (eta_data * r) ** 2, 0))
        above = (1 - eta_data) * h + eta_data * d + sd * eps
        seen = jnp.where(after < r, below, above)
        return basis.point(jnp.where(basis.seen, seen, unseen))

    @property
    def evaluations_per_step(self) -> int:
        return 1
