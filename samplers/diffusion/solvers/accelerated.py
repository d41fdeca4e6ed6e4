"""Accelerated DDIM: second order from one more score, at the level before.

In variance-preserving coordinates, with a = (alpha_i / alpha_(i+1))^2 of this step, b of the one
before, and s_i the score at level i,

    v = sqrt(b) (x - (1 - b) / 2 s_i(x))                              one step back, to level i - 1
    x' = (x + (1 - a) / 2 s_i(x) + (1 - a)^2 / (4 (1 - b)) (s_i(x) - sqrt(b) s_(i-1)(v))) / sqrt(a)

The first step is plain. It was made for a proof: its error in total variation falls as 1 / T^2 for
T steps, where that of the plain rule falls as 1 / T. With two evaluations a step it is dominated by
multistep methods in practice. All other paths are brought to variance-preserving coordinates.

References
----------
.. [1] Li et al., "Accelerating convergence of score-based diffusion models, provably", ICML 2024,
   arXiv:2403.03852. Equation 9.
"""

from dataclasses import dataclass

import numpy as np

from samplers.diffusion.solvers.solver import Solver, preserving
from samplers.diffusion.tables import Grid, Writer, noises


@dataclass(frozen=True)
class AcceleratedDDIM(Solver):
    """Accelerated deterministic sampler."""

    @property
    def evaluations_per_step(self) -> int:
        return 2

    @property
    def consistent(self) -> bool:
        # It discretizes time itself, so that even pure noise is exact to order 2 only.
        return False

    def write(self, writer: Writer, grid: Grid) -> None:
        alpha, scale = preserving(grid)
        sigma = grid.kappa * alpha
        a = (alpha[:-1] / alpha[1:]) ** 2

        def score(i: int) -> tuple[float, float]:
            """G of the score at level i, in variance-preserving coordinates."""
            direct, through = noises(grid.at(i))
            return -direct / sigma[i], -through / sigma[i]

        for i in range(grid.num_steps):
            end, gain = grid.at(i + 1), scale[i + 1] / np.sqrt(a[i])
            if i == 0:
                B = [gain * (1 - a[0]) / 2]
                writer.add(grid.at(0), gain / scale[0], B, G=score(0), arrives=end)
                continue
            b = a[i - 1]
            back = scale[i - 1] * np.sqrt(b)
            A = [[back / scale[i], 0], [1, 0]]
            writer.add(grid.at(i), A, [[-back * (1 - b) / 2], [0.0]], G=score(i))
            extra = (1 - a[i]) ** 2 / (4 * (1 - b))
            B = [gain * -extra * np.sqrt(b), gain * ((1 - a[i]) / 2 + extra)]
            A = [[0, gain / scale[i]], [0, 1]]
            writer.add(grid.at(i - 1), A, [B, [0.0, 0.0]], G=score(i - 1), arrives=end)
