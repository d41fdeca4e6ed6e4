"""R-hat and effective sizes against ArviZ, and where they differ from it on purpose."""

import math

import numpy as np
import pytest
from arviz_stats.base.array import BaseArray

from ppl.diagnostics import rhat_ess


def autoregressions(chains: int, draws: int) -> np.ndarray:
    """Independent, slow, antithetic, rounded and shifted chains."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(chains, draws, 5))
    for column, rho in enumerate([0.0, 0.95, -0.5]):
        for t in range(1, draws):
            x[:, t, column] += rho * x[:, t - 1, column]
    x[:, :, 3] = np.round(x[:, :, 3])
    x[0, :, 4] += 1
    return x


@pytest.mark.parametrize(("chains", "draws"), [(4, 400), (2, 101), (4, 8), (3, 4)])
def test_statistics_are_those_of_arviz(chains, draws):
    x = autoregressions(chains, draws)
    ours, axes, theirs = (
        rhat_ess.chain_statistics(x),
        {"chain_axis": 0, "draw_axis": 1},
        BaseArray(),
    )
    np.testing.assert_allclose(ours.mean, x.mean(axis=(0, 1)))
    np.testing.assert_allclose(ours.mcse_mean, theirs.mcse(x, **axes))
    np.testing.assert_allclose(ours.ess_bulk, theirs.ess(x, **axes))
    np.testing.assert_allclose(
        ours.ess_tail, theirs.ess(x, method="tail", prob=(0.05, 0.95), **axes)
    )
    np.testing.assert_allclose(ours.r_hat, theirs.rhat(x, **axes))


def test_single_measures_are_those_of_the_table():
    x = autoregressions(4, 100)
    table = rhat_ess.chain_statistics(x)
    np.testing.assert_array_equal(rhat_ess.rhat(x), table.r_hat)
    np.testing.assert_array_equal(rhat_ess.ess_bulk(x), table.ess_bulk)
    np.testing.assert_array_equal(rhat_ess.ess_tail(x), table.ess_tail)
    np.testing.assert_allclose(table.sd / np.sqrt(rhat_ess.ess_mean(x)), table.mcse_mean)


def test_blocks_of_scalars_change_nothing(monkeypatch):
    x = autoregressions(4, 100)
    whole = rhat_ess.chain_statistics(x)
    monkeypatch.setattr(rhat_ess, "_BLOCK_BYTES", 2 * 8 * 400)
    for one, other in zip(whole, rhat_ess.chain_statistics(x), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12)


def test_rhat_of_independent_draws_stays_below_the_limit():
    x = np.random.default_rng(1).normal(size=(4, 400, 200))
    assert rhat_ess.rhat(x).max() < 1.01
    assert rhat_ess.ess_bulk(x).mean() == pytest.approx(1600, rel=0.05)


def test_effective_size_of_an_autoregression_is_the_known_one():
    rng = np.random.default_rng(2)
    x = rng.normal(size=(4, 4000, 10))
    x[:, 0] /= math.sqrt(1 - 0.8**2)
    for t in range(1, 4000):
        x[:, t] += 0.8 * x[:, t - 1]
    assert rhat_ess.ess_mean(x).mean() == pytest.approx(16_000 * 0.2 / 1.8, rel=0.08)


def test_one_chain_is_compared_with_itself():
    rng = np.random.default_rng(3)
    x = rng.normal(size=(1, 400, 2))
    x[0, 200:, 1] += 3
    r_hat = rhat_ess.rhat(x)
    assert r_hat[0] < 1.02
    assert r_hat[1] > 1.5


def test_constant_and_broken_scalars_have_no_effective_size():
    x = np.random.default_rng(4).normal(size=(4, 50, 4))
    x[:, :, 1] = 2.0
    x[0, 3, 2] = math.nan
    x[0, 3, 3] = math.inf
    table = rhat_ess.chain_statistics(x)
    for column in (table.ess_bulk, table.ess_tail, table.r_hat, table.mcse_mean):
        np.testing.assert_array_equal(np.isnan(column), [False, True, True, True])


def test_chains_stuck_at_different_values_have_an_infinite_rhat():
    x = np.broadcast_to(np.arange(4.0)[:, None, None], (4, 50, 1))
    assert rhat_ess.rhat(x)[0] == math.inf


@pytest.mark.parametrize("draws", [0, 1, 3])
def test_too_few_draws_give_no_number(draws):
    table = rhat_ess.chain_statistics(np.zeros((4, draws, 2)))
    assert np.isnan(table.r_hat).all()
    assert np.isnan(table.ess_bulk).all()


def test_no_scalars_give_empty_columns():
    assert rhat_ess.chain_statistics(np.zeros((4, 10, 0))).r_hat.shape == (0,)
    assert rhat_ess.rhat(np.zeros((4, 10, 0))).shape == (0,)


def test_normal_scores_average_ties():
    scores = rhat_ess.normal_scores(np.array([[3.0, 1.0, 3.0, 2.0]]))[0]
    assert scores[0] == scores[2]
    assert scores[1] < scores[3] < scores[0]
    assert rhat_ess.normal_scores(np.zeros((1, 5)))[0] == pytest.approx(0, abs=1e-12)
