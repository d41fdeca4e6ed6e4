"""Decomposed diffusion sampling (DDS): a few conjugate gradient steps from the denoised value.

    D' = CG_m on (I + gamma A' A) x = D + gamma A' y,  from x = D
    z' = D' + kappa' (eta eps + sqrt(1 - eta^2) (z - D) / kappa)

The noise that is kept is that of D, not of D': the data move the denoised value and nothing else,
at the price of one call of the denoiser and ``m`` of the operator. Few steps regularize: they leave
alone what the operator hardly sees, and more of them are not better. Biased; ``gamma`` does not
know the noise of the data, and the spread of the draws is that of ``eta``, not of a posterior.

Differences from the paper
--------------------------
The paper has variants for three dimensions with total variation, and for noiseless data with the
equation ``A' A x = A' y``; this is its equation for noisy data in the plane.

References
----------
.. [1] Chung, Lee and Ye, "Decomposed diffusion sampler for accelerating large-scale inverse
   problems", ICLR 2024, arXiv:2303.05754.
"""

from collections.abc import Callable
from typing import ClassVar

from jaxtyping import Array, Float

from ppl.energy import Energy
from ppl.sampler import positive, share, size
from samplers.diffusion.inverse.conjugate import conjugate_gradients
from samplers.diffusion.inverse.guided import Guide, Guided, Renoise, Step, batch_size, schedule
from samplers.diffusion.inverse.problem import Problem, require_linear
from samplers.diffusion.sampler import Silent
from samplers.diffusion.tables import Table


class KrylovGuide(Guide):
    """D' of the module, as a rule of a solver that keeps the noise of D."""

    gamma: Float[Array, ""]
    num_steps: int

    def guided(self, denoise: Callable[[Array], Array], z: Array, step: Step) -> Array:
        problem, gamma = self.problem, self.gamma.astype(z.dtype)
        denoised = denoise(z)
        # In x = D + d the equation is (I + gamma A' A) d = gamma A' (y - A D), from d = 0.
        normal = lambda d: d + gamma * problem.adjoint(problem.forward(d))
        pulled = gamma * problem.normal_residual(denoised)[0]
        moved = conjugate_gradients(
            normal, pulled, tolerance=problem.likelihood.tolerance, max_steps=self.num_steps
        )
        # z' = (1 - weight) z + weight D + moved + noise.
        return denoised + moved / step.weight


class DecomposedDiffusion(Guided):
    """Decomposed diffusion sampling: biased, for linear observations.

    Parameters
    ----------
    gamma
        Weight of the data, in units of the operator: ``kappa^2 / noise_std^2`` where the draw were
        isotropic around D.
    eta
        Share of the standard deviation of the noise that is drawn anew in a step.
    num_cg_steps
        Conjugate gradient steps in a step; they end early at the tolerance of the likelihood.
    schedule, num_steps
        As in `DiffusionSampler`.
    batch_size
        Chains that run at the same time.

    Raises
    ------
    TargetError
        For a target that is no posterior under a diffusion prior, and a likelihood that is not
        linear. The noise of the data may be zero: it is not used.
    """

    any_solver: ClassVar[bool] = False

    gamma: Float[Array, ""] = positive("gamma", default=1.0)
    eta: Float[Array, ""] = share("eta", default=0.85)
    num_cg_steps: int = size("num_cg_steps", default=5)
    schedule: Silent = schedule()
    num_steps: int = size("num_steps", default=50)
    batch_size: int = batch_size()  # pyright: ignore[reportIncompatibleVariableOverride]
    table: Table | None = None

    @property
    def solver(self) -> Silent:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The step of the module."""
        return Silent(Renoise(float(self.eta) ** 2))

    def check(self, target: Energy) -> None:
        super().check(target)
        require_linear(target, "DecomposedDiffusion", noise=False)

    def guide(self, problem: Problem) -> Guide:
        return KrylovGuide(problem, self.gamma, self.num_cg_steps)

    @property
    def evaluations_per_step(self) -> int:
        return 1
