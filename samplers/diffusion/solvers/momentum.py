"""Momentum: noises filtered over the steps, for stability under strong guidance.

    HB       v_i = Adams-Bashforth mix of eps_i, eps_(i-1), ..
             m_i = (1 - beta) m_(i-1) + beta v_i
             x' = alpha' / alpha x + alpha' (kappa' - kappa) m_i
    GHVB     m_i = (1 - beta) m_(i-1) + beta eps_i
             x' = alpha' / alpha x + alpha' (kappa' - kappa) / beta  (mix of m_i, m_(i-1), ..)

with m_0 = v_0. HB, Polyak's heavy ball, has order 1 for beta below one; the mixes of GHVB make up
for the filter and keep the order of the Adams-Bashforth method (two at most on unequal steps).
beta = 1 is `IPNDM` for both. The paper writes k.b for k steps with the momentum b.

References
----------
.. [1] Wizadwongsa, Chinchuthakun, Khungurn, Raj and Suwajanakorn, "Diffusion sampling with momentum
   for mitigating divergence artifacts", ICLR 2024, arXiv:2307.11118. Equations 8 to 13.
"""

from dataclasses import dataclass

import numpy as np

from samplers.diffusion.solvers.deis import ADAMS_BASHFORTH
from samplers.diffusion.solvers.solver import Solver, one_of
from samplers.diffusion.tables import Grid, Writer, noises


@dataclass(frozen=True)
class _Momentum(Solver):
    order: int = 2
    beta: float = 0.8

    def __post_init__(self) -> None:
        one_of("order", self.order, (1, 2, 3, 4))
        if not 0 < self.beta <= 1:
            raise ValueError(f"beta must lie in (0, 1], 1 for no momentum; got {self.beta}")

    @property
    def fewest_steps(self) -> int:
        return self.order


@dataclass(frozen=True)
class HB(_Momentum):
    """Heavy-ball momentum (HB) after an Adams-Bashforth mix."""

    def write(self, writer: Writer, grid: Grid) -> None:
        steps = grid.alpha[1:] * np.diff(grid.kappa)
        for i in range(grid.num_steps):
            # u_1 is the momentum. The first row does not look at what it holds before.
            beta = self.beta if i else 1.0
            mix = beta * ADAMS_BASHFORTH[min(i, self.order - 1)]
            ratio = grid.alpha[i + 1] / grid.alpha[i]
            A = [[ratio, (1 - beta) * steps[i]], [0, 1 - beta]]
            level = grid.at(i)
            writer.add(level, A, [steps[i] * mix, mix], G=noises(level), arrives=grid.at(i + 1))


@dataclass(frozen=True)
class GHVB(_Momentum):
    """Generalized heavy-ball velocity (GHVB)."""

    def write(self, writer: Writer, grid: Grid) -> None:
        b = self.beta
        mixes = (
            np.array([b]),
            np.array([2 + b, -(2 - b)]) / 2,
            np.array([18 + 5 * b, -(24 - 8 * b), 6 - b]) / 12,
            np.array([46 + 9 * b, -(78 - 19 * b), 42 - 5 * b, -(10 - b)]) / 24,
        )
        steps = grid.alpha[1:] * np.diff(grid.kappa) / b
        for i in range(grid.num_steps):
            level, A = grid.at(i), grid.alpha[i + 1] / grid.alpha[i]
            B = steps[i] * mixes[min(i, self.order - 1)]
            F = b if i else 1.0
            writer.add(level, A, B, G=noises(level), F=F, arrives=grid.at(i + 1))
