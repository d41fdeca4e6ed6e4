"""Energy guidance: a reverse chain that follows the gradient of a reward. Biased.

    D := D + scale sigma_t^2 / alpha_t grad_x r(D(x_t)) / (1 + v_t)

which adds the score of the reward of the denoised value to that of the prior [1]_ and integrates
the sum. The law that comes out has no name: at no level but the last is exp(r(D)) what the draws
will be worth, and for scales other than one not even at the last. It is here for those who want
it, and for comparison; `samplers.TDS` with the same scale has these moves as its proposal and the
weights that make the draws those of the tilted prior. v_t softens the reward as in
`samplers.diffusion.steering.tds`.

References
----------
.. [1] Chung et al., "Diffusion posterior sampling for general noisy inverse problems", ICLR 2023,
   arXiv:2209.14687. Equations 9 to 11.
"""

from dataclasses import replace
from typing import Any, ClassVar

import equinox as eqx
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from ppl.energy import Energy, Position
from ppl.sampler import DirectSampler, Exactness, nonnegative, size
from samplers.diffusion.rules import Rule
from samplers.diffusion.sampler import DiffusionSampler, Silent
from samplers.diffusion.schedules import EDMSchedule
from samplers.diffusion.steering.sampler import ReverseSDE, check_reward, prior_of
from samplers.diffusion.steering.tds import Twisted, check_gradient
from samplers.diffusion.tables import Table


class Guided(Rule):
    """The denoised value, moved along the gradient of a softened reward."""

    twisted: Twisted
    scale: Float[Array, ""]

    def __call__(self, denoiser: Any, x: Array, row: Any, carry: PyTree) -> tuple[Array, PyTree]:
        denoised, twist = self.twisted(denoiser, x, row, carry)
        return denoised + self.scale.astype(x.dtype) * twist.shift, carry


class Guidance(DirectSampler):
    """Energy guidance: biased.

    Parameters
    ----------
    scale
        How far denoised values follow the gradient.
    softening
        Divides the reward by 1 + softening kappa^2 / (1 + kappa^2); 0: the reward as it is.
    solver
        Any, with noise or without; ``DPMSolverPP(tau=1.0)`` by default.
    schedule
        See `samplers.diffusion.schedules`.
    num_steps
        Steps of the solver.
    batch_size
        Chains that run at the same time.

    Raises
    ------
    TargetError
        For a target that is no reward on a diffusion prior, or a reward that is NaN or has no
        gradient.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"denoise", "log_likelihood"})
    exactness: ClassVar[Exactness] = "biased"

    scale: Float[Array, ""] = nonnegative("scale", default=1.0)
    softening: Float[Array, ""] = nonnegative("softening", default=1.0)
    solver: Silent = eqx.field(static=True, converter=Silent, default_factory=ReverseSDE)
    schedule: Silent = eqx.field(static=True, converter=Silent, default_factory=EDMSchedule)
    num_steps: int = size("num_steps", default=100)
    batch_size: int = size(  # pyright: ignore[reportIncompatibleVariableOverride]
        "batch_size", default=1024, kw_only=True
    )
    table: Table | None = None

    def check(self, target: Energy) -> None:
        name = type(self).__name__
        prior_of(target, name)
        check_reward(target, name)
        check_gradient(target, name)

    def resolve(self, target: Any) -> "Guidance":
        return replace(self, table=self._plain.on(target.prior.path).table)

    @property
    def _plain(self) -> DiffusionSampler:
        return DiffusionSampler(self.solver, self.schedule, self.num_steps, table=self.table)

    def draw(self, rng_key: PRNGKeyArray, target: Any, n: int) -> tuple[Position, None]:
        rule = Guided(Twisted(target, self.softening), self.scale)
        return replace(self._plain, rule=rule).draw(rng_key, target.prior, n)

    def evaluations(self, n: int) -> tuple[int, int]:
        calls = self._plain.evaluations(n)[1]
        return calls, calls
