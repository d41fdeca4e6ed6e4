"""Pseudoinverse-guided diffusion (PiGDM): the data seen through an isotropic spread of the draw.

    p(x_0 | z) ~ N(D, r^2 I),     r^2 = kappa^2 v / (kappa^2 + v)
    g = J' A' (r^2 A A' + noise_std^2)^-1 (y - A D),     D' = D + kappa^2 g

J is the derivative of D, whose transpose costs as much as a second call of the denoiser; D' is the
denoised value of the conditional score, and any solver takes it. It needs a linear observation.
Biased: given z a draw spreads along what the prior leaves open, not the same in all directions,
and r^2 is that of white data of variance v. Where the prior is smoother the spread comes out too
large. `TMPD` asks the denoiser for the covariance instead.

Differences from the paper
--------------------------
The paper multiplies its gradient by r^2 in the step of DDIM; here it enters as the score that it
is, with kappa^2, so that the rule does not depend on the solver.

References
----------
.. [1] Song, Vahdat, Mardani and Kautz, "Pseudoinverse-guided diffusion models for inverse
   problems", ICLR 2023, https://openreview.net/forum?id=9_gsMA8MRKQ.
"""

from collections.abc import Callable

import jax
from jaxtyping import Array, Float

from ppl.energy import Energy
from ppl.sampler import positive, size
from samplers.diffusion.inverse.guided import Guide, Guided, Step, batch_size, schedule, solver
from samplers.diffusion.inverse.problem import Problem, require_linear
from samplers.diffusion.sampler import Silent
from samplers.diffusion.tables import Table


class PseudoInverseGuide(Guide):
    """D' of the module."""

    data_variance: Float[Array, ""]

    def guided(self, denoise: Callable[[Array], Array], z: Array, step: Step) -> Array:
        denoised, pull = jax.vjp(denoise, z)
        v, variance = self.data_variance.astype(z.dtype), step.kappa**2
        spread = variance * v / (variance + v)
        problem = self.problem
        pulled = problem.likelihood.pulled(problem.position(denoised), spread)
        return denoised + variance * pull(problem.prior.flat(pulled))[0]


class PiGDM(Guided):
    """Pseudoinverse-guided diffusion: biased, for linear observations.

    Parameters
    ----------
    solver, schedule, num_steps
        As in `DiffusionSampler`.
    data_variance
        Variance v of the entries of the data, for the spread r^2.
    batch_size
        Chains that run at the same time.

    Raises
    ------
    TargetError
        For a target that is no posterior under a diffusion prior, a likelihood that is not linear,
        and noise of zero.
    """

    solver: Silent = solver()
    schedule: Silent = schedule()
    num_steps: int = size("num_steps", default=200)
    data_variance: Float[Array, ""] = positive("data_variance", default=1.0)
    batch_size: int = batch_size()  # pyright: ignore[reportIncompatibleVariableOverride]
    table: Table | None = None

    def check(self, target: Energy) -> None:
        super().check(target)
        require_linear(target, "PiGDM")

    def guide(self, problem: Problem) -> Guide:
        return PseudoInverseGuide(problem, self.data_variance)

    @property
    def evaluations_per_step(self) -> int:
        return 2
