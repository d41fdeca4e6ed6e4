"""Restart: noise in large steps up, and the flow down again, a few times.

    Heun's method down to kappa_min;   then num_repeats times
    y := y + sqrt(kappa_max^2 - kappa_min^2) z,   Heun's method from kappa_max to kappa_min

The noise that is added contracts the error that the steps before have left, and the flow, being
deterministic, adds little of its own. Second order in the steps of the main
way down; the error of the intervals' own steps stays. The marginals are kept.

References
----------
.. [1] Xu et al., "Restart sampling for improving generative processes", NeurIPS 2023,
   arXiv:2306.14878. Algorithms 1 and 2; table 6 for the intervals.
"""

from dataclasses import dataclass

import numpy as np

from samplers.diffusion.paths import Level
from samplers.diffusion.solvers.edm import heun_step
from samplers.diffusion.solvers.solver import Solver
from samplers.diffusion.tables import Grid, Writer


@dataclass(frozen=True)
class Restart(Solver):
    """Restart sampling on Heun's method.

    Parameters
    ----------
    intervals
        ``(num_levels, num_repeats, kappa_min, kappa_max)`` each: the levels of one way down, both
        ends included. The default is the paper's for unconditional CIFAR-10.
    noise
        Factor of the noise; other than 1 it is a correction for networks that remove too much.

    Differences from the paper
    --------------------------
    An interval ends at the level of the grid that is nearest to its ``kappa_min``, as in the
    paper's code.
    """

    intervals: tuple[tuple[int, int, float, float], ...] = ((3, 2, 0.14, 0.30),)
    noise: float = 1.0

    @property
    def evaluations_per_step(self) -> int:
        return 2

    @property
    def consistent(self) -> bool:
        return self.noise == 1

    def write(self, writer: Writer, grid: Grid) -> None:
        # What happens at each level before the walk goes on.
        returns: dict[int, list[list[Level]]] = {}
        for num_levels, num_repeats, low, high in self.intervals:
            at = int(np.argmin(np.abs(np.log(grid.kappa[1:] / low)))) + 1
            if not grid.kappa[at] < high <= grid.kappa[0] or num_levels < 2 or num_repeats < 1:
                raise ValueError(
                    f"Restart: the interval ({num_levels}, {num_repeats}, {low}, {high}) must have "
                    "2 levels, 1 repeat, and lie inside the schedule, whose nearest levels are "
                    f"kappa = {grid.kappa[at]:.4g} and {grid.kappa[0]:.4g}"
                )
            powers = np.linspace(high ** (1 / 7), grid.kappa[at] ** (1 / 7), num_levels)
            down = [grid.between(-np.log(kappa)) for kappa in powers[:-1] ** 7]
            returns.setdefault(at, []).extend([[*down, grid.at(at)]] * num_repeats)

        for i in range(grid.num_steps):
            ways = [[grid.at(i), grid.at(i + 1)], *returns.get(i + 1, [])]
            for way, after in zip(ways, [*ways[1:], None], strict=True):
                for k in range(len(way) - 1):
                    jumps = after is not None and k == len(way) - 2
                    arrives = after[0] if after is not None and jumps else way[k + 1]
                    heun_step(writer, way[k], way[k + 1], arrives, self.noise)
