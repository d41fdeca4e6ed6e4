"""Metrics: linear maps, and what draws and gradients say about them."""

from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from samplers.mcmc import metrics
from samplers.mcmc.metrics import Dense, Diagonal, Identity, LowRank, default_metric

fit = eqx.filter_jit(lambda metric, x, g, count: metric.fit(x, g, count))


def rotated(dimension, condition, seed=0):
    """Covariance with log-spaced eigenvalues around 1, randomly rotated."""
    rng = np.random.default_rng(seed)
    rotation = np.linalg.qr(rng.normal(size=(dimension, dimension)))[0]
    values = np.logspace(-0.5, 0.5, dimension, base=condition)
    return (rotation * values) @ rotation.T


N, D = 60, 30  # one shape for all, so that every metric is compiled once


def data(covariance, draws, rows=N):
    """Centered draws and gradients of a Gaussian, scaled as `fit` takes them; zero rows to fill."""
    draws = np.asarray(draws, np.float32)  # what a chain sees is rounded first
    gradients = -np.linalg.solve(covariance, draws.T.astype(np.float64)).T
    n = len(draws)

    def deviations(values):
        centered = np.zeros((rows, values.shape[1]))
        centered[:n] = (values - values.mean(0)) / np.sqrt(n)
        return jnp.asarray(centered, jnp.float32)

    return deviations(draws.astype(np.float64)), deviations(gradients), jnp.float32(n)


def normal(covariance, num_draws, seed=0):
    rng = np.random.default_rng(seed)
    return rng.multivariate_normal(np.zeros(len(covariance)), covariance, num_draws)


def matrix(metric, dimension):
    """``A``, column by column."""
    return np.asarray(jax.vmap(metric.scale)(jnp.eye(dimension)).T, np.float64)


def misfit(metric, covariance):
    """Eigenvalues of ``S^-1/2 A A^T S^-T/2``: ones where the target is made round."""
    a = np.linalg.solve(np.linalg.cholesky(covariance), matrix(metric, len(covariance)))
    return np.linalg.svd(a)[1] ** 2


def laid_out(metric, dimension=D, dtype=jnp.float32):
    return metric.for_dimension(dimension, dtype)


METRICS = [Identity(), Diagonal(), Dense(), LowRank(rank=8)]
NAMES = [type(metric).__name__ for metric in METRICS]


@pytest.fixture(scope="module")
def fitted():
    """Every metric, fitted to the same correlated Gaussian."""
    covariance = rotated(D, 100.0)
    observed = data(covariance, normal(covariance, N))
    return {name: fit(laid_out(m), *observed) for name, m in zip(NAMES, METRICS, strict=True)}


@pytest.mark.parametrize("name", NAMES)
def test_scale_transposed_is_the_transpose_of_scale(fitted, name):
    metric = fitted[name]
    transposed = np.asarray(jax.vmap(metric.scale_transposed)(jnp.eye(D)).T)
    np.testing.assert_allclose(transposed, matrix(metric, D).T, rtol=1e-5, atol=1e-5)


def test_the_dense_factor_is_not_symmetric(fitted):
    """Else the test above could not tell a factor from its transpose."""
    a = matrix(fitted["Dense"], D)
    assert np.abs(a - a.T).max() > 0.1


def test_dense_metric_of_a_gaussian_is_exact_from_a_few_draws_in_single_precision():
    """Condition number 1e4, twice as many draws as dimensions; the covariance is off by 30."""
    covariance = rotated(D, 1e4)
    x, g, count = data(covariance, normal(covariance, N))
    values = misfit(fit(laid_out(Dense()), x, g, count), covariance)
    # What is missing is the share of the pseudo-draws, and rounding.
    assert values.min() > 0.75
    assert values.max() < 1.35
    sample = misfit(Dense(np.linalg.cholesky(x.T @ x)), covariance)
    assert sample.max() / sample.min() > 30


def test_dense_metric_needs_no_converged_draws():
    covariance = rotated(D, 1e4)
    scattered = np.random.default_rng(0).uniform(-2, 2, (N, D))
    values = misfit(fit(laid_out(Dense()), *data(covariance, scattered)), covariance)
    assert values.max() / values.min() < 50


def test_dense_metric_solves_the_equation_of_theorem_2_3_beyond_gaussians(x64):
    rng = np.random.default_rng(0)
    x, g = (jnp.asarray(rng.normal(size=(50, 5)) @ rng.normal(size=(5, 5))) for _ in range(2))
    metric = fit(laid_out(Dense(), 5, jnp.float64), x, g, jnp.asarray(1e8))
    inverse_mass = matrix(metric, 5) @ matrix(metric, 5).T
    np.testing.assert_allclose(inverse_mass @ (g.T @ g) @ inverse_mass, x.T @ x, rtol=1e-5)


def test_diagonal_metric_of_an_uncorrelated_gaussian_is_exact_from_three_draws():
    scales = np.logspace(-3, 2, D)
    observed = data(np.diag(scales**2), np.random.default_rng(0).normal(size=(3, D)))
    metric = fit(laid_out(Diagonal()), *observed)
    np.testing.assert_allclose(metric.scales, scales, rtol=1e-4)


@pytest.mark.parametrize("num_draws", [20, N], ids=["fewer draws than dimensions", "more"])
def test_low_rank_metric_finds_the_directions_that_are_not_round(num_draws):
    directions = np.linalg.qr(np.random.default_rng(0).normal(size=(D, 4)))[0]
    values = np.array([400.0, 100.0, 0.005, 0.01])
    covariance = np.eye(D) + (directions * (values - 1)) @ directions.T
    observed = data(covariance, normal(covariance, num_draws))
    low_rank = misfit(fit(laid_out(LowRank(rank=8)), *observed), covariance)
    diagonal = misfit(fit(laid_out(Diagonal()), *observed), covariance)
    assert low_rank.max() / low_rank.min() < 40  # of 80,000
    assert diagonal.max() / diagonal.min() > 1000


def test_fewer_draws_than_dimensions_leave_the_diagonal_where_nothing_moved():
    covariance = np.diag(np.linspace(1, 4, D))
    x, g, count = data(covariance, normal(covariance, 8))
    values = misfit(fit(laid_out(Dense()), x, g, count), covariance)
    assert values.min() > 0.5
    assert values.max() < 2
    # The covariance of eight draws, by contrast, has collapsed.
    assert np.linalg.eigvalsh(x.T @ x)[D // 2] < 1e-5


@pytest.mark.parametrize("name", NAMES[1:])
@pytest.mark.parametrize("poison", [np.nan, np.inf, 0.0])
def test_a_metric_stays_when_the_data_are_unusable(fitted, name, poison):
    x, g, count = data(np.eye(D), normal(np.eye(D), N))
    x, g = (0 * x, 0 * g) if poison == 0 else (x, g.at[3, 3].set(poison))
    after = fit(fitted[name], x, g, count)
    for old, new in zip(jax.tree.leaves(fitted[name]), jax.tree.leaves(after), strict=True):
        np.testing.assert_array_equal(old, new)


@pytest.mark.parametrize(
    "metric", [Dense(), LowRank(rank=D, cutoff=1.0)], ids=["dense", "low rank"]
)
def test_without_gradients_the_covariance_decides(metric):
    covariance = rotated(D, 50.0)
    x = jnp.asarray(np.linalg.cholesky(covariance).T, jnp.float32)  # x^T x is the covariance
    values = misfit(fit(laid_out(metric), x, None, jnp.float32(1e4)), covariance)
    np.testing.assert_allclose(values, 1, atol=0.01)


def test_default_is_dense_for_few_dimensions_and_low_rank_for_many():
    assert isinstance(default_metric(metrics.DENSE_UP_TO), Dense)
    assert isinstance(default_metric(metrics.DENSE_UP_TO + 1), LowRank)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (partial(Diagonal, [1.0, -1.0]), r"scales must be positive; the smallest is -1\.0"),
        (partial(Diagonal, [[1.0]]), r"array of 1 axes .* got shape \(1, 1\)"),
        (partial(Dense, [[np.nan]]), r"factor must be an array of 2 axes of finite numbers"),
        (partial(LowRank, rank=0), "rank must be an integer, at least 1; got 0"),
        (partial(LowRank, cutoff=0.5), r"cutoff must be at least 1; got 0\.5"),
        (partial(laid_out, Diagonal([1.0, 2.0]), 3), r"must have shape \(3,\) .* got \(2,\)"),
        (partial(laid_out, Dense(np.eye(2)), 3), r"must have shape \(3, 3\) .* got \(2, 2\)"),
    ],
)
def test_refusals_say_what_was_got(make, message):
    with pytest.raises(ValueError, match=message):
        make()
