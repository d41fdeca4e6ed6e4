"""From data to noise and back: the code of a point under a deterministic solver.

    code = encode(x),    decode(code) = x

`EDICT` and `BDIA` are undone exactly, up to rounding: what is decoded is the point again. DDIM run
backwards [1] is undone to first order only. The code is a pair of points at the highest level; an
edit of the prior, another condition say, between the two gives a point that is edited and else the
same.

References
----------
.. [1] Dhariwal and Nichol, "Diffusion models beat GANs on image synthesis", NeurIPS 2021,
   arXiv:2105.05233. Appendix F: DDIM backwards.
.. [2] Wallace, Gokul and Naik, "EDICT: exact diffusion inversion via coupled transformations",
   CVPR 2023, arXiv:2211.12446.
.. [3] Zhang, Lewis and Kleijn, "Exact diffusion inversion via bidirectional integration
   approximation", ECCV 2024, arXiv:2307.10829.
"""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import random
from jaxtyping import Array, Float

from ppl.energy import Position
from samplers.diffusion.integrate import integrate
from samplers.diffusion.paths import NoisePath
from samplers.diffusion.schedules import EDMSchedule, grid
from samplers.diffusion.solvers.bdia import BDIA
from samplers.diffusion.solvers.ddim import DDIM
from samplers.diffusion.solvers.edict import EDICT
from samplers.diffusion.solvers.solver import preserving
from samplers.diffusion.tables import Grid, Rows, Writer

LOST = 1e-4  # digits that float32 can lose on the way back


class Code(NamedTuple):
    """Registers of the solver at the highest level, leading axis: points."""

    registers: tuple[Float[Array, "n ..."], ...]


class Inversion(eqx.Module):
    """A solver that runs both ways.

    Parameters
    ----------
    prior
        The `DiffusionPrior`; its path and dtype decide the tables.
    solver
        `EDICT`, `BDIA`, or `DDIM` without noise, which is not exact.
    schedule, num_steps
        As in `DiffusionSampler`.

    Raises
    ------
    ValueError
        For other solvers, and where all digits would be lost on the way back.
    """

    forth: Rows
    back: Rows
    last_alpha: Any
    first_scale: Any
    is_pair: bool = eqx.field(static=True)

    def __init__(
        self, prior: Any, solver: Any = None, schedule: Any = None, num_steps: int = 50
    ) -> None:
        solver = EDICT() if solver is None else solver
        schedule = EDMSchedule() if schedule is None else schedule
        if not (isinstance(solver, EDICT | BDIA) or solver == DDIM()):
            raise ValueError(
                f"{solver!r} cannot be run backwards; take EDICT(), BDIA(), or DDIM() without noise"
            )
        kept = {EDICT: lambda s: s.p**2, BDIA: lambda s: s.gamma}.get(type(solver), lambda s: 1.0)
        left = kept(solver) ** num_steps
        if left < LOST and prior.point.dtype.itemsize < 8:
            raise ValueError(
                f"{solver!r} multiplies rounding errors by {1 / kept(solver):.3g} each step back, "
                f"{1 / left:.1g} in {num_steps} steps, which {prior.point.dtype.name} does not "
                "have; take gamma or p of 1, fewer steps, or float64"
            )
        levels = grid(prior.path, schedule, num_steps)
        forth, back = Writer(), Writer()
        solver.write(forth, levels)
        if isinstance(solver, DDIM):
            solver.write(back, _reversed(prior.path, levels.level.t))
        else:
            solver.write_back(back, levels)
        self.forth, self.back = forth.table(levels.at(0)).rows, back.table(levels.at(-1)).rows
        self.is_pair = isinstance(solver, BDIA)
        if self.is_pair:
            # The code holds the first two points: the step from the first to the second is done.
            self.forth = jax.tree.map(lambda x: x[1:], self.forth)
        # Where the first row back reads its points: EDICT's at the level before the last.
        at = -2 if isinstance(solver, EDICT) else -1
        _, scale = preserving(levels)
        self.last_alpha, self.first_scale = levels.alpha[-1], scale[at] / scale[-1]

    def encode(self, prior: Any, positions: Position) -> Code:
        """The code of each position (leading axis)."""
        y = jax.vmap(prior.flat)(positions) - prior.center
        x = jnp.asarray(self.last_alpha * self.first_scale, y.dtype) * y
        return Code(integrate(random.key(0), prior.denoised, x, self.back)[0].registers)

    def decode(self, prior: Any, code: Code) -> Position:
        """The position of each code."""
        registers = code.registers[::-1] if self.is_pair else code.registers
        state = integrate(random.key(0), prior.denoised, registers, self.forth)[0]
        y = state.x / jnp.asarray(self.last_alpha, state.x.dtype)
        return jax.vmap(prior.position)(prior.center + y)


def _reversed(path: NoisePath, t: Any) -> Any:
    return Grid(path, t[::-1])
