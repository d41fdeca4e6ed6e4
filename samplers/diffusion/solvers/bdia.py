"""BDIA: bi-directional integration, a leapfrog through the levels.

    x_(i+1) = g x_(i-1) + (1 - g) x_i - g d(i, i-1) + d(i, i+1)
    d(i, j) = (alpha_j / alpha_i - 1) x_i + alpha_j (kappa_j - kappa_i) eps(x_i)

in variance-preserving coordinates: from the point before, back and forth by steps d of DDIM from
the present one. It is linear in x_(i-1), so that it can be undone exactly. Bi-directional
integration approximation has order two for g = 1 and one evaluation a step. Going back divides
errors by g each step: g below one loses all digits in long runs.

References
----------
.. [1] Zhang, Lewis and Kleijn, "Exact diffusion inversion via bidirectional integration
   approximation", ECCV 2024, arXiv:2307.10829. Equations 17 and 18.
"""

from dataclasses import dataclass

import numpy as np

from samplers.diffusion.solvers.solver import Solver, preserving
from samplers.diffusion.tables import Grid, Writer, noises


@dataclass(frozen=True)
class BDIA(Solver):
    """Bi-directional integration approximation.

    Parameters
    ----------
    gamma
        The g above; the paper takes 0.5 in runs of 10 steps, 1 in longer ones.
    """

    gamma: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.gamma <= 1:
            raise ValueError(f"gamma must lie in (0, 1]; got {self.gamma}")

    @property
    def fewest_steps(self) -> int:
        return 2

    def write(self, writer: Writer, grid: Grid) -> None:
        alpha, scale = preserving(grid)
        for i in range(grid.num_steps):
            if i == 0:  # a step of DDIM; u_1 is the point before from here on
                ddim(writer, grid, 0, 1)
                continue
            level, (through, noise) = grid.at(i), self._coefficients(grid, alpha, i)
            to = scale[i + 1]
            A = [[to / scale[i] * through, to / scale[i - 1] * self.gamma], [1, 0]]
            writer.add(level, A, [[to * noise], [0.0]], G=noises(level), arrives=grid.at(i + 1))

    def write_back(self, writer: Writer, grid: Grid) -> None:
        """Rows from the data to the noise: one of DDIM, then those that undo `write`."""
        (alpha, scale), g = preserving(grid), self.gamma
        ddim(writer, grid, grid.num_steps, grid.num_steps - 1)
        for i in reversed(range(1, grid.num_steps)):
            # u = (x_i, x_(i+1)) to (x_(i-1), x_i).
            level, (through, noise) = grid.at(i), self._coefficients(grid, alpha, i)
            to = scale[i - 1]
            A = [[-to / scale[i] * through / g, to / scale[i + 1] / g], [1, 0]]
            B = [[-to * noise / g], [0.0]]
            writer.add(level, A, B, G=noises(level), arrives=grid.at(i - 1))

    def _coefficients(self, grid: Grid, alpha: np.ndarray, i: int) -> tuple[float, float]:
        """Those of x_i and of its noise in x_(i+1), without the one of x_(i-1), which is gamma."""
        g, kappa = self.gamma, grid.kappa
        through = (1 - g) + (alpha[i + 1] / alpha[i] - 1) - g * (alpha[i - 1] / alpha[i] - 1)
        forth = alpha[i + 1] * (kappa[i + 1] - kappa[i])
        back = alpha[i - 1] * (kappa[i - 1] - kappa[i])
        return through, forth - g * back


def ddim(writer: Writer, grid: Grid, i: int, j: int) -> None:
    """A step of DDIM from level i to j, either way; u_1 becomes the point it starts from."""
    level, to = grid.at(i), grid.alpha[j]
    A = [[to / grid.alpha[i], 0], [1, 0]]
    B = [[to * (grid.kappa[j] - grid.kappa[i])], [0.0]]
    writer.add(level, A, B, G=noises(level), arrives=grid.at(j))
