"""UniPC: a predictor and a corrector of one form, with no call of the denoiser for the second.

    x' = sigma' / sigma x - alpha' psi_1 D_i - alpha' B sum_k rho_k (D_(k) - D_i) / r_k

with hh = -h, h the step of lambda, psi_1 = e^hh - 1, psi_(k+1) = psi_k / hh - 1 / k!, nodes at
lambda + r_k h, and rho the solution of

    sum_k r_k^(m-1) rho_k = m! psi_(m+1) / B,     m = 1, 2, ..

The predictor (UniP) has the nodes of the history, r_k < 0; the corrector (UniC) adds the new one,
r = 1. With B = hh (bh1) or e^hh - 1 (bh2) and rho = 1/2 where there is one node only. UniPC-p has
order p + 1; UniP-2 with bh2 is DPM-Solver++ 2M.

References
----------
.. [1] Zhao et al., "UniPC: a unified predictor-corrector framework for fast sampling of diffusion
   models", NeurIPS 2023, arXiv:2302.04867. Algorithms 1 and 2.
"""

import math
from dataclasses import dataclass

import numpy as np

from samplers.diffusion.solvers.multistep import predict_and_correct, recent
from samplers.diffusion.solvers.solver import Solver, final_order, one_of
from samplers.diffusion.tables import Grid, Writer


@dataclass(frozen=True)
class UniPC(Solver):
    """Unified predictor-corrector (UniPC).

    Parameters
    ----------
    order
        The p above, 1 to 4; 3, or 2 for a model under guidance.
    bh
        1 or 2: the B above.
    corrector
        Without it this is UniP.
    lower_order_final
        Whether the last steps lower the order, down to one. None: in runs of less than 10 steps.
    """

    order: int = 3
    bh: int = 2
    corrector: bool = True
    lower_order_final: bool | None = None

    def __post_init__(self) -> None:
        one_of("order", self.order, (1, 2, 3, 4))
        one_of("bh", self.bh, (1, 2))

    @property
    def fewest_steps(self) -> int:
        return self.order

    def write(self, writer: Writer, grid: Grid) -> None:
        lam, n = grid.log_snr, grid.num_steps
        orders = [final_order(self.order, i, n, self.lower_order_final) for i in range(n)]
        predictor, corrector = [], []
        for i, order in enumerate(orders):
            h = lam[i + 1] - lam[i]
            r = (recent(lam, i, order)[1:] - lam[i]) / h
            predictor.append(grid.alpha[i + 1] * self._weights(h, r))
            # The new value comes first in the history of the next row, D_i second.
            here, new, *older = self._weights(h, np.append(1.0, r))
            corrector.append(grid.alpha[i + 1] * np.array([new, here, *older]))
        A = grid.sigma[1:] / grid.sigma[:-1]
        predict_and_correct(writer, grid, A, predictor, corrector if self.corrector else None)

    def _weights(self, h: float, r: np.ndarray) -> np.ndarray:
        """Weights of D_i and of the values at the nodes r, over alpha'."""
        hh = -h
        first = np.expm1(hh)
        B = hh if self.bh == 1 else first
        psi, right = first / hh - 1, []
        for m in range(1, len(r) + 1):
            right.append(math.factorial(m) * psi / B)
            psi = psi / hh - 1 / math.factorial(m + 1)
        if len(r) == 0:
            return np.array([-first])
        if len(r) == 1:
            rho = np.array([0.5])
        else:
            rho = np.linalg.solve(np.vander(r, len(r), increasing=True).T, np.array(right))
        weights = -B * rho / r
        return np.append(-first - weights.sum(), weights)
