"""GaussianVI fits what is Gaussian exactly, and its weights mend what is not."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import random
from numpyro.distributions import constraints
from scipy.special import gammaln

import ppl
from samplers.variational.gaussian import Gaussian, GaussianVI

pytestmark = pytest.mark.usefixtures("unoptimized")

COVARIANCE = np.array([[1.0, 0.9], [0.9, 2.0]])
MEAN = np.array([0.5, -1.0])
PRECISION = np.linalg.inv(COVARIANCE)


def _flat(p):
    return jnp.concatenate([p["a"][None], p["b"]["c"]])


TARGET = ppl.from_log_density(
    lambda p, mean, precision: -0.5 * (_flat(p) - mean) @ precision @ (_flat(p) - mean),
    {"a": jnp.zeros(()), "b": {"c": jnp.zeros(1)}},
    MEAN,
    PRECISION,
)
LOG_Z = np.log(2 * np.pi) + 0.5 * np.linalg.slogdet(COVARIANCE)[1]


@eqx.filter_jit
def train(sampler, target, rng_key, variant="right"):
    """State after training and the infos; ``variant`` names what a test has patched."""

    def step(state, t):
        return sampler.step(random.fold_in(rng_key, t), target, state)

    return jax.lax.scan(step, sampler.init(rng_key, target), jnp.arange(sampler.num_updates))


def test_a_gaussian_is_fitted_exactly_and_all_weights_are_alike():
    sampler = GaussianVI(num_updates=1500)
    state, infos = train(sampler, TARGET, random.key(0))
    factor = state.law.factor
    np.testing.assert_allclose(state.law.mean, MEAN, atol=1e-3)
    np.testing.assert_allclose(factor @ factor.T, COVARIANCE, atol=3e-3)
    np.testing.assert_allclose(infos.elbo[-1], LOG_Z, atol=1e-3)
    positions, log_weights = sampler.draw(random.key(1), TARGET, state, 100)
    np.testing.assert_allclose(log_weights, LOG_Z, atol=1e-2)
    assert positions["b"]["c"].shape == (100, 1)


def test_the_mean_field_fit_is_the_known_one():
    """The factorized law closest in this direction has the precisions of the conditionals."""
    state, infos = train(GaussianVI(num_updates=1500, full_rank=False), TARGET, random.key(0))
    np.testing.assert_allclose(state.law.mean, MEAN, atol=0.05)
    np.testing.assert_allclose(np.exp(state.law.log_diagonal), np.diag(PRECISION) ** -0.5, rtol=0.1)
    gap = 0.5 * (np.log(np.diag(PRECISION)).sum() - np.linalg.slogdet(PRECISION)[1])
    np.testing.assert_allclose(infos.elbo[-200:].mean(), LOG_Z - gap, atol=0.05)


def test_a_fit_without_the_entropy_collapses_and_is_caught(monkeypatch):
    monkeypatch.setattr(Gaussian, "log_density", lambda law, x: jnp.zeros(x.shape[0]))
    state, _ = train(GaussianVI(num_updates=1500), TARGET, random.key(0), "no entropy")
    assert np.linalg.det(state.law.factor) < 0.1 * np.linalg.det(COVARIANCE) ** 0.5


def test_weights_mend_a_skewed_target_and_the_jacobian_enters_once():
    """A gamma law on the positive axis: its mean, and Z, which the log-Jacobian is part of."""
    shape = 3.0
    target = ppl.from_log_density(
        lambda x, a: (a - 1) * jnp.log(x) - x, jnp.ones(()), shape, support=constraints.positive
    )
    sampler = GaussianVI(num_updates=500)
    draws = ppl.sample(sampler, target, num_samples=20_000, progress=False)
    evidence = draws.log_evidence
    assert abs(evidence.value - gammaln(shape)) < 5 * evidence.std_error
    assert evidence.std_error < 0.01
    weights = np.exp(draws.log_weights - draws.log_weights.max())
    third = np.sum(weights * draws["x"] ** 3) / np.sum(weights)
    assert abs(third - 60) < 5
    assert np.mean(draws["x"] ** 3) > 66  # a run that drops its weights is caught


def test_an_update_that_is_not_finite_is_left_out_and_counted():
    target = ppl.from_log_density(lambda x: jnp.where(x > 0, jnp.nan, -x * x), jnp.zeros(()))
    sampler = GaussianVI(num_updates=20)
    state, infos = train(sampler, target, random.key(0))
    assert bool(infos.diverging.all())
    np.testing.assert_array_equal(state.law.mean, 0)
    _, log_weights = sampler.draw(random.key(1), target, state, 50)
    assert not np.isnan(log_weights).any()
    assert (log_weights == -np.inf).any()


def test_the_log_density_of_the_law_is_that_of_its_covariance():
    law = Gaussian(jnp.asarray(MEAN), jnp.array([0.3, -0.2]), jnp.array([[9.0, 9.0], [0.7, 9.0]]))
    x = np.array([[0.1, 0.2], [1.0, -3.0]])
    covariance = np.asarray(law.factor @ law.factor.T)
    expected = [
        -0.5 * (r - MEAN) @ np.linalg.solve(covariance, r - MEAN)
        - 0.5 * np.linalg.slogdet(2 * np.pi * covariance)[1]
        for r in x
    ]
    np.testing.assert_allclose(law.log_density(jnp.asarray(x)), expected, rtol=1e-5)


@pytest.mark.parametrize("full_rank", [True, False])
def test_draws_have_the_law_they_are_scored_by(full_rank):
    law = Gaussian(
        jnp.zeros(2), jnp.array([0.0, 1.0]), jnp.array([[0, 0], [0.5, 0.0]]) if full_rank else None
    )
    noise = law.noise(random.key(0), 7)
    standard = -0.5 * (noise**2 + np.log(2 * np.pi)).sum(1) - 1.0
    np.testing.assert_allclose(law.log_density(law.move(noise)), standard, rtol=1e-5)


def test_a_full_rank_fit_in_many_dimensions_is_exact():
    """With L itself as Adam's variable this run ended at a loss of -1e14."""
    d = 50
    target = ppl.from_log_density(lambda x: -0.5 * jnp.sum(x**2), jnp.zeros(d))
    draws = ppl.sample(GaussianVI(), target, 0, num_samples=500, progress=False)
    assert draws.log_evidence.value == pytest.approx(0.5 * d * np.log(2 * np.pi), abs=1e-3)
    assert ppl.weights.ess(draws.log_weights.ravel()) > 499
