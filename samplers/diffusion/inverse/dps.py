"""Diffusion posterior sampling (DPS): a gradient step on the misfit of the denoised value.

    z' := z' - zeta sqrt((1 + kappa^2) (1 + kappa'^2)) grad_z |y - A D(z)|        guidance="norm"
    D' = D + kappa^2 grad_z log p(y | x_0 = D(z))                           guidance="likelihood"

The first is the method of the paper: the gradient of the norm of the residual, not of its square,
so that a step has the same length whatever the misfit and the noise. The size of the noise does not
enter at all, and zeta acts once a step: how tightly draws hold to the data, and how far they
spread, is set by ``zeta`` times the number of steps. Small zeta spreads too far, large zeta too
little, and the right value depends on the problem. Steps are those of the paper's
variance-preserving coordinates, whatever the path of the prior: that is the root above.

The second takes the data as if the draw were at its mean, without the spread that is left: a score,
for any log-likelihood and any solver, too sure of the data while noise is high, and unstable where
the noise of the data is small against a step. It is what other methods are compared with. Both are
biased.

Differences from the paper
--------------------------
The paper steps along the gradient of the square, with a factor that its experiments divide by the
norm: that is the gradient of the norm, twice. Here ``zeta`` multiplies the gradient of the norm.

References
----------
.. [1] Chung, Kim, Mccann, Klasky and Ye, "Diffusion posterior sampling for general noisy inverse
   problems", ICLR 2023, arXiv:2209.14687. Algorithm 1.
"""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ppl.energy import Energy
from ppl.sampler import positive, size
from samplers.diffusion.inverse.guided import Guide, Guided, Step, batch_size, schedule, solver
from samplers.diffusion.inverse.problem import Problem, require_linear
from samplers.diffusion.sampler import Silent
from samplers.diffusion.tables import Table


class NormGuide(Guide):
    """The move after the step, as one of the denoised value."""

    zeta: Float[Array, ""]

    def guided(self, denoise: Callable[[Array], Array], z: Array, step: Step) -> Array:
        problem = self.problem
        denoised, pull = jax.vjp(denoise, z)
        direction, squared = problem.normal_residual(denoised)
        length = jnp.sqrt(squared)
        uphill = pull(direction)[0] / jnp.where(length > 0, length, 1)
        scale = jnp.sqrt((1 + step.kappa**2) * (1 + step.next_kappa**2))
        return denoised + self.zeta.astype(z.dtype) * scale / step.weight * uphill


class LikelihoodGuide(Guide):
    """The score of the likelihood at the denoised value."""

    def guided(self, denoise: Callable[[Array], Array], z: Array, step: Step) -> Array:
        denoised, pull = jax.vjp(denoise, z)
        return denoised + step.kappa**2 * pull(jax.grad(self.problem.log_likelihood)(denoised))[0]


class DPS(Guided):
    """Diffusion posterior sampling: biased.

    Parameters
    ----------
    zeta
        Step along the gradient of the norm; not used with ``guidance="likelihood"``.
    guidance
        ``"norm"``, the paper's, for linear observations; or ``"likelihood"``, for any likelihood.
    solver, schedule, num_steps
        As in `DiffusionSampler`; with ``"norm"`` the solver's step uses one denoised value, as
        `DDPM` and `DDIM` do.
    batch_size
        Chains that run at the same time.

    Raises
    ------
    TargetError
        For a target that is no posterior under a diffusion prior, and for a likelihood that is not
        linear with ``guidance="norm"``.
    """

    zeta: Float[Array, ""] = positive("zeta", default=1.0)
    guidance: str = eqx.field(static=True, default="norm")
    solver: Silent = solver()
    schedule: Silent = schedule()
    num_steps: int = size("num_steps", default=1000)
    batch_size: int = batch_size()  # pyright: ignore[reportIncompatibleVariableOverride]
    table: Table | None = None

    def __check_init__(self) -> None:
        if self.guidance not in ("norm", "likelihood"):
            raise ValueError(f"guidance must be 'norm' or 'likelihood'; got {self.guidance!r}")

    @property
    def any_solver(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Whether steps may use several denoised values."""
        return self.guidance == "likelihood"

    def check(self, target: Energy) -> None:
        super().check(target)
        if self.guidance == "norm":
            require_linear(target, "DPS(guidance='norm')", noise=False)

    def guide(self, problem: Problem) -> Guide:
        if self.guidance == "norm":
            return NormGuide(problem, self.zeta)
        return LikelihoodGuide(problem)

    @property
    def evaluations_per_step(self) -> int:
        return 2
