"""The solvers of EDM: Heun's method and the midpoint rule in kappa, with churn or without.

    Heun    u = y + (kappa' - kappa) eps(y),       y' = y + (kappa' - kappa) (eps(y) + eps(u)) / 2
    DPM-2   u = y + (sqrt(kappa kappa') - kappa) eps(y),    y' = y + (kappa' - kappa) eps(u)

with y = x / alpha and kappa = sigma / alpha: second order, two evaluations a step. Churn adds noise
before a step, kappa -> kappa (1 + gamma), and takes the step from there:

    gamma = min(churn / num_steps, sqrt(2) - 1)   where churn_min <= kappa <= churn_max
    y := y + noise sqrt((1 + gamma)^2 - 1) kappa z

which corrects errors of the steps before and has, with noise = 1, the right marginals.

References
----------
.. [1] Karras et al., "Elucidating the design space of diffusion-based generative models", NeurIPS
   2022, arXiv:2206.00364. Algorithms 1 and 2.
.. [2] Lu et al., "DPM-Solver: a fast ODE solver for diffusion probabilistic model sampling in
   around 10 steps", NeurIPS 2022, arXiv:2206.00927. The midpoint in the logarithm.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from samplers.diffusion.paths import Level
from samplers.diffusion.solvers.solver import Solver, not_negative
from samplers.diffusion.tables import Grid, Writer, noises


@dataclass(frozen=True)
class Heun(Solver):
    """Heun's method, the deterministic and the stochastic sampler of EDM.

    Parameters
    ----------
    churn, churn_min, churn_max, noise
        S_churn, S_tmin, S_tmax and S_noise of algorithm 2, in units of kappa. A noise other than 1
        is a correction for networks that remove too much; marginals are then not kept.

    Differences from the paper
    --------------------------
    There is no churn before the first step, which would lead beyond the path: the run begins with
    noise.
    """

    churn: float = 0.0
    churn_min: float = 0.0
    churn_max: float = math.inf
    noise: float = 1.0

    @property
    def evaluations_per_step(self) -> int:
        return 2

    def __post_init__(self) -> None:
        for name in ("churn", "churn_min", "churn_max", "noise"):
            not_negative(name, getattr(self, name))

    @property
    def consistent(self) -> bool:
        return self.noise == 1 or self.churn == 0

    def write(self, writer: Writer, grid: Grid) -> None:
        start = grid.at(0)
        for i in range(grid.num_steps):
            end = grid.at(i + 1)
            last = i + 1 == grid.num_steps
            churned = end if last else self._churned(grid, end)
            heun_step(writer, start, end, churned, self.noise)
            start = churned

    def _churned(self, grid: Grid, level: Level) -> Level:
        if not self.churn or not self.churn_min <= level.kappa <= self.churn_max:
            return level
        gamma = min(self.churn / grid.num_steps, math.sqrt(2) - 1)
        return grid.between(-np.log(level.kappa * (1 + gamma)))


def heun_step(writer: Writer, start: Level, end: Level, arrives: Level, noise: float = 1.0) -> None:
    """A step from start to end, then noise up to the level ``arrives``."""
    step = end.kappa - start.kappa
    A = [[end.alpha / start.alpha, 0], [1, 0]]
    writer.add(start, A, [[end.alpha * step], [0.0]], G=noises(start))
    half = arrives.alpha * step / 2
    _from_anchor(writer, start, end, arrives, [half, half], noise * _noise_between(end, arrives))


def _noise_between(low: Level, high: Level) -> float:
    return high.alpha * math.sqrt(max(high.kappa**2 - low.kappa**2, 0.0))


def _from_anchor(
    writer: Writer, start: Level, at: Level, arrives: Level, B: list[float], S: float = 0.0
) -> None:
    A = [[0, arrives.alpha / start.alpha], [0, 1]]
    zeros = [0.0] * len(B)
    writer.add(at, A, [B, zeros], [S, 0.0], G=noises(at), arrives=arrives)


@dataclass(frozen=True)
class DPM2(Solver):
    """DPM-Solver-2 as EDM writes it: the midpoint rule, the middle taken in the logarithm."""

    @property
    def evaluations_per_step(self) -> int:
        return 2

    def write(self, writer: Writer, grid: Grid) -> None:
        for i in range(grid.num_steps):
            start, end = grid.at(i), grid.at(i + 1)
            middle = grid.between((grid.log_snr[i] + grid.log_snr[i + 1]) / 2)
            A: Any = [[middle.alpha / start.alpha, 0], [1, 0]]
            B = [[middle.alpha * (middle.kappa - start.kappa)], [0.0]]
            writer.add(start, A, B, G=noises(start))
            step = end.alpha * (end.kappa - start.kappa)
            _from_anchor(writer, start, middle, end, [step, 0.0])
