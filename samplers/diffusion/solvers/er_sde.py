"""ER-SDE: extended reverse-time equations, where a function of the noise level sets the noise.

    y' = phi' / phi y + phi' int_kappa'^kappa D(u) phi_u(u) / phi(u)^2 du
         + sqrt(kappa'^2 - kappa^2 (phi' / phi)^2) z,      y = x / alpha,  phi' = phi(kappa')

phi(k) = k is the probability flow (DDIM), phi(k) = k^2 the reverse diffusion (DDPM); in between and
beyond lies everything with k phi_u / phi >= 1. D is the polynomial in kappa through the last
values. Without noise the order is their number.

References
----------
.. [1] Cui et al., "Elucidating the solution space of extended reverse-time SDE for diffusion
   models", 2023, arXiv:2309.06169. Algorithms 1 to 3 and table 1.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from samplers.diffusion import lagrange
from samplers.diffusion.solvers.multistep import predict_and_correct, recent
from samplers.diffusion.solvers.solver import Solver, one_of
from samplers.diffusion.tables import Grid, Writer


def phi_5(kappa: Any) -> Any:
    """The paper's choice, "SDE 5": ``kappa (exp(kappa^0.3) + 10)``."""
    return kappa * (np.exp(kappa**0.3) + 10)


@dataclass(frozen=True)
class ERSDE(Solver):
    """Extended reverse-time SDE solver (ER-SDE).

    Parameters
    ----------
    order
        Values that the polynomial goes through: 1, 2 or 3.
    phi
        The function above, of NumPy arrays.
    published
        Take the derivatives that the paper takes.

    Raises
    ------
    ValueError
        Where phi asks for less noise than none.

    Differences from the paper
    --------------------------
    The paper puts the backward difference for the first derivative, which is of first order, also
    where it takes a second one along: its order 3 is a method of order 2. Here the polynomial goes
    through all values, and its integral is exact; the paper's code sums 100 rectangles.
    """

    order: int = 3
    phi: Callable[[Any], Any] = phi_5
    published: bool = False

    def __post_init__(self) -> None:
        one_of("order", self.order, (1, 2, 3))

    @property
    def fewest_steps(self) -> int:
        return self.order

    def write(self, writer: Writer, grid: Grid) -> None:
        kappa = grid.kappa
        r = self.phi(kappa[1:]) / self.phi(kappa[:-1])
        variance = kappa[1:] ** 2 - (kappa[:-1] * r) ** 2
        if np.any(variance < -1e-9 * kappa[1:] ** 2):
            at = int(np.argmin(variance))
            raise ValueError(
                "ERSDE: phi must grow at least as fast as kappa; between kappa = "
                f"{kappa[at]:.4g} and {kappa[at + 1]:.4g} it falls by the factor {r[at]:.4g} only"
            )
        S = grid.alpha[1:] * np.sqrt(np.where(variance > 1e-12 * kappa[1:] ** 2, variance, 0.0))
        A = grid.alpha[1:] / grid.alpha[:-1] * r
        predictor = [
            grid.alpha[i + 1] * self._weights(kappa, i, r[i]) for i in range(grid.num_steps)
        ]
        predict_and_correct(writer, grid, A, predictor, None, S)

    def _weights(self, kappa: np.ndarray, i: int, r: float) -> np.ndarray:
        # By parts: phi' int g phi_u / phi^2 = g(kappa') - r g(kappa) + phi' int g_u / phi.
        here, there, nodes = kappa[i], kappa[i + 1], recent(kappa, i, self.order)
        weights = np.zeros(len(nodes))
        weights[0] = 1 - r
        for power in range(1, len(nodes)):
            tail = lagrange.integrals(
                there, here, [0.0],
                lambda u: self.phi(there) / self.phi(u) * (u - here) ** (power - 1),  # noqa: B023
            )[0]  # fmt: skip
            moment = (there - here) ** power / power + tail
            weights += power * moment * _coefficients(nodes, power, published=self.published)
        return weights


def _coefficients(nodes: np.ndarray, power: int, *, published: bool) -> np.ndarray:
    """Weights of the values in the coefficient of ``(u - nodes[0])^power`` of their polynomial."""
    if not published:
        return np.linalg.inv(np.vander(nodes - nodes[0], increasing=True))[power]
    weights = np.zeros(len(nodes))
    if power == 1:
        weights[:2] = np.array([1.0, -1.0]) / (nodes[0] - nodes[1])
    else:
        new, old = nodes[0] - nodes[1], nodes[1] - nodes[2]
        weights[:] = np.array([1 / new, -1 / new - 1 / old, 1 / old]) / (nodes[0] - nodes[2])
    return weights
