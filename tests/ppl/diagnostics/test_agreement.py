"""Answers of draws against a yardstick: scores that are standard normal, biases that are seen."""

import numpy as np
import pytest
import scipy.stats

from made_draws import make, of_values
from ppl.diagnostics.agreement import LEVELS, Pool, known, z_limit


def draws(rows, kind="direct", **fields):
    return of_values({"x": np.asarray(rows)}, kind=kind, num_chains=len(rows), **fields)


def independent(seed, *, scale=1.0, shift=0.0, n=4000):
    generator = np.random.default_rng(seed)
    return draws(shift + scale * generator.normal(size=(1, n, 3)))


def autoregressive(seed, rho=0.9, n=4000):
    """Chains of a standard normal law whose neighbors are correlated."""
    noise = np.random.default_rng(seed).normal(size=(4, n, 2))
    x = np.zeros_like(noise)
    x[:, 0] = noise[:, 0]
    for t in range(1, n):
        x[:, t] = rho * x[:, t - 1] + np.sqrt(1 - rho**2) * noise[:, t]
    return draws(x, kind="markov")


def scores(one, other):
    return Pool([one]).answers(Pool([other]).yardstick()).scores


def test_the_limit_is_that_of_the_largest_of_many_normal_scores():
    assert z_limit(1, 0.05) == pytest.approx(1.96, abs=1e-3)
    assert z_limit(50, 1e-3) == pytest.approx(scipy.stats.norm.isf(1e-3 / 100))


def test_scores_of_one_law_are_standard_normal_and_those_of_another_are_not():
    found = np.concatenate([scores(independent(s), independent(1000 + s)) for s in range(60)], 1)
    for row in found:  # the mean, then each tail probability; 180 independent scores each
        assert scipy.stats.kstest(row, "norm").pvalue > 1e-4
    wide = np.abs(scores(independent(1, scale=1.2), independent(2)))
    assert wide[1].max() > z_limit(12)  # the 5 % tail
    assert wide[3].max() > z_limit(12)
    assert np.abs(scores(independent(1, shift=0.15), independent(2)))[0].max() > z_limit(12)


def test_scores_of_chains_count_their_correlation():
    found = np.concatenate([_against_normal(autoregressive(seed)) for seed in range(25)], 1)
    assert scipy.stats.kstest(found.ravel(), "norm").pvalue > 1e-4
    # As if they were independent, their scores would be four times too large.
    naive = _against_normal(draws(autoregressive(0)["x"], kind="direct"))
    assert np.abs(naive).mean() > 2 * np.abs(found).mean()


def _against_normal(one):
    exact = known({"x": (np.zeros(2), np.ones(2))}, one)
    quantiles = np.repeat(scipy.stats.norm.ppf(LEVELS)[:, None], 2, axis=1)
    levels = np.repeat(np.array(LEVELS)[:, None], 2, axis=1)
    return Pool([one]).answers(exact._replace(quantiles=quantiles, levels=levels)).scores


def test_biases_are_in_standard_deviations_of_the_yardstick():
    generator = np.random.default_rng(0)
    one = draws(5 + 3 * generator.normal(size=(1, 20_000, 2)))
    answers = Pool([one]).answers(known({"x": (np.full(2, 2.0), np.full(2, 3.0))}, one))
    np.testing.assert_allclose(answers.bias[0], 1.0, atol=0.05)
    assert np.isnan(answers.bias[1:]).all()
    assert answers.number == 2


def test_weights_count():
    generator = np.random.default_rng(3)
    x = 2 * generator.normal(size=(4, 4000, 1))
    log_weights = (-0.5 * x**2 + 0.5 * (x / 2) ** 2)[:, :, 0]  # to a standard normal law
    weighted = draws(x, log_weights=log_weights)
    one_dim = draws(np.random.default_rng(4).normal(size=(1, 16_000, 1)))
    assert np.abs(scores(weighted, one_dim)).max() < z_limit(4)
    assert np.abs(scores(draws(x), one_dim)).max() > z_limit(4)


def test_discrete_values_are_held_against_their_own_frequencies():
    generator = np.random.default_rng(5)
    a, b = (draws(generator.poisson(1.0, size=(1, 4000, 1)).astype(float)) for _ in range(2))
    assert np.abs(scores(a, b)).max() < z_limit(4)
    c = draws(generator.poisson(1.2, size=(1, 4000, 1)).astype(float))
    assert np.abs(scores(c, b)).max() > z_limit(4)


def test_constants_give_no_answer():
    constant = draws(np.ones((1, 500, 2)))
    assert Pool([constant]).answers(Pool([constant]).yardstick()).number == 0


def test_runs_of_different_length_are_pooled():
    one = make({"mu": np.zeros((4, 100, 3)), "tau": np.ones((4, 100))})
    two = make({"mu": np.zeros((4, 80, 3)), "tau": np.ones((4, 80))})
    pool = Pool([one, two])
    assert pool.x.shape == (8, 80, 4)
    assert pool.labels[0] == "mu[0]"
