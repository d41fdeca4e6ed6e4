"""BDIA goes forth and back from the present point by steps of DDIM."""

import pytest

import samplers as s
from row_by_row import Walk, eps


@pytest.mark.parametrize("gamma", [1.0, 0.7])
def test_it_is_the_leapfrog_of_its_equations(gamma):
    walk = Walk(s.BDIA(gamma))
    grid, x = walk.grid, [walk.start]

    def ddim(i, j):
        e, ratio = eps(x[i], grid.at(i)), grid.alpha[j] / grid.alpha[i]
        return (ratio - 1) * x[i] + grid.alpha[j] * (grid.kappa[j] - grid.kappa[i]) * e

    x.append(x[0] + ddim(0, 1))
    for i in range(1, walk.num_steps):
        away = x[i] + ddim(i, i - 1)
        x.append(x[i] + gamma * (x[i - 1] - away) + ddim(i, i + 1))
    walk.agrees_with(x[-1])


def test_a_walk_that_forgets_is_refused():
    with pytest.raises(ValueError, match=r"gamma must lie in \(0, 1\]; got 0"):
        s.BDIA(0.0)
