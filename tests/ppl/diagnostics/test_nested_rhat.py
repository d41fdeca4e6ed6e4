"""Nested R-hat against ArviZ and against its null; starts that are not forgotten."""

import math

import numpy as np
import pytest
import scipy.stats
from arviz_stats.base.array import BaseArray

from made_draws import of_values
from ppl.diagnostics.nested_rhat import nested_rhat
from ppl.diagnostics.rhat_ess import rhat

GROUPS, PER = 8, 16


def chains(seed, forgotten=1.0, draws=5, d=4, rho=0.9):
    """Stationary autoregressions, started at one far point a superchain; 1: nothing is left."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(GROUPS * PER, draws, d))
    for t in range(1, draws):
        x[:, t] = rho * x[:, t - 1] + math.sqrt(1 - rho**2) * x[:, t]
    starts = 3 * rng.normal(size=(GROUPS, 1, 1, d))
    return x + (1 - forgotten) * np.repeat(starts, PER, axis=0).reshape(-1, 1, d)


def test_value_is_that_of_arviz():
    x, ids = chains(0, 0.8), np.repeat(np.arange(GROUPS), PER)
    axes = {"chain_axis": 0, "draw_axis": 1}
    theirs = BaseArray().rhat_nested(x, ids, method="identity", **axes)
    ours = nested_rhat(x, GROUPS, rank_normalize=False).r_hat
    np.testing.assert_allclose(ours, theirs)


@pytest.mark.parametrize("draws", [1, 5])
def test_p_value_is_uniform_once_starts_are_forgotten(draws):
    pvalues = np.concatenate(
        [nested_rhat(chains(s, draws=draws), GROUPS).p_value for s in range(200)]
    )
    assert scipy.stats.kstest(pvalues, "uniform").pvalue > 1e-4


def test_short_chains_have_a_large_rhat_and_a_good_nested_one():
    x = chains(1)
    assert rhat(x).min() > 1.1
    found = nested_rhat(x, GROUPS)
    assert found.r_hat.max() < math.sqrt(1 + 3 / PER)
    assert found.p_value.min() > 0.01


def test_starts_that_are_not_forgotten_are_seen():
    found = nested_rhat(chains(1, forgotten=0.5), GROUPS)
    assert found.r_hat.min() > 1.2
    assert found.p_value.max() < 1e-6


def test_one_draw_a_chain_has_the_known_value():
    found = nested_rhat(np.random.default_rng(0).normal(size=(64 * PER, 1, 3)), 64)
    np.testing.assert_allclose(found.r_hat, math.sqrt(1 + 1 / PER), atol=0.02)


def test_scalars_that_do_not_vary_agree_and_stuck_groups_do_not():
    stuck = np.repeat(np.arange(GROUPS, dtype=float), PER)[:, None, None] * np.ones((1, 5, 1))
    same, apart = (nested_rhat(x, GROUPS) for x in (0 * stuck, stuck))
    assert same.r_hat[0] == 1
    assert same.p_value[0] == 1
    assert apart.r_hat[0] > 1e3
    assert apart.p_value[0] == 0


def test_draws_are_taken_and_bad_groups_refused():
    x = chains(2)
    from_draws = nested_rhat(of_values({"x": x}), GROUPS)
    np.testing.assert_array_equal(from_draws.r_hat, nested_rhat(x, GROUPS).r_hat)
    with pytest.raises(
        ValueError, match="needs 4 superchains of 2 chains, with a draw in each; got"
    ):
        nested_rhat(x, 3)
    with pytest.raises(ValueError, match="got 8 chains of 5 draws in 8 superchains"):
        nested_rhat(x[:8], 8)
    with pytest.raises(ValueError, match="of 0 draws"):
        nested_rhat(x[:, :0], GROUPS)
    with pytest.raises(ValueError, match="128 chains cannot be divided among 5"):
        nested_rhat(x, 5)
    with pytest.raises(ValueError, match="finite"):
        nested_rhat(np.where(x > 2, np.nan, x), GROUPS)
    with pytest.raises(ValueError, match=r"\(chain, draw, d\); got \(128, 5\)"):
        nested_rhat(x[:, :, 0], GROUPS)
