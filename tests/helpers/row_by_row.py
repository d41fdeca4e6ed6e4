"""Tables of solvers run in NumPy, a row at a time, beside algorithms as their papers write them."""

from typing import Any

import numpy as np

import samplers as s
import toy_mixture
from samplers.diffusion.schedules import LogSNRUniform
from samplers.diffusion.tables import Grid


def by_hand(rows, denoiser, x, noise):
    """The equation of `samplers.diffusion.tables`, line by line: the registers at the end."""
    u = [x.copy() for _ in range(rows.A.shape[1])]
    h = [np.zeros_like(x) for _ in range(rows.B.shape[2])]
    for i in range(len(rows.F)):
        level = type(rows.level)(*(value[i] for value in rows.level))
        q = rows.G[i, 0] * u[0] + rows.G[i, 1] * denoiser(u[0], level)
        if rows.F.shape[1]:
            q = rows.F[i, 0] * q + (1 - rows.F[i, 0]) * h[0]
        h = [q, *h[:-1]]
        u = [
            sum(rows.A[i, k, j] * u[j] for j in range(len(u)))
            + sum(rows.B[i, k, j] * h[j] for j in range(len(h)))
            + sum(rows.S[i, k, m] * noise(i)[m] for m in range(rows.S.shape[2]))
            for k in range(len(u))
        ]
    return u


def denoised(x, level):
    """Of the mixture, on any path."""
    return toy_mixture.denoise_many(x / level.alpha, level.kappa)


def eps(x, level):
    """The noise that it predicts."""
    return (x - level.alpha * denoised(x, level)) / level.sigma


class Walk:
    """A solver's table between the levels of the truth, and what an algorithm needs beside it."""

    def __init__(self, solver: Any, num_steps: int = 8, path: Any = s.VPLinear) -> None:
        high, low = path().time(-np.log(np.array([toy_mixture.FIRST, toy_mixture.LAST])))
        self.path = path(t_min=low, t_max=high)
        self.table = solver.table(self.path, LogSNRUniform(), num_steps, denoise_last=False)
        self.num_steps, self.rows = num_steps, self.table.rows
        self.grid = Grid(self.path, LogSNRUniform()(self.path, num_steps + 1))
        self.start = self.grid.sigma[0] / toy_mixture.FIRST * toy_mixture.starts()[:5]
        z = np.random.default_rng(0).normal(size=(len(self.rows.F), *self.start.shape))
        self.noise = lambda row: z[row][None]

    def slope(self, x, kappa):
        """``dx / dkappa`` of the flow, on a path whose alpha is one."""
        level = self.path.level(self.path.time(-np.log(kappa)))
        return (x - denoised(x, level)) / kappa

    def end(self):
        """Where the table leads."""
        return by_hand(self.rows, denoised, self.start, self.noise)[0]

    def agrees_with(self, x):
        """Whether an algorithm ends there too."""
        np.testing.assert_allclose(self.end(), x, rtol=1e-9, atol=1e-12)
