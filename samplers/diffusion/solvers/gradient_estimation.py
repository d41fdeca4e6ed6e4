"""Gradient estimation: denoising as descent on the distance to the data, with a better gradient.

    x' = alpha' / alpha x + alpha' (kappa' - kappa) (gamma eps_i + (1 - gamma) eps_(i-1))

DDIM is gradient descent on half the squared distance to the data, whose gradient the noise
estimates. Two estimates together are better than the last one alone: gamma = 2 halves the error
where steps are few. gamma = 1 is DDIM, gamma = 3/2 the Adams-Bashforth method of order 2 on equal
steps; any other has order 1.

References
----------
.. [1] Permenter and Yuan, "Interpreting and improving diffusion models from an optimization
   perspective", ICML 2024, arXiv:2306.04848. Algorithm 2.
"""

from dataclasses import dataclass

import numpy as np

from samplers.diffusion.solvers.multistep import predict_noise
from samplers.diffusion.solvers.solver import Solver
from samplers.diffusion.tables import Grid, Writer


@dataclass(frozen=True)
class GradientEstimation(Solver):
    """DDIM with gradient estimation."""

    gamma: float = 2.0

    def write(self, writer: Writer, grid: Grid) -> None:
        steps = grid.alpha[1:] * np.diff(grid.kappa)
        mix = np.array([self.gamma, 1 - self.gamma])
        predict_noise(writer, grid, lambda i: steps[i] * (mix if i else np.ones(1)))
