"""The rule that judges samplers accepts right draws and refuses wrong ones."""

import numpy as np
import pytest
from scipy import stats

import posteriordb

REFERENCE = {
    "x[2]": {
        "mean": 1.0,
        "sd": 2.0,
        **{q: float(stats.norm.ppf(p, 1, 2)) for q, p in posteriordb.QUANTILES.items()},
    }
}


def scores(column):
    draws = {"x": np.stack([np.zeros_like(column), column], axis=-1)}
    return posteriordb.z_scores(draws, REFERENCE)


def independent(loc=1.0, scale=2.0):
    return np.random.default_rng(0).normal(loc, scale, (4, 1000))


def test_right_draws_pass():
    found = scores(independent())
    assert set(found["x[2]"]) == {"mean", "square", "q05", "q50", "q95"}
    assert posteriordb.largest(found)[0] < posteriordb.LIMIT


@pytest.mark.parametrize(
    ("draws", "check"), [(independent(loc=1.3), "mean"), (independent(scale=2.4), "square")]
)
def test_wrong_draws_fail(draws, check):
    found = scores(draws)["x[2]"]
    assert found[check] > posteriordb.LIMIT


def test_correlated_draws_have_a_larger_error():
    rng, chains = np.random.default_rng(0), np.zeros((4, 1000))
    for t in range(1, 1000):
        chains[:, t] = 0.95 * chains[:, t - 1] + (1 - 0.95**2) ** 0.5 * rng.normal(size=4)
    assert posteriordb.largest(scores(1 + 2 * chains))[0] < posteriordb.LIMIT


@pytest.mark.parametrize("value", [np.nan, 50.0])
def test_degenerate_draws_fail(value):
    assert posteriordb.largest(scores(np.full((4, 1000), value)))[0] > posteriordb.LIMIT


def test_the_error_of_the_reference_counts():
    exact = np.tile(stats.norm.ppf((np.arange(1000) + 0.5) / 1000, 1, 2), (4, 1))
    truth = 1.0 + 3 * 2.0 / posteriordb.NUM_REFERENCE_DRAWS**0.5
    assert abs(posteriordb.z_score(exact, truth)) < 3
