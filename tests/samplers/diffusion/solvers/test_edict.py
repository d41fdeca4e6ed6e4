"""EDICT is the coupled walk of its equations 14 and 15."""

import pytest

import samplers as s
from row_by_row import Walk, eps


def test_two_copies_step_in_turn_and_are_mixed():
    walk = Walk(s.EDICT(p=0.9))  # variance-preserving, as the paper's
    grid, x, y = walk.grid, walk.start, walk.start
    for i in range(walk.num_steps):
        level, a = grid.at(i), grid.alpha[i + 1] / grid.alpha[i]
        b = grid.alpha[i + 1] * (grid.kappa[i + 1] - grid.kappa[i])
        x = a * x + b * eps(y, level)
        y = a * y + b * eps(x, level)
        x = 0.9 * x + 0.1 * y
        y = 0.9 * y + 0.1 * x
    walk.agrees_with(y)


def test_a_mixing_that_cannot_be_undone_is_refused():
    with pytest.raises(ValueError, match=r"p must lie in \(0\.5, 1\]; got 0\.5"):
        s.EDICT(p=0.5)
