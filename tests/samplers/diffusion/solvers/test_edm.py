"""EDM's solvers are the algorithms of its paper, written out in kappa."""

import numpy as np
import pytest

import samplers as s
from row_by_row import Walk


@pytest.mark.parametrize("churn", [0.0, 2.0, 20.0])
def test_heun_is_algorithm_2(churn):
    """Churn comes at the end of the step before; each point keeps the noise of its row."""
    solver = s.Heun(churn=churn, churn_min=0.1, churn_max=5.0, noise=1.01)
    walk = Walk(solver, path=s.EDM)
    kappa, n, x = walk.grid.kappa, walk.num_steps, walk.start
    slope = walk.slope
    for i in range(n):
        here = kappa[i]
        if i and 0.1 <= here <= 5.0:
            here = kappa[i] * (1 + min(churn / n, np.sqrt(2) - 1))
            noise = walk.noise(2 * i - 1)[0] if churn else 0.0
            x = x + 1.01 * np.sqrt(here**2 - kappa[i] ** 2) * noise
        first = slope(x, here)
        euler = x + (kappa[i + 1] - here) * first
        x = x + (kappa[i + 1] - here) * (first + slope(euler, kappa[i + 1])) / 2
    walk.agrees_with(x)


def test_dpm_2_is_the_midpoint_rule():
    walk = Walk(s.DPM2(), path=s.EDM)
    x, kappa = walk.start, walk.grid.kappa
    slope = walk.slope
    for here, there in zip(kappa[:-1], kappa[1:], strict=True):
        middle = np.sqrt(here * there)
        x = x + (there - here) * slope(x + (middle - here) * slope(x, here), middle)
    walk.agrees_with(x)


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="churn must not be negative; got -1"):
        s.Heun(churn=-1.0)
