"""Plug-and-play restoration by a diffusion prior (DiffPIR): denoise, go to the data, add noise.

    D' = argmin_x  |y - A x|^2 / (2 noise_std^2) + penalty |x - D|^2 / (2 kappa^2)
    z' = D' + kappa' (sqrt(renewed) eps + sqrt(1 - renewed) (z - D') / kappa)

Half-quadratic splitting along the reverse equation: one call of the denoiser a step and no
derivative of it. With ``penalty`` 1 the proximal map is the mean of ``N(D, kappa^2 I)`` given the
data. Biased: it moves to a mean and spreads around it by the noise of the level, whatever the prior
leaves open.

References
----------
.. [1] Zhu, Zhang, Liang, Cao, Wen, Timofte and Van Gool, "Denoising diffusion models for
   plug-and-play image restoration", CVPR workshops 2023, arXiv:2305.08995. Algorithm 1.
"""

from collections.abc import Callable

from jaxtyping import Array, Float

from ppl.energy import Energy
from ppl.sampler import positive, share, size
from samplers.diffusion.inverse.guided import Guide, Guided, Renoise, Step, batch_size, schedule
from samplers.diffusion.inverse.problem import Problem, require_linear
from samplers.diffusion.sampler import Silent
from samplers.diffusion.tables import Table


class ProximalGuide(Guide):
    """D' of the module."""

    penalty: Float[Array, ""]

    def guided(self, denoise: Callable[[Array], Array], z: Array, step: Step) -> Array:
        problem = self.problem
        spread = step.kappa**2 / self.penalty.astype(z.dtype)
        position = problem.position(denoise(z))
        return problem.point(problem.likelihood.mean_given(position, spread))


class DiffPIR(Guided):
    """DiffPIR, plug-and-play restoration by a diffusion prior: biased, for linear observations.

    Parameters
    ----------
    penalty
        Weight of the denoised value against the data, the paper's lambda.
    renewed
        Share of the noise that is drawn anew in a step, the paper's zeta; the rest is kept.
    schedule, num_steps
        As in `DiffusionSampler`.
    batch_size
        Chains that run at the same time.

    Raises
    ------
    TargetError
        For a target that is no posterior under a diffusion prior, a likelihood that is not linear,
        and noise of zero.
    """

    penalty: Float[Array, ""] = positive("penalty", default=8.0)
    renewed: Float[Array, ""] = share("renewed", default=1.0)
    schedule: Silent = schedule()
    num_steps: int = size("num_steps", default=100)
    batch_size: int = batch_size()  # pyright: ignore[reportIncompatibleVariableOverride]
    table: Table | None = None

    @property
    def solver(self) -> Silent:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The step of the module."""
        return Silent(Renoise(float(self.renewed)))

    def check(self, target: Energy) -> None:
        super().check(target)
        require_linear(target, "DiffPIR")

    def guide(self, problem: Problem) -> Guide:
        return ProximalGuide(problem, self.penalty)

    @property
    def evaluations_per_step(self) -> int:
        return 1
