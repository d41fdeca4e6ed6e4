"""EDICT: two copies of a point that step in turn, each with the noise at the other.

    x' = a x + b eps(y),   y' = a y + b eps(x')
    x'' = p x' + (1 - p) y',   y'' = p y' + (1 - p) x''

in variance-preserving coordinates, with a = alpha' / alpha, b = alpha' (kappa' - kappa), and both
noises taken at the level at the start of the step. Each line can be undone exactly, so that a draw
and its noise are one to one, up to rounding, which the mixing multiplies by 1 / p^2 a step on the
way back. Exact diffusion inversion via coupled transformations has the order of DDIM, one, and
costs two evaluations a step.

References
----------
.. [1] Wallace, Gokul and Naik, "EDICT: exact diffusion inversion via coupled transformations",
   CVPR 2023, arXiv:2211.12446. Equations 14 and 15.
"""

from dataclasses import dataclass

import numpy as np

from samplers.diffusion.solvers.solver import Solver, preserving
from samplers.diffusion.tables import Grid, Writer, noises


@dataclass(frozen=True)
class EDICT(Solver):
    """Exact diffusion inversion via coupled transformations."""

    p: float = 0.93

    def __post_init__(self) -> None:
        if not 0.5 < self.p <= 1:
            raise ValueError(f"p must lie in (0.5, 1]; got {self.p}")

    @property
    def evaluations_per_step(self) -> int:
        return 2

    @property
    def consistent(self) -> bool:
        # x' has the noise of the end of the step, and eps(x') is that of the start.
        return False

    def write(self, writer: Writer, grid: Grid) -> None:
        p, q = self.p, 1 - self.p
        alpha, scale = preserving(grid)
        for i in range(grid.num_steps):
            level, (a, b) = grid.at(i), _step(grid, alpha, i)
            # u = (y, x) to (x', y), then to (y'', x''); a register has the scale of the level it
            # is read at.
            here = scale[i]
            writer.add(level, [[0, a], [1, 0]], [[here * b], [0.0]], G=noises(level))
            # x'' = p x' + q (a y + b e) and y'' = p (a y + b e) + q x''.
            A = np.array([[q * p, (p + q * q) * a], [p, q * a]])
            B = np.array([[(p + q * q) * b], [q * b]])
            there = scale[i + 1]
            writer.add(level, there / here * A, there * B, G=noises(level), arrives=grid.at(i + 1))

    def write_back(self, writer: Writer, grid: Grid) -> None:
        """Rows from the data to the noise, which undo those of `write`; both copies are equal.

        The points that begin have the scale of the last level, and are read at the one before.
        """
        p, q = self.p, 1 - self.p
        alpha, scale = preserving(grid)
        for i in reversed(range(grid.num_steps)):
            level, (a, b) = grid.at(i), _step(grid, alpha, i)
            # u = (x', y') to (y, x'), then x = (x' - b e) / a.
            here, into = scale[i], scale[max(i - 1, 0)]
            B = [[-here * b / a], [0.0]]
            writer.add(level, [[0, 1 / a], [1, 0]], B, G=noises(level))
            # In y, x' and e:
            x, y = np.array([0.0, 1 / a, -b / a]), np.array([1.0, 0.0, 0.0])
            u = (y, x)
            if i > 0:  # and the mixing of the step before
                y = (y - q * x) / p
                u = ((x - q * y) / p, y)
            A, B = np.stack([row[:2] for row in u]), np.stack([row[2:] for row in u])
            writer.add(level, into / here * A, into * B, G=noises(level), arrives=level)


def _step(grid: Grid, alpha: np.ndarray, i: int) -> tuple[float, float]:
    step = grid.kappa[i + 1] - grid.kappa[i]
    return alpha[i + 1] / alpha[i], alpha[i + 1] * step
