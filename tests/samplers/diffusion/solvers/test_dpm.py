"""DPM-Solver's steps are those of its paper's algorithms 1 and 2."""

import numpy as np
import pytest

import samplers as s
from row_by_row import Walk, eps


def test_2s_is_algorithm_1():
    walk = Walk(s.DPMSolver(2))
    x, grid = walk.start, walk.grid
    for i in range(walk.num_steps):
        here, there, h = grid.at(i), grid.at(i + 1), grid.log_snr[i + 1] - grid.log_snr[i]
        middle = grid.between(grid.log_snr[i] + h / 2)
        u = middle.alpha / here.alpha * x - middle.sigma * np.expm1(h / 2) * eps(x, here)
        x = there.alpha / here.alpha * x - there.sigma * np.expm1(h) * eps(u, middle)
    walk.agrees_with(x)


def test_3s_is_algorithm_2():
    walk = Walk(s.DPMSolver(3))
    x, grid, r, q = walk.start, walk.grid, 1 / 3, 2 / 3
    for i in range(walk.num_steps):
        here, there, h = grid.at(i), grid.at(i + 1), grid.log_snr[i + 1] - grid.log_snr[i]
        one, two = (grid.between(grid.log_snr[i] + share * h) for share in (r, q))
        first = eps(x, here)
        u = one.alpha / here.alpha * x - one.sigma * np.expm1(r * h) * first
        change = eps(u, one) - first
        v = two.alpha / here.alpha * x - two.sigma * np.expm1(q * h) * first
        v = v - two.sigma * q / r * (np.expm1(q * h) / (q * h) - 1) * change
        change = eps(v, two) - first
        x = there.alpha / here.alpha * x - there.sigma * np.expm1(h) * first
        x = x - there.sigma / q * (np.expm1(h) / h - 1) * change
    walk.agrees_with(x)


def test_other_orders_are_refused():
    with pytest.raises(ValueError, match="order must be one of 2, 3; got 4"):
        s.DPMSolver(4)
