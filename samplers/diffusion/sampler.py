"""Sampling a diffusion prior by a solver of its reverse equation.

    x_N ~ sigma_N eps,    x_(i-1) = one step of a solver,    D at the last level is the draw

`DiffusionSampler` is any published solver on any schedule: the solver writes a table of rows on the
host in float64, one scan runs it, one call of the denoiser a row (see `samplers.diffusion.tables`,
and `samplers.solvers` for the list). The draws are biased: by the solver's error, which falls with
the number of steps by the order it claims; by the noise that the path begins and ends with; and by
the denoiser.

References
----------
.. [1] Song et al., "Score-based generative modeling through stochastic differential equations",
   ICLR 2021, arXiv:2011.13456. The reverse equation and the probability flow.
.. [2] Karras et al., "Elucidating the design space of diffusion-based generative models", NeurIPS
   2022, arXiv:2206.00364. Solvers, schedules and networks apart.
"""

from dataclasses import replace
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import random
from jaxtyping import Array, Float, PRNGKeyArray

from ppl.energy import Energy, Position, TargetError
from ppl.sampler import DirectSampler, Exactness, positive, size
from samplers.diffusion.integrate import integrate
from samplers.diffusion.paths import NoisePath
from samplers.diffusion.picard import picard
from samplers.diffusion.prior import DiffusionPrior
from samplers.diffusion.rules import Plain, Rule
from samplers.diffusion.schedules import EDMSchedule
from samplers.diffusion.solvers.dpm_pp import DPMSolverPP
from samplers.diffusion.tables import Table


class Silent:
    """Something that compiled code never looks at: any two are equal, so none compiles anew."""

    def __init__(self, value: Any) -> None:
        self.value = value.value if isinstance(value, Silent) else value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Silent)

    def __hash__(self) -> int:
        return hash(Silent)

    def __repr__(self) -> str:
        return repr(self.value)


class DiffusionSampler(DirectSampler):
    """Draws of a diffusion prior by a solver of its reverse equation: biased.

    Parameters
    ----------
    solver
        Such as `DDIM` or `DPMSolverPP`: see `samplers.solvers`.
    schedule
        Where it stops: see `samplers.diffusion.schedules`. A function ``(path, number of levels)
        -> times``, or the times.
    num_steps
        Steps; what each costs in calls of the denoiser, the solver says.
    rule
        What is done to each denoised value: see `samplers.diffusion.rules`.
    denoise_last
        Whether the last step is to no noise at all, its result the denoised value itself.
    window
        Rows that run at the same time, by Picard iteration (see `samplers.diffusion.picard`); None:
        one after the other.
    tolerance
        Of that iteration, in units of the noise of a level.
    remat
        Recompute instead of remembering when a gradient is taken through a draw.
    batch_size
        Draws that are made at the same time; a run makes whole batches of them. For a few draws
        from a large network write their number here.

    Raises
    ------
    ValueError
        Before compilation: for too few steps, and for a schedule that is none on the path.
    TargetError
        For a target that is no diffusion prior.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"denoise"})
    exactness: ClassVar[Exactness] = "biased"

    solver: Silent = eqx.field(static=True, converter=Silent, default_factory=DPMSolverPP)
    schedule: Silent = eqx.field(static=True, converter=Silent, default_factory=EDMSchedule)
    num_steps: int = size("num_steps", default=32)
    rule: Rule = eqx.field(default_factory=Plain)
    denoise_last: bool = eqx.field(static=True, default=True)
    window: int | None = eqx.field(static=True, default=None)
    tolerance: Float[Array, ""] = positive("tolerance", default=1e-4)
    remat: bool = eqx.field(static=True, default=False)
    batch_size: int = size(  # pyright: ignore[reportIncompatibleVariableOverride]
        "batch_size", default=1024, kw_only=True
    )
    table: Table | None = None

    def check(self, target: Energy) -> None:
        if not isinstance(target, DiffusionPrior):
            raise TargetError(
                "DiffusionSampler draws from a DiffusionPrior; this target is a "
                f"{type(target).__name__}. A denoiser makes one, "
                "samplers.DiffusionPrior(samplers.EDM(), target.denoise, target.template); a "
                "posterior or a tilted prior needs a sampler that steers"
            )

    def resolve(self, target: Any) -> "DiffusionSampler":
        return self.on(target.path)

    def on(self, path: NoisePath) -> "DiffusionSampler":
        """The same with its table written."""
        table = self.solver.value.table(
            path, self.schedule.value, self.num_steps, denoise_last=self.denoise_last
        )
        if table.rows.S.shape[2]:
            path.require_gaussian(self.solver, "take a deterministic solver")
        return replace(self, table=table)

    def draw(self, rng_key: PRNGKeyArray, target: Any, n: int) -> tuple[Position, None]:
        assert self.table is not None, "resolve(target) first, as ppl.sample does"
        key_start, key_steps = random.split(rng_key)
        grid, rows = self.table
        noise = target.noise(key_start, n)
        x = jnp.asarray(grid.sigma[0], noise.dtype) * noise
        if self.window is None:
            state, _, _ = integrate(
                key_steps, target.denoised, x, rows, rule=self.rule, remat=self.remat
            )
        else:
            state, _ = picard(
                key_steps, target.denoised, x, rows,
                window=self.window, tolerance=self.tolerance, rule=self.rule,
            )  # fmt: skip
        y = target.center + state.x / jnp.asarray(grid.alpha[-1], noise.dtype)
        return jax.vmap(target.position)(y), None

    def evaluations(self, n: int) -> tuple[int, int]:
        # A denoiser is a score: it costs what a gradient costs.
        assert self.table is not None, "resolve(target) first, as ppl.sample does"
        return (0, n * len(self.table.rows.F))
