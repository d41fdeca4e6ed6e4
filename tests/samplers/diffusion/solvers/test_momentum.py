"""Momentum: the filters of the paper, one step after the other."""

import numpy as np
import pytest

import samplers as s
from row_by_row import Walk, eps

ADAMS = [[1], [3 / 2, -1 / 2], np.array([23, -16, 5]) / 12]


def test_hb_filters_the_mix():
    walk = Walk(s.HB(3, beta=0.7))
    x, grid, values, m = walk.start, walk.grid, [], None
    for i in range(walk.num_steps):
        values = [eps(x, grid.at(i)), *values]
        mix = sum(w * e for w, e in zip(ADAMS[min(i, 2)], values, strict=False))
        m = mix if m is None else 0.3 * m + 0.7 * mix
        step = grid.alpha[i + 1] * (grid.kappa[i + 1] - grid.kappa[i])
        x = grid.alpha[i + 1] / grid.alpha[i] * x + step * m
    walk.agrees_with(x)


def test_ghvb_mixes_what_is_filtered():
    walk, b = Walk(s.GHVB(3, beta=0.7)), 0.7
    mixes = [
        [b],
        [(2 + b) / 2, -(2 - b) / 2],
        [(18 + 5 * b) / 12, -(24 - 8 * b) / 12, (6 - b) / 12],
    ]
    x, grid, filtered = walk.start, walk.grid, []
    for i in range(walk.num_steps):
        e = eps(x, grid.at(i))
        filtered = [0.3 * filtered[0] + 0.7 * e if filtered else e, *filtered]
        mix = sum(w * m for w, m in zip(mixes[min(i, 2)], filtered, strict=False))
        step = grid.alpha[i + 1] * (grid.kappa[i + 1] - grid.kappa[i])
        x = grid.alpha[i + 1] / grid.alpha[i] * x + step / b * mix
    walk.agrees_with(x)


@pytest.mark.parametrize("solver", [s.HB, s.GHVB])
def test_no_momentum_at_all_is_refused(solver):
    with pytest.raises(ValueError, match=r"beta must lie in \(0, 1\], 1 for no momentum; got 0"):
        solver(beta=0.0)
