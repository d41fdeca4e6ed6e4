"""Distances between two sets of draws, against closed forms."""

import math

import numpy as np
import pytest

from ppl.diagnostics.energy_distance import energy_distance, energy_test
from ppl.diagnostics.sliced_wasserstein import sliced_wasserstein


def normal(seed, n=400, d=3, shift=0.0):
    return np.random.default_rng(seed).normal(size=(n, d)) + shift


def test_energy_distance_of_two_points_is_twice_their_distance():
    x, y = np.zeros((10, 2)), np.tile([3.0, 4.0], (20, 1))
    assert energy_distance(x, y) == pytest.approx(10)


def test_energy_distance_of_normals_is_the_known_one():
    # E|N(a, 2)| - E|N(0, 2)|, twice.
    a, n = 2.0, 2000
    folded = math.sqrt(4 / math.pi) * math.exp(-(a**2) / 4) + a * math.erf(a / 2)
    expected = 2 * folded - 2 * math.sqrt(4 / math.pi)
    assert energy_distance(normal(0, n, 1), normal(1, n, 1, a)) == pytest.approx(expected, rel=0.1)


def test_distances_are_symmetric_and_zero_for_equal_sets():
    x, y = normal(0), normal(1, n=250)
    assert energy_distance(x, y) == pytest.approx(energy_distance(y, x))
    assert sliced_wasserstein(x, y) == pytest.approx(sliced_wasserstein(y, x))
    assert energy_distance(x, x[::-1]) == pytest.approx(0, abs=1e-9)
    assert sliced_wasserstein(x, x[::-1]) == pytest.approx(0, abs=1e-9)


def test_energy_test_keeps_its_level_and_finds_a_shift():
    pvalues = [
        energy_test(normal(s, 30), normal(s + 500, 30), seed=s, num_permutations=19)[1]
        for s in range(200)
    ]
    rejected = np.mean(np.array(pvalues) <= 0.05 + 1e-9)
    assert abs(rejected - 0.05) < 4.9 * math.sqrt(0.05 * 0.95 / 200)
    assert energy_test(normal(0), normal(1, shift=0.5))[1] == 1 / 200


def test_sliced_wasserstein_of_a_shift_is_its_length_over_root_d():
    x = normal(0, d=5)
    shift = np.array([3.0, 0, 0, 4.0, 0])
    found = sliced_wasserstein(x, x + shift, num_projections=4000)
    assert found == pytest.approx(5 / math.sqrt(5), rel=0.03)


def test_sliced_wasserstein_counts_copies_of_a_set_as_the_set():
    x, y = normal(0, n=30), normal(1, n=40)
    assert sliced_wasserstein(np.repeat(x, 3, axis=0), y) == pytest.approx(sliced_wasserstein(x, y))
    scale = sliced_wasserstein(x[:, :1], 2 * x[:, :1], p=1)
    assert scale == pytest.approx(np.abs(x[:, 0]).mean())


@pytest.mark.parametrize("distance", [energy_distance, sliced_wasserstein])
def test_distances_refuse_what_they_cannot_judge(distance):
    with pytest.raises(ValueError, match="needs 10 draws in each set; got 9 and 400"):
        distance(normal(0, n=9), normal(1))
    broken = normal(0)
    broken[3, 1] = math.nan
    with pytest.raises(ValueError, match="needs finite draws"):
        distance(broken, normal(1))


def test_energy_distance_refuses_sets_that_would_not_fit():
    with pytest.raises(ValueError, match="takes 5000 draws together.*got 4000 and 1001: thin them"):
        energy_distance(normal(0, n=4000), normal(1, n=1001))
    with pytest.raises(ValueError, match="p must be at least 1; got 0.5"):
        sliced_wasserstein(normal(0), normal(1), p=0.5)
