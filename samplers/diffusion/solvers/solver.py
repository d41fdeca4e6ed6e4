"""What a solver of the reverse equations is: a pure rule that writes a table, in float64."""

from abc import abstractmethod
from dataclasses import dataclass

import numpy as np

from samplers.diffusion.paths import Level, NoisePath
from samplers.diffusion.schedules import Schedule, grid
from samplers.diffusion.tables import Grid, Table, Writer, check

SHORT = 10  # steps below which the last ones lower their order, as published code has it
CLEAN = Level(0.0, 1.0, 0.0, 0.0, 0.0)


@dataclass(frozen=True)
class Solver:
    """Contract of a solver: `write` its rows on a grid."""

    @property
    def evaluations_per_step(self) -> int:
        """Calls of the denoiser in a step."""
        return 1

    @property
    def consistent(self) -> bool:
        """Whether its table carries a point mass and pure noise exactly, which is asserted."""
        return True

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
        if denoise_last:
            writer.add(levels.at(-1), 0.0, [1.0], arrives=CLEAN)
        table = writer.table(levels.at(0))
        if self.consistent:
            check(table, name)
        return table


def final_order(order: int, i: int, num_steps: int, lower: bool | None) -> int:  # noqa: FBT001
    """Order of step i: what the history allows, and less toward the end of a short run."""
    lower = num_steps < SHORT if lower is None else lower
    return min(order, i + 1, num_steps - i) if lower else min(order, i + 1)


def preserving(grid: Grid) -> tuple[np.ndarray, np.ndarray]:
    """Alpha of the grid in variance-preserving coordinates, and the scale from these to x."""
    alpha = 1 / np.sqrt(1 + grid.kappa**2)
    return alpha, grid.alpha / alpha


def one_of(name: str, value: object, known: tuple[int, ...]) -> None:
    """Refuse other numbers."""
    if value not in known or isinstance(value, bool):
        listed = ", ".join(map(str, known))
        raise ValueError(f"{name} must be one of {listed}; got {value!r}")


def not_negative(name: str, value: float) -> None:
    """Refuse what is negative, or not a number."""
    if isinstance(value, bool | str) or not value >= 0:
        raise ValueError(f"{name} must not be negative; got {value!r}")
