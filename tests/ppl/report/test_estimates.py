"""What the charts estimate: densities, quantiles, thinned traces."""

import numpy as np
import pytest
from scipy import stats

from ppl.report import estimates


@pytest.fixture
def generator():
    return np.random.default_rng(3)


def test_density_of_a_gaussian_is_near_its_formula(generator):
    x, y = estimates.density(generator.normal(size=20000))
    assert np.abs(y - stats.norm.pdf(x)).max() < 0.03


def test_density_of_a_positive_variable_does_not_leak_below_zero(generator):
    x, y = estimates.density(generator.exponential(size=20000))
    assert x.min() >= 0
    assert y[0] > 0.85
    assert np.trapezoid(y, x) == pytest.approx(1.0, abs=0.02)


def test_weighted_density_is_that_of_repeated_draws(generator):
    values = generator.normal(size=400)
    copies = generator.integers(1, 6, 400)
    bounds = (-3.0, 3.0)
    _, weighted = estimates.density(values, copies / copies.sum(), bounds)
    _, repeated = estimates.density(np.repeat(values, copies), None, bounds)
    # Only the bandwidth differs: repeated draws look like more than they are.
    assert np.abs(weighted - repeated).max() < 0.1


def test_weighted_quantiles_are_those_of_repeated_draws(generator):
    values = generator.normal(size=500)
    copies = generator.integers(1, 6, 500)
    repeated = np.quantile(np.repeat(values, copies), [0.1, 0.5, 0.9])
    np.testing.assert_allclose(
        estimates.quantiles(values, [0.1, 0.5, 0.9], copies), repeated, atol=0.05
    )


def test_heavy_tails_do_not_squeeze_the_chart(generator):
    values = generator.standard_cauchy(20000)
    lower, upper = estimates.shown_range(values)
    assert -200 < lower < -20
    assert 20 < upper < 200


def test_thinned_traces_keep_the_extremes(generator):
    values = generator.normal(size=100_000)
    values[[12_345, 67_890]] = 40.0, -40.0
    at, kept = estimates.envelope(values)
    assert len(kept) <= 300
    assert kept.max() == 40
    assert kept.min() == -40
    assert (np.diff(at) >= 0).all()


def test_running_means_of_a_trend_are_the_trend():
    at, means = estimates.running_mean(np.arange(1000.0))
    np.testing.assert_allclose(means, at - 0.5)


def test_systematic_thinning_follows_the_weights():
    weights = np.r_[np.zeros(900), np.ones(100)]
    kept = estimates.thin(1000, 50, weights)
    assert (kept >= 900).all()
    assert len(kept) == 50
