"""DEIS and iPNDM: polynomials through the noises of the last levels, integrated exactly.

    x' = alpha' / alpha x + alpha' sum_j eps_(i-j) int_kappa^kappa' l_j dkappa

with kappa = sigma / alpha and l_j the Lagrange polynomials of the last levels: in the path's time t
(tAB), or in kappa (rhoAB). iPNDM takes the weights of equal steps,
(3, -1) / 2, (23, -16, 5) / 12, (55, -59, 37, -9) / 24, times the step of kappa, on any grid: its
order is two at most, and with few steps it is often the best of all.

References
----------
.. [1] Zhang and Chen, "Fast sampling of diffusion models with exponential integrator", ICLR 2023,
   arXiv:2204.13902. Equations 15 and 22; iPNDM in appendix H.
.. [2] Liu et al., "Pseudo numerical methods for diffusion models on manifolds", ICLR 2022,
   arXiv:2202.09778. PNDM.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from samplers.diffusion import lagrange
from samplers.diffusion.solvers.multistep import predict_noise, recent
from samplers.diffusion.solvers.solver import Solver, one_of
from samplers.diffusion.tables import Grid, Writer

ADAMS_BASHFORTH = (
    np.array([1.0]),
    np.array([3.0, -1.0]) / 2,
    np.array([23.0, -16.0, 5.0]) / 12,
    np.array([55.0, -59.0, 37.0, -9.0]) / 24,
)


@dataclass(frozen=True)
class DEIS(Solver):
    """Diffusion exponential integrator sampler.

    Parameters
    ----------
    order
        Noises that the polynomial goes through, 1 to 4.
    in_time
        Whether it is a polynomial in the path's time (tAB) or in kappa (rhoAB).

    Differences from the paper
    --------------------------
    The paper counts the degree of the polynomial: its tAB3 is order 4 here.
    """

    order: int = 4
    in_time: bool = True

    def __post_init__(self) -> None:
        one_of("order", self.order, (1, 2, 3, 4))

    @property
    def fewest_steps(self) -> int:
        return self.order

    def write(self, writer: Writer, grid: Grid) -> None:
        lam = grid.log_snr
        in_kappa = lambda u: np.exp(-u)
        variable: Any = grid.path.time if self.in_time else in_kappa

        def weights(i: int) -> np.ndarray:
            nodes = recent(lam, i, self.order)
            return -grid.sigma[i + 1] * lagrange.of_noise(lam[i], lam[i + 1], nodes, variable)

        predict_noise(writer, grid, weights)


@dataclass(frozen=True)
class IPNDM(Solver):
    """Improved pseudo numerical method (iPNDM): Adams-Bashforth weights on any grid."""

    order: int = 4

    def __post_init__(self) -> None:
        one_of("order", self.order, (1, 2, 3, 4))

    @property
    def fewest_steps(self) -> int:
        return self.order

    def write(self, writer: Writer, grid: Grid) -> None:
        steps = grid.alpha[1:] * np.diff(grid.kappa)
        predict_noise(writer, grid, lambda i: steps[i] * ADAMS_BASHFORTH[min(i, self.order - 1)])
