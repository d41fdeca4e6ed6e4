"""Distances between two sets of draws against closed forms; tests at their level and power."""

import math
from functools import cache

import numpy as np
import pytest

from made_draws import of_values
from ppl.diagnostics.energy_distance import energy_distance, energy_test
from ppl.diagnostics.sliced_wasserstein import sliced_wasserstein, sliced_wasserstein_test
from ppl.diagnostics.two_sample import classifier_test

TESTS = {
    "energy": energy_test,
    "sliced Wasserstein": lambda x, y, **options: sliced_wasserstein_test(
        x, y, num_projections=4, **options
    ),
    "classifier": lambda x, y, **options: classifier_test(x, y, **options)[:2],
}


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


@pytest.mark.parametrize("name", TESTS)
def test_tests_keep_their_level_and_find_a_shift(name):
    test = TESTS[name]
    pvalues = [
        test(normal(s, 50), normal(s + 500, 60), seed=s, num_permutations=19)[1] for s in range(200)
    ]
    rejected = np.mean(np.array(pvalues) <= 0.05 + 1e-9)
    assert abs(rejected - 0.05) < 4.9 * math.sqrt(0.05 * 0.95 / 200)
    assert test(normal(0), normal(1, shift=0.5))[1] == 1 / 200


@cache
def autoregression(seed, rho=0.8, draws=1000):
    x = np.random.default_rng(seed).normal(size=(4, draws, 2))
    for t in range(1, draws):
        x[:, t] = rho * x[:, t - 1] + math.sqrt(1 - rho**2) * x[:, t]
    return x


@pytest.mark.parametrize("name", TESTS)
def test_tests_thin_correlated_chains_without_which_they_reject(name):
    test, pairs = TESTS[name], 100
    sets = [(autoregression(s), autoregression(s + 1000)) for s in range(pairs)]

    def rejected(flatten):
        pvalues = [
            test(flatten(x), flatten(y), seed=s, num_permutations=19)[1]
            for s, (x, y) in enumerate(sets[: pairs if flatten is thinned else 10])
        ]
        return np.mean(np.array(pvalues) <= 0.05 + 1e-9)

    def thinned(x):
        return x

    assert rejected(thinned) < 0.05 + 4.9 * math.sqrt(0.05 * 0.95 / pairs)
    assert rejected(lambda x: x[:, :150].reshape(-1, 2)) > 0.3


def test_accuracy_of_the_classifier_is_near_the_best_possible():
    # Of N(0, 1) and N(a, 1) no rule tells more than Phi(a / 2).
    found = classifier_test(normal(0, 1500, 1), normal(1, 1000, 1, shift=2.0), num_permutations=19)
    best = 0.5 * (1 + math.erf(1 / math.sqrt(2)))
    assert found.accuracy == pytest.approx(best, abs=0.02)
    assert found.num_draws == (1500, 1000)


def test_accuracy_of_the_classifier_is_one_half_on_average_for_equal_laws():
    pairs = [(normal(2 * s, 300, 1), normal(2 * s + 1, 200, 1)) for s in range(50)]
    accuracy = np.array([classifier_test(x, y, num_permutations=1).accuracy for x, y in pairs])
    assert abs(accuracy.mean() - 0.5) < 3.9 * accuracy.std() / math.sqrt(len(pairs))


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda x: 1.3 * x, id="scale"),
        pytest.param(lambda x: np.where(x[:, :1] > 0, x, -x) * [1, 1, 1], id="correlated signs"),
        pytest.param(lambda x: x + 1.2 * np.sign(x), id="two modes"),
    ],
)
def test_classifier_sees_more_than_means(change):
    assert classifier_test(normal(0, 800), change(normal(1, 800))).p_value < 0.01


def test_tests_take_draws_and_refuse_those_of_another_target():
    x, y = (of_values({"a": normal(s).reshape(4, 100, 3)}) for s in range(2))
    assert energy_test(x, y)[1] > 0.05
    other = of_values({"b": normal(2).reshape(4, 100, 3)})
    with pytest.raises(ValueError, match=r"same scalars; got a\[0\], a\[1\], a\[2\] and b\[0\]"):
        energy_test(x, other)
    with pytest.raises(ValueError, match="same scalars; got 3 scalars and 2 scalars"):
        classifier_test(normal(0), normal(1, d=2))
    weighted = of_values({"a": normal(0)[None]}, kind="direct", log_weights=np.zeros((1, 400)))
    with pytest.raises(ValueError, match="these have log weights"):
        sliced_wasserstein_test(x, weighted)
    with pytest.raises(ValueError, match="these were resampled"):
        classifier_test(x, y.resample(0, 100))
    with pytest.raises(ValueError, match=r"\(n, d\), or \(chain, draw, d\); got \(5,\)"):
        classifier_test(x, np.zeros(5))


def test_too_few_draws_give_no_number_and_say_how_many_are_needed():
    with pytest.raises(ValueError, match="classifier test needs 50 draws in each set; got 49"):
        classifier_test(normal(0, 49), normal(1))
    slow = np.cumsum(normal(0, 2000).reshape(4, 500, 3), axis=1)
    with pytest.raises(ValueError, match="needs 50 draws.*got [0-9]+ nearly independent: run long"):
        classifier_test(slow, normal(1))
    with pytest.raises(ValueError, match="takes 4000 draws together.*thin them"):
        classifier_test(normal(0, 4000), normal(1))


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
