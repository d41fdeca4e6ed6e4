"""DPM-Solver: Runge-Kutta steps in the noise, the linear part solved exactly.

    x' = alpha' / alpha x - sigma' sum_k (coefficient of the k-th derivative of eps in lambda)

With h the step of lambda, e(z) = exp(z) - 1, and intermediate levels at lambda + r h:

    2S   u = alpha_1 / alpha x - sigma_1 e(r h) eps(x)                                 r = 1/2
         x' = alpha' / alpha x - sigma' e(h) (eps(x) + (eps(u) - eps(x)) / (2 r))
    3S   u as above, r = 1/3;  s = 2/3
         v = alpha_2 / alpha x - sigma_2 e(s h) eps(x)
             - (s / r) sigma_2 (e(s h) / (s h) - 1) (eps(u) - eps(x))
         x' = alpha' / alpha x - sigma' e(h) eps(x) - sigma' / s (e(h) / h - 1) (eps(v) - eps(x))

DPM-Solver-2S and 3S have the orders 2 and 3. Where a model is guided strongly, small sigma amplify
the errors of the noise: take `DPMSolverPP`.

References
----------
.. [1] Lu et al., "DPM-Solver: a fast ODE solver for diffusion probabilistic model sampling in
   around 10 steps", NeurIPS 2022, arXiv:2206.00927. Algorithms 1 and 2.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from samplers.diffusion.solvers.solver import Solver, one_of
from samplers.diffusion.tables import Grid, Writer, noises


@dataclass(frozen=True)
class DPMSolver(Solver):
    """DPM-Solver with 2 or 3 evaluations a step."""

    order: int = 2

    def __post_init__(self) -> None:
        one_of("order", self.order, (2, 3))

    @property
    def evaluations_per_step(self) -> int:
        return self.order

    def write(self, writer: Writer, grid: Grid) -> None:
        for i in range(grid.num_steps):
            _step(writer, grid, i, self.order)


def _step(writer: Writer, grid: Grid, i: int, order: int) -> None:
    start, end = grid.at(i), grid.at(i + 1)
    h = grid.log_snr[i + 1] - grid.log_snr[i]
    shares = (1 / 2,) if order == 2 else (1 / 3, 2 / 3)
    stages = [grid.between(grid.log_snr[i] + share * h) for share in shares]
    r, s = shares[0], shares[-1]

    first = stages[0]
    B = [[-first.sigma * np.expm1(r * h)], [0.0]]
    writer.add(start, [[first.alpha / start.alpha, 0], [1, 0]], B, G=noises(start))

    def from_anchor(level: Any, to: Any, B: list[float], **options: Any) -> None:
        A = [[0, to.alpha / start.alpha], [0, 1]]
        writer.add(level, A, [B, [0.0] * len(B)], G=noises(level), **options)

    if order == 2:
        slope = -end.sigma * np.expm1(h) / (2 * r)
        from_anchor(first, end, [slope, -end.sigma * np.expm1(h) - slope], arrives=end)
        return
    second = stages[1]
    slope = -s / r * second.sigma * (np.expm1(s * h) / (s * h) - 1)
    from_anchor(first, second, [slope, -second.sigma * np.expm1(s * h) - slope])
    slope = -end.sigma / s * (np.expm1(h) / h - 1)
    from_anchor(second, end, [slope, 0.0, -end.sigma * np.expm1(h) - slope], arrives=end)
