"""Nested sampling: closed forms, an error that runs confirm, weights of plateaus and batches."""

from functools import cache

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import ppl
from agreement import t_limit, t_scores
from samplers.smc import nested
from samplers.smc.nested import NestedSampling, log_shells, num_alive

pytestmark = pytest.mark.usefixtures("unoptimized")

NUM_RUNS, NUM_CHECKS = 24, 60
LIMIT = t_limit(NUM_CHECKS, NUM_RUNS - 1)
CENTER, NOISE = 3.0, 0.1
# What one dimension of the conjugate Gaussian adds to log Z, and to the information.
LOG_Z = 0.5 * np.log(NOISE / (1 + NOISE)) - CENTER**2 / (2 * (1 + NOISE))
INFORMATION = -(NOISE / (1 + NOISE) + (CENTER * NOISE / (1 + NOISE)) ** 2) / (2 * NOISE) - LOG_Z


@cache
def gaussian_in(dimension):
    return ppl.posterior(
        dist.Normal(jnp.zeros(dimension), 1.0).to_event(1),
        lambda x, center: -jnp.sum((x - center) ** 2) / (2 * NOISE),
        CENTER,
    )


def run(target, num_chains=1, rng_key=0, **options):
    sampler = NestedSampling(**options)
    return ppl.sample(sampler, target, rng_key, num_chains=num_chains, progress=False)


def evidences(draws):
    return ppl.weights.log_sum_exp(np.asarray(draws.log_weights, float))


def check_evidence(draws, dimension, num_live):
    """Z is unbiased, so that its logarithm, of variance H / n, is low by half of that."""
    found, variance = evidences(draws), dimension * INFORMATION / num_live
    assert 0.75 < found.std(ddof=1) / np.sqrt(variance) < 1.33
    assert abs(t_scores(found, dimension * LOG_Z - variance / 2)) < LIMIT


def in_batches():
    """In the plane; a quarter of the live points die at once."""
    return run(gaussian_in(2), NUM_RUNS, num_live=50, num_delete=12)


@pytest.fixture(scope="module")
def gaussian():
    return in_batches()


def test_the_evidence_of_a_gaussian_and_its_error(gaussian):
    check_evidence(gaussian, 2, 50)


@pytest.mark.slow
def test_the_evidence_of_eight_gaussians_and_its_error():
    check_evidence(run(gaussian_in(8), NUM_RUNS, num_live=200), 8, 200)


@pytest.mark.slow
def test_one_run_says_its_error():
    """The spread over histories of X is sqrt(H / n)."""
    draws = run(gaussian_in(3), num_live=400, rng_key=5)
    error = np.sqrt(3 * INFORMATION / 400)
    np.testing.assert_allclose(draws.log_evidence.std_error, error, rtol=0.2)
    assert abs(draws.log_evidence.value - 3 * LOG_Z) < 4.9 * error


@pytest.mark.slow
def test_weighted_draws_are_those_of_the_posterior(gaussian):
    weights = np.exp(ppl.weights.normalize(np.asarray(gaussian.log_weights, float)))[..., None]
    means = (weights * gaussian["x"]).sum(axis=1)
    squares = (weights * (gaussian["x"] - CENTER / (1 + NOISE)) ** 2).sum(axis=1)
    assert np.abs(t_scores(means, CENTER / (1 + NOISE))).max() < LIMIT
    assert np.abs(t_scores(squares, NOISE / (1 + NOISE))).max() < LIMIT


def test_volumes_that_take_a_batch_for_one_death_each_are_caught(monkeypatch):
    """Every death at m = n: the volume shrinks by exp(-1/n) also where nobody was replaced."""
    monkeypatch.setattr(
        nested, "num_alive",
        lambda births, levels: np.minimum(50, np.arange(len(levels), 0, -1)),
    )  # fmt: skip
    assert abs(t_scores(evidences(in_batches()), 2 * LOG_Z)) > LIMIT


def box(y):
    x = numpyro.sample("x", dist.Uniform(-5.0, 5.0).expand([2]).to_event(1))
    numpyro.sample("y", dist.Normal(x, 0.3).to_event(1), obs=y)


@pytest.mark.slow
def test_a_gaussian_in_a_box_on_the_unconstrained_space():
    draws = run(ppl.from_numpyro(box, jnp.array([1.0, -2.0])), NUM_RUNS, num_live=100)
    assert abs(t_scores(evidences(draws), -2 * np.log(10))) < LIMIT
    weights = np.exp(ppl.weights.normalize(np.asarray(draws.log_weights, float)))[..., None]
    means = (weights * draws["x"]).sum(axis=1)
    assert np.abs(t_scores(means, [1.0, -2.0])).max() < LIMIT


def two(x):
    near = dist.Normal(2.5, 0.5).log_prob(x).sum() + jnp.log(0.7)
    return jnp.logaddexp(near, dist.Normal(-2.5, 0.5).log_prob(x).sum() + jnp.log(0.3))


@pytest.mark.slow
def test_two_modes_keep_their_share_and_a_reference_will_do():
    target = ppl.from_log_density(two, jnp.zeros(3))
    reference = dist.Normal(jnp.zeros(3), 3.0).to_event(1)
    draws = run(target, NUM_RUNS, num_live=150, reference=reference)
    assert abs(t_scores(evidences(draws), 0.0)) < LIMIT
    weights = np.exp(ppl.weights.normalize(np.asarray(draws.log_weights, float)))
    masses = np.sum(weights * (draws["x"].mean(axis=-1) < 0), axis=1)
    assert abs(t_scores(masses, 0.3)) < LIMIT


@pytest.mark.slow
def test_parameters_of_very_different_scales_are_moved_alike():
    scales = jnp.array([1e-3, 1.0, 1e4])
    prior = dist.Normal(jnp.array([0.0, 0.0, 1e5]), 10 * scales).to_event(1)
    target = ppl.posterior(
        prior, lambda x: dist.Normal(jnp.array([0.0, 0.0, 1e5]), scales).log_prob(x).sum()
    )
    draws = run(target, num_live=300)
    truth = float(dist.Normal(0.0, 101**0.5 * scales).log_prob(jnp.zeros(3)).sum())
    assert abs(draws.log_evidence.value - truth) < 4.9 * draws.log_evidence.std_error
    assert draws.history["num_stuck"].sum() < 0.001 * draws.num_evaluations[0]


# Weights ----------------------------------------------------------------------------------------


def test_weights_add_up_to_one_and_count_batches_down():
    births = np.array([np.nan] * 4 + [2.0, 2.0, 4.0, 4.0])
    levels = np.array([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0])
    alive = num_alive(births, levels)
    np.testing.assert_array_equal(alive, [4, 3, 4, 3, 4, 3, 2, 1])
    np.testing.assert_allclose(np.exp(log_shells(alive)).sum(), 1.0)


def test_a_plateau_of_impossible_draws_has_its_own_share_of_the_prior():
    # Three of five draws are impossible; those that replace them are born above.
    births = np.array([np.nan] * 5 + [-np.inf] * 3)
    levels = np.array([-np.inf] * 3 + [1.0, 1.5, 2.0, 2.5, 3.0])
    alive = num_alive(births, levels)
    np.testing.assert_array_equal(alive, [5, 4, 3, 5, 4, 3, 2, 1])
    np.testing.assert_allclose(np.exp(log_shells(alive))[3:].sum(), 2 / 5)


@pytest.mark.slow
def test_a_constant_likelihood_is_its_own_evidence():
    target = ppl.posterior(dist.Normal(0.0, 1.0), lambda x: 0.7 + 0 * x)
    draws = run(target, num_live=20)
    np.testing.assert_allclose(draws.log_evidence.value, 0.7, rtol=1e-5)
    assert any("stood still" in note for note in draws.run.notes)


@pytest.mark.slow
def test_a_half_that_is_impossible_halves_the_evidence():
    """NaN on half of the prior: these draws die first, and are counted."""
    target = ppl.posterior(dist.Normal(0.0, 1.0), lambda x: jnp.where(x > 0, jnp.nan, -0.5 * x**2))
    draws = run(target, NUM_RUNS, num_live=100)
    truth = np.log(0.5 / np.sqrt(2))
    assert abs(t_scores(np.exp(evidences(draws) - truth), 1.0)) < LIMIT
    assert (draws["x"][np.isfinite(draws.log_weights)] <= 0).all()
    assert any("NaN or infinite" in note for note in draws.run.notes)


# Bad input ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_live": 1}, "num_live must be an integer, at least 2; got 1"),
        ({"num_live": 50, "num_delete": 50}, "num_delete must be smaller than num_live.*50 and 50"),
        ({"remaining": 1.0}, "remaining must be a number between 0 and 1"),
        ({"reference": "prior"}, "reference must be a NumPyro distribution"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        NestedSampling(**options)


def test_more_dimensions_than_live_points_are_refused():
    with pytest.raises(ppl.TargetError, match=r"8 are too few for 8.*NestedSampling\(num_live=200"):
        run(gaussian_in(8), num_live=8)


@pytest.mark.slow
def test_a_likelihood_that_is_never_there_is_an_error():
    def counts(y):
        rate = numpyro.sample("rate", dist.Gamma(2.0, 1.0))
        with numpyro.plate("row", len(y)):
            numpyro.sample("y", dist.Uniform(0.0, rate), obs=y)

    message = r"NestedSampling: none of 50 draws from the prior.*killed by y\[1\] \(in 100% of them"
    with pytest.raises(ppl.TargetError, match=message):
        run(ppl.from_numpyro(counts, jnp.array([0.1, -3.0])), num_live=50)


def test_a_prior_that_cannot_be_sampled_is_refused():
    target = ppl.from_log_density(two, jnp.zeros(2))
    with pytest.raises(ppl.TargetError, match=r"samplers\.NestedSampling\(reference=numpyro"):
        run(target)
