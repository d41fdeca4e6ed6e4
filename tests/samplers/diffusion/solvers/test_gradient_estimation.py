"""Gradient estimation is algorithm 2 of its paper."""

import samplers as s
from row_by_row import Walk, eps


def test_two_noises_are_extrapolated():
    walk = Walk(s.GradientEstimation(gamma=1.8))
    x, grid, before = walk.start, walk.grid, None
    for i in range(walk.num_steps):
        e = eps(x, grid.at(i))
        mixed = e if before is None else 1.8 * e - 0.8 * before
        step = grid.alpha[i + 1] * (grid.kappa[i + 1] - grid.kappa[i])
        x, before = grid.alpha[i + 1] / grid.alpha[i] * x + step * mixed, e
    walk.agrees_with(x)
