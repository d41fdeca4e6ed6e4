"""Runs of a population that leave different numbers of draws."""

import numpy as np

from ppl.population import _of_one_length


def test_a_short_run_gets_copies_without_weight():
    positions = [
        {"a": np.arange(3.0), "b": np.ones((3, 2))},
        {"a": np.zeros(5), "b": np.ones((5, 2))},
    ]
    weights = [np.array([0.0, 1.0, 2.0]), np.arange(5.0)]
    (short, long), (first, second) = _of_one_length(positions, weights)
    np.testing.assert_array_equal(short["a"], [0, 1, 2, 2, 2])
    assert short["b"].shape == long["b"].shape == (5, 2)
    np.testing.assert_array_equal(first, [0, 1, 2, -np.inf, -np.inf])
    np.testing.assert_array_equal(second, np.arange(5.0))
    np.testing.assert_array_equal(long["a"], np.zeros(5))
