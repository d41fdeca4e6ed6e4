"""Weight algebra against closed forms, and its invariants."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from arviz_stats.base.array import BaseArray
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ppl import weights

SUMS = [weights.log_sum_exp, weights.log_mean_exp]
SIZES = [weights.ess, weights.entropy_ess, weights.max_weight]
log_weight = st.one_of(st.floats(-700, 700), st.sampled_from([-math.inf, math.nan, math.inf]))
vectors = hnp.arrays(np.float64, st.integers(1, 20), elements=log_weight)


@pytest.mark.parametrize("function", [*SUMS, *SIZES, weights.normalize, weights.probabilities])
@settings(max_examples=40)
@given(log_weights=vectors)
def test_no_weight_makes_nan(function, log_weights):
    assert not np.isnan(function(log_weights)).any()


@settings(max_examples=40)
@given(log_weights=vectors)
def test_illegal_weights_count_as_zero_weight(log_weights):
    legal = np.where(np.isnan(log_weights) | (log_weights == math.inf), -math.inf, log_weights)
    assert weights.count_illegal(log_weights) == (log_weights != legal).sum()
    np.testing.assert_array_equal(weights.normalize(log_weights), weights.normalize(legal))


@settings(max_examples=40)
@given(log_weights=vectors, shift=st.floats(-300, 300), seed=st.integers(0, 99))
def test_sizes_do_not_see_a_constant_or_the_order(log_weights, shift, seed):
    other = np.random.default_rng(seed).permutation(log_weights) + shift
    for function in SIZES:
        np.testing.assert_allclose(function(other), function(log_weights), rtol=1e-9)
    finite = weights.log_sum_exp(log_weights)
    np.testing.assert_allclose(weights.log_sum_exp(other), finite + shift, rtol=1e-9, atol=1e-9)


@settings(max_examples=40)
@given(log_weights=vectors)
def test_sizes_lie_between_one_and_the_number_of_draws(log_weights):
    size = len(log_weights)
    kish, entropy = float(weights.ess(log_weights)), float(weights.entropy_ess(log_weights))
    if not np.isfinite(weights.clean(log_weights)).any():
        assert kish == 0
        assert entropy == 0
        return
    assert 1 - 1e-9 <= kish <= entropy + 1e-9
    assert entropy <= size + 1e-9
    assert 1 / size - 1e-9 <= weights.max_weight(log_weights) <= 1 + 1e-9


def test_equal_weights_are_worth_every_draw():
    flat = np.full(50, -3000.0)
    assert weights.ess(flat) == pytest.approx(50)
    assert weights.entropy_ess(flat) == pytest.approx(50)
    assert weights.log_mean_exp(flat) == pytest.approx(-3000)


def test_conditional_size_is_the_plain_one_after_equal_weights():
    increments = np.random.default_rng(0).normal(size=30)
    equal = np.zeros(30)
    assert weights.cess(equal, increments) == pytest.approx(float(weights.ess(increments)))
    assert weights.cess(increments, equal) == pytest.approx(30)
    assert weights.cess(equal, np.full(30, -math.inf)) == 0


def test_traced_and_host_weights_agree(strict_promotion):
    log_weights = np.random.default_rng(1).normal(size=(3, 40)).astype(np.float32) * 3
    log_weights[1, :5] = -math.inf
    log_weights[2] = -math.inf
    for function in [*SUMS, *SIZES, weights.normalize]:
        traced = jax.jit(function)(jnp.asarray(log_weights))
        assert traced.dtype == jnp.float32
        np.testing.assert_allclose(traced, function(log_weights), rtol=2e-5)
    values = np.random.default_rng(2).normal(size=(40, 2)).astype(np.float32)
    row = log_weights[0]
    for moment in (weights.mean, weights.sd, weights.mcse_mean):
        traced = jax.jit(moment)(jnp.asarray(values), jnp.asarray(row))
        np.testing.assert_allclose(traced, moment(values, row), rtol=1e-4)
    traced = jax.jit(weights.quantile, static_argnums=2)(jnp.asarray(values), jnp.asarray(row), 0.3)
    np.testing.assert_array_equal(traced, weights.quantile(values, row, 0.3))


@settings(max_examples=40)
@given(
    counts=hnp.arrays(np.int64, 6, elements=st.integers(0, 4)).filter(lambda c: c.sum() > 1),
    q=st.sampled_from([0.0, 0.05, 0.25, 0.5, 0.9, 1.0]),
)
def test_whole_weights_count_like_copies_of_a_draw(counts, q):
    values = np.array([[2.0, -1.0], [0.5, 7.0], [3.0, 3.0], [-4.0, 0.0], [9.0, 1.0], [1.0, 1.5]])
    with np.errstate(divide="ignore"):
        log_weights = np.log(counts) + 5
    copies = np.repeat(values, counts, axis=0)
    np.testing.assert_allclose(weights.mean(values, log_weights), copies.mean(axis=0))
    expected = np.quantile(copies, q, axis=0, method="inverted_cdf")
    np.testing.assert_array_equal(weights.quantile(values, log_weights, q), expected)


def test_equal_weights_give_the_usual_moments():
    values = np.random.default_rng(3).normal(size=(30, 2))
    equal = np.full(30, 12.0)
    np.testing.assert_allclose(weights.sd(values, equal), values.std(axis=0, ddof=1))
    usual = values.std(axis=0) / math.sqrt(30)
    np.testing.assert_allclose(weights.mcse_mean(values, equal), usual)


def test_a_draw_without_weight_may_be_nan_or_infinite():
    values = np.array([1.0, math.nan, 3.0, math.inf])
    log_weights = np.array([0.0, -math.inf, 0.0, -math.inf])
    assert weights.mean(values, log_weights) == pytest.approx(2)
    assert weights.sd(values, log_weights) == pytest.approx(math.sqrt(2))
    assert weights.quantile(values, log_weights, 0.9) == 3
    assert np.isfinite(weights.mcse_mean(values, log_weights))


def test_one_draw_with_all_the_weight_has_no_spread():
    values, log_weights = np.array([1.0, 5.0]), np.array([-math.inf, 3.0])
    assert weights.mean(values, log_weights) == 5
    assert weights.sd(values, log_weights) == 0


def _importance(rng, shape):
    """Draws of N(0, 2^2), weighted for N(0, 1) times e^3."""
    x = 2 * rng.normal(size=shape)
    return x, 3 - 0.5 * x**2 + 0.5 * (x / 2) ** 2 + math.log(2)


def test_weighted_moments_are_those_of_the_target():
    x, log_weights = _importance(np.random.default_rng(4), 20_000)
    error = weights.mcse_mean(x, log_weights)
    assert abs(weights.mean(x, log_weights)) < 4.9 * error
    assert abs(weights.mean(x**2, log_weights) - 1) < 4.9 * weights.mcse_mean(x**2, log_weights)
    assert weights.sd(x, log_weights) == pytest.approx(1, abs=0.03)
    assert weights.quantile(x, log_weights, 0.95) == pytest.approx(1.645, abs=0.06)


def test_evidence_is_unbiased_and_knows_its_error():
    _, log_weights = _importance(np.random.default_rng(5), (4000, 50))
    estimates = np.array([weights.evidence(row) for row in log_weights])
    ratio = np.exp(estimates[:, 0] - 3)
    assert abs(ratio.mean() - 1) < 4.9 * ratio.std() / math.sqrt(len(ratio))
    assert estimates[:, 1].mean() == pytest.approx(estimates[:, 0].std(), rel=0.1)


def test_evidence_of_several_runs_is_that_of_all_draws_with_an_error_no_smaller():
    _, log_weights = _importance(np.random.default_rng(6), (8, 500))
    value, error = weights.evidence_estimate(log_weights)[:2]
    pooled = weights.evidence(log_weights.ravel())
    assert value == pytest.approx(float(pooled[0]))
    assert error >= pooled[1] - 1e-12
    shifted = log_weights + np.linspace(-2, 2, 8)[:, None]
    assert weights.evidence_estimate(shifted).std_error > 0.3


def test_draws_that_depend_on_each_other_count_as_one_a_group():
    rng = np.random.default_rng(5)
    levels = rng.normal(size=(2, 3))
    log_weights = np.repeat(levels, 4, axis=1)  # each group of four is one draw, copied
    value, error = weights.evidence_estimate(log_weights, together=4)[:2]
    expected = weights.evidence_estimate(levels)
    np.testing.assert_allclose((value, error), expected[:2], rtol=1e-12)
    # A group that is not full says nothing of errors; a single one cannot.
    more = np.concatenate([log_weights, levels[:, :2]], axis=1)
    assert weights.evidence_estimate(more, together=4).std_error == pytest.approx(error)
    assert weights.evidence_estimate(log_weights[:1, :4], together=4).std_error is None
    assert weights.evidence_estimate(log_weights[:, :3], together=4).std_error > 0


def test_evidence_without_weight_or_with_one_draw_has_no_error():
    assert weights.evidence(np.full(9, -math.inf)) == (-math.inf, math.inf)
    assert weights.evidence(np.array([2.0])) == (2.0, math.inf)


@pytest.mark.parametrize("k", [0.2, 0.65, 1.2])
def test_khat_finds_the_tail_of_pareto_weights(k):
    rng = np.random.default_rng(7)
    found = [weights.pareto_khat(k * rng.exponential(size=4000)) for _ in range(20)]
    assert np.mean(found) == pytest.approx(k, abs=0.1)


def test_errors_of_weights_without_a_variance_are_doubted():
    exponential = np.random.default_rng(5).exponential(size=(2, 4000))
    assert weights.doubt(0.2 * exponential) is None
    assert "have no variance" in weights.doubt(0.85 * exponential)
    assert "have no mean" in weights.doubt(1.5 * exponential)
    # The law of groups decides, where draws depend on each other; few of them tell nothing.
    each = np.repeat(1.5 * exponential[:, :80], 50, axis=1)
    assert "mean weights of populations have no" in weights.doubt(each, 50)
    assert weights.doubt(each, 500) is None


def test_khat_takes_log_weights_with_their_own_sign():
    x = 0.4 * np.random.default_rng(8).normal(size=4000)
    log_weights = -0.5 * x**2 + 0.5 * (x / 0.4) ** 2  # a proposal too narrow: a bad tail
    assert weights.pareto_khat(log_weights) > 0.5
    assert BaseArray().psislw(log_weights)[1] < 0  # the wrong sign is a false all-clear


def test_khat_does_not_see_a_constant_or_the_order():
    rng = np.random.default_rng(9)
    log_weights = rng.exponential(size=500)
    other = rng.permutation(log_weights) - 1000
    assert weights.pareto_khat(other) == pytest.approx(weights.pareto_khat(log_weights))


def test_khat_without_a_fit_says_which_case_it_is():
    rng = np.random.default_rng(10)
    assert weights.pareto_khat(np.full(100, -math.inf)) == math.inf
    assert weights.pareto_khat(np.full(100, math.nan)) == math.inf
    assert weights.pareto_khat(np.full(100, -5.0)) == -math.inf
    assert weights.pareto_khat(np.minimum(rng.normal(size=1000), 0.5)) == -math.inf
    assert math.isnan(weights.pareto_khat(rng.normal(size=weights.MIN_DRAWS_KHAT - 1)))


def test_khat_is_that_of_the_tail_beyond_a_lump_of_equal_weights():
    """A fifth of the tail far out, the rest within 1e-6 of the cutoff, and the mean exists."""
    rng = np.random.default_rng(14)
    values = 1 + 1e-6 * rng.uniform(size=8192)
    k = 0.2
    values[:55] += 0.05 * (rng.uniform(size=55) ** -k - 1) / k
    with np.errstate(all="ignore"):
        assert BaseArray().psislw(-np.log(values))[1] > 2  # without the cut: a false alarm
    assert weights.pareto_khat(np.log(values)) < 1
    # Weights that are as bad as that k says have no lump, and stay bad.
    assert weights.pareto_khat(3.0 * rng.exponential(size=8192)) > 2


def test_zero_weights_take_no_part_in_the_fit():
    rng = np.random.default_rng(11)
    log_weights = rng.exponential(size=500)
    padded = np.concatenate([log_weights, np.full(200, -math.inf), [math.nan]])
    smoothed, khat = weights.pareto_smooth(padded)
    assert khat == weights.pareto_khat(log_weights)
    assert (smoothed[500:] == -math.inf).all()
    assert np.exp(smoothed).sum() == pytest.approx(1)


def test_smoothing_keeps_the_order_and_adds_nothing_to_the_largest_weight():
    log_weights = 0.9 * np.random.default_rng(12).exponential(size=1000)
    smoothed, _ = weights.pareto_smooth(log_weights)
    order = np.argsort(log_weights)
    assert (np.diff(smoothed[order]) >= -1e-12).all()
    middle = order[500]  # not in the tail: its weight changes only by the normalization
    largest = smoothed.max() - smoothed[middle]
    assert largest <= log_weights.max() - log_weights[middle] + 1e-9


def test_resampling_copies_in_proportion_and_never_takes_zero_weight():
    rng = np.random.default_rng(13)
    log_weights = np.array([0.0, -math.inf, 1.0, math.nan, -1.0])
    expected = 7 * weights.probabilities(log_weights)
    counts = np.stack(
        [np.bincount(weights.stratified(rng, log_weights, 7), minlength=5) for _ in range(4000)]
    )
    assert (counts.sum(axis=1) == 7).all()
    assert (counts[:, [1, 3]] == 0).all()
    error = counts.std(axis=0) / math.sqrt(len(counts))
    assert (np.abs(counts.mean(axis=0) - expected) <= 4.9 * error + 1e-12).all()


def test_resampling_without_weight_is_refused():
    with pytest.raises(ValueError, match="none of 3 draws has weight .1 log weights are NaN"):
        weights.stratified(np.random.default_rng(0), np.array([-math.inf, math.nan, -math.inf]), 5)


def test_two_runs_that_agree_by_luck_are_no_surer_than_each_is_of_itself():
    lucky = [weights.Estimate(1.0, 0.2), weights.Estimate(1.0, 0.2)]
    value, error, *_ = weights.evidence_of_runs(lucky)
    assert value == pytest.approx(1.0)
    assert error == pytest.approx(0.2 / np.sqrt(2))
    apart = [weights.Estimate(0.0, 1e-3), weights.Estimate(1.0, 1e-3)]
    assert weights.evidence_of_runs(apart).std_error > 0.3
    unsure = [weights.Estimate(1.0, None), weights.Estimate(1.0, 0.2)]
    assert weights.evidence_of_runs(unsure).std_error == pytest.approx(0.0, abs=1e-6)
    assert weights.evidence_of_runs(lucky[:1]) == lucky[0]


def test_of_many_runs_the_spread_decides():
    runs = [weights.Estimate(z, 5.0) for z in 0.1 * np.random.default_rng(0).normal(size=40)]
    value, error, *_ = weights.evidence_of_runs(runs)
    assert abs(value) < 4.9 * 0.1 / np.sqrt(40)
    assert error == pytest.approx(0.1 / np.sqrt(40), rel=0.5)


def test_weights_too_large_for_their_differences_are_doubted():
    """Equal by rounding: at 10^9, float32 has steps of 64 nats."""
    logs = np.float32(-1e9) + np.arange(20, dtype=np.float32)[None]
    assert weights.ess(logs[0]) > 15
    assert "not known to a nat in float32" in weights.doubt(logs)
    assert weights.doubt(np.zeros((1, 20), np.float32)) is None
    assert weights.doubt(np.full((1, 20), -1e9)) is None
