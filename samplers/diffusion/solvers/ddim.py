"""DDIM and DDPM: one step at a time, with more or less noise.

    x' = alpha' (r x / alpha + (1 - r) D + sqrt(kappa'^2 - kappa^2 r^2) z)

    r = kappa' / kappa                                           DDIM: Euler's method in kappa
    r = (kappa' / kappa)^2                                       DDPM: the posterior variance
    r = kappa' / kappa sqrt(1 - eta^2 (1 - (kappa' / kappa)^2))  DDIM with eta times that noise

First order; DDPM is the first-order discretization of the reverse diffusion, and for any r the
marginal of each level is right where the denoised value does not change.

References
----------
.. [1] Song, Meng and Ermon, "Denoising diffusion implicit models", ICLR 2021, arXiv:2010.02502.
   Equations 12 and 16.
.. [2] Ho, Jain and Abbeel, "Denoising diffusion probabilistic models", NeurIPS 2020,
   arXiv:2006.11239. Algorithm 2.
"""

from dataclasses import dataclass

import numpy as np

from samplers.diffusion.solvers.solver import Solver
from samplers.diffusion.tables import Grid, Writer


@dataclass(frozen=True)
class DDIM(Solver):
    """Denoising diffusion implicit models, with ``eta`` times DDPM's noise."""

    eta: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.eta <= 1:
            raise ValueError(f"eta must lie in [0, 1]: DDIM to DDPM; got {self.eta}")

    def write(self, writer: Writer, grid: Grid) -> None:
        shrink = grid.kappa[1:] / grid.kappa[:-1]
        contract(writer, grid, shrink * np.sqrt(1 - self.eta**2 * (1 - shrink**2)))


@dataclass(frozen=True)
class DDPM(Solver):
    """Denoising diffusion probabilistic models: ancestral sampling."""

    def write(self, writer: Writer, grid: Grid) -> None:
        contract(writer, grid, (grid.kappa[1:] / grid.kappa[:-1]) ** 2)


def contract(writer: Writer, grid: Grid, r: np.ndarray) -> None:
    """Rows of the first-order step with contraction r, one number a step."""
    variance = grid.kappa[1:] ** 2 - (grid.kappa[:-1] * r) ** 2
    S = grid.alpha[1:] * np.sqrt(np.where(variance > 1e-14 * grid.kappa[1:] ** 2, variance, 0.0))
    for i in range(grid.num_steps):
        A, B = grid.alpha[i + 1] / grid.alpha[i] * r[i], grid.alpha[i + 1] * (1 - r[i])
        writer.add(grid.at(i), A, [B], S[i], arrives=grid.at(i + 1))
