"""What a solver of the reverse equations is: a pure rule that writes a table, in float64."""

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from samplers.diffusion.paths import Level, NoisePath
from samplers.diffusion.schedules import Schedule, grid
from samplers.diffusion.tables import Grid, Rows, Table, Writer, check


@dataclass(frozen=True)
class Solver:
    """Contract of a solver: `write` its rows on a grid.

    Attributes
    ----------
    evaluations_per_step
        Calls of the denoiser.
    consistent
        Whether its table carries a point mass and pure noise exactly, which is then asserted.
    """

    evaluations_per_step: ClassVar[int] = 1
    consistent: ClassVar[bool] = True

    @abstractmethod
    def write(self, writer: Writer, grid: Grid) -> None:
        """Add the rows of all steps of the grid."""

    @property
    def fewest_steps(self) -> int:
        """Steps below which the method is not itself."""
        return 1

    def table(
        self, path: NoisePath, schedule: Schedule, num_steps: int, *, denoise_last: bool = True
    ) -> Table:
        """The table of ``num_steps`` steps, checked.

        ``denoise_last`` makes the last of them the denoised value itself, a step to no noise at
        all; without it the run ends at the path's ``t_min``, with the noise of that level.

        Raises
        ------
        ValueError
            For fewer steps than the method needs, and for a schedule that is none on this path.
        """
        name = type(self).__name__
        fewest = self.fewest_steps + denoise_last
        if num_steps < fewest:
            cost = fewest * self.evaluations_per_step
            raise ValueError(
                f"{name} needs at least {fewest} steps ({cost} evaluations of the denoiser); got "
                f"num_steps={num_steps}. Take more, or a solver of lower order such as "
                "samplers.DDIM()"
            )
        levels = grid(path, schedule, num_steps - denoise_last)
        writer = Writer()
        self.write(writer, levels)
        grid_levels = levels.level
        if denoise_last:
            writer.add(levels.at(-1), 0.0, [1.0], arrives=num_steps)
            clean = Level(0.0, 1.0, 0.0, 0.0, 0.0)
            grid_levels = Level(*(np.append(a, b) for a, b in zip(grid_levels, clean, strict=True)))
        table = Table(grid_levels, writer.stack())
        if self.consistent:
            check(table, name)
        return table


def rows(solver: Solver, levels: Grid) -> Rows:
    """The rows of a solver on a grid, as they are."""
    writer = Writer()
    solver.write(writer, levels)
    return writer.stack()
