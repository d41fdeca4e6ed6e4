"""The energy fraction of missing information."""

import math

import numpy as np
import pytest

from ppl.diagnostics.bfmi import THRESHOLD, bfmi


def test_bfmi_of_independent_energies_is_two():
    # Var(E_n - E_{n-1}) is twice Var(E).
    energy = np.random.default_rng(0).normal(size=(2, 20_000))
    np.testing.assert_allclose(bfmi(energy), 2, rtol=0.05)


def test_bfmi_of_a_slow_energy_is_below_the_limit():
    rng = np.random.default_rng(1)
    slow = np.zeros((1, 5000))
    for t in range(1, 5000):
        slow[:, t] = 0.95 * slow[:, t - 1] + rng.normal(size=1)
    assert bfmi(slow)[0] == pytest.approx(2 * (1 - 0.95), rel=0.2)
    assert bfmi(slow)[0] < THRESHOLD


def test_bfmi_does_not_see_a_constant_or_a_unit():
    energy = np.random.default_rng(2).normal(size=(3, 100))
    np.testing.assert_allclose(bfmi(7 * energy - 4), bfmi(energy))


@pytest.mark.parametrize("energy", [np.zeros((2, 3)), np.ones((2, 50)), np.full((2, 50), math.nan)])
def test_bfmi_that_is_not_defined_is_nan(energy):
    assert np.isnan(bfmi(energy)).all()
