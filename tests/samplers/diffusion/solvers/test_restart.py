"""Restart is Heun's way down, with returns: its noise, its levels, its count of evaluations."""

import numpy as np
import pytest

import samplers as s
from row_by_row import Walk

INTERVAL = (4, 2, 0.2, 1.5)  # levels, repeats, kappa from and to


def test_it_is_algorithms_1_and_2():
    walk = Walk(s.Restart((INTERVAL,)), path=s.EDM)
    kappa, x, row = walk.grid.kappa, walk.start, -1
    slope = walk.slope

    def down(x, levels):
        for here, there in zip(levels[:-1], levels[1:], strict=True):
            first = slope(x, here)
            euler = x + (there - here) * first
            x = x + (there - here) * (first + slope(euler, there)) / 2
        return x

    nearest = kappa[1:][np.argmin(np.abs(np.log(kappa[1:] / 0.2)))]
    way = np.linspace(1.5 ** (1 / 7), nearest ** (1 / 7), 4) ** 7
    for i in range(walk.num_steps):
        x, row = down(x, kappa[i : i + 2]), row + 2
        for _ in range(2 * (kappa[i + 1] == nearest)):
            x = x + np.sqrt(1.5**2 - nearest**2) * walk.noise(row)[0]
            x, row = down(x, way), row + 6
    walk.agrees_with(x)
    assert row + 1 == len(walk.rows.F)


def test_the_paper_s_cifar_run_has_its_43_evaluations():
    table = s.Restart().table(s.EDM(), s.EDMSchedule(), 18)
    assert len(table.rows.F) == 43


def test_an_interval_outside_the_schedule_is_refused():
    with pytest.raises(ValueError, match=r"interval \(3, 2, 0\.14, 900\.0\) must have 2 levels"):
        s.Restart(((3, 2, 0.14, 900.0),)).table(s.EDM(), s.EDMSchedule(), 18)
