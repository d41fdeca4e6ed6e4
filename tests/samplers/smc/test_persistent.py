"""Persistent sampling: log Z and draws of all particles, the error of one run, hard constraints."""

import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

import ppl
from agreement import t_limit, t_scores
from ppl.energy import TargetError
from samplers.mcmc.random_walk import RandomWalk
from samplers.smc import persistent
from samplers.smc.persistent import PersistentSMC

pytestmark = pytest.mark.usefixtures("unoptimized")

CENTER, NOISE, DIMENSION, NUM_RUNS, NUM_PARTICLES = 3.0, 0.1, 4, 32, 128
LOG_Z = DIMENSION * (0.5 * np.log(NOISE / (1 + NOISE)) - CENTER**2 / (2 * (1 + NOISE)))
WALL = 2.9


def log_likelihood(x, center, wall):
    inside = -jnp.sum((x - center) ** 2) / (2 * NOISE)
    return jnp.where(x[0] > wall, -jnp.inf, inside)


def posterior(wall=np.inf):
    prior = dist.Normal(jnp.zeros(DIMENSION), 1.0).to_event(1)
    return ppl.posterior(prior, log_likelihood, CENTER, wall)


LIMIT = t_limit(60, NUM_RUNS - 1)


def run(target, num_chains=NUM_RUNS, rng_key=0, max_temperatures=25, **options):
    sampler = PersistentSMC(NUM_PARTICLES, max_temperatures=max_temperatures, **options)
    return ppl.sample(sampler, target, rng_key, num_chains=num_chains, progress=False)


def log_evidences(draws):
    return np.array([z[np.isfinite(z)][-1] for z in draws.history["log_evidence"]], float)


def score(draws, log_z):
    runs = log_evidences(draws)
    assert runs.std() < 0.5
    return t_scores(np.exp(runs - log_z), 1.0)


@pytest.fixture(scope="module")
def draws():
    return run(posterior())


def test_log_z_is_that_of_the_conjugate_gaussian(draws):
    assert abs(score(draws, LOG_Z)) < LIMIT
    estimate = draws.log_evidence
    assert abs(estimate.value - LOG_Z) < 4.9 * estimate.std_error


def test_all_particles_of_a_run_are_draws_of_the_posterior(draws):
    shares = ppl.weights.probabilities(np.asarray(draws.log_weights, float))[..., None]
    x = np.asarray(draws["x"], float)
    means = (shares * x).sum(axis=1)
    squares = (shares * (x - CENTER / (1 + NOISE)) ** 2).sum(axis=1)
    assert np.abs(t_scores(means, CENTER / (1 + NOISE))).max() < LIMIT
    assert np.abs(t_scores(squares, NOISE / (1 + NOISE))).max() < LIMIT
    # More of them than the particles of any one temperature.
    assert np.median(ppl.weights.ess(np.asarray(draws.log_weights, float))) > 1.5 * NUM_PARTICLES


@pytest.mark.slow
def test_one_run_knows_its_error(draws):
    errors = []
    for run in range(NUM_RUNS):
        arrived = draws.history["inverse_temperature"][run]
        num = 1 + np.argmax(arrived >= 1)
        steps = {name: x[run, :num] for name, x in draws.history.items()}
        errors.append(draws.sampler.log_evidence_error(steps))
    ratio = np.sqrt(np.mean(np.square(errors))) / log_evidences(draws).std(ddof=1)
    assert 0.6 < ratio < 1.6  # the spread of 32 runs is known within 13 %


@pytest.mark.slow
def test_a_likelihood_with_a_wall_is_no_trap():
    """Half of the prior draws, and a part of the posterior, lie where it is zero."""
    mean, sd = CENTER / (1 + NOISE), np.sqrt(NOISE / (1 + NOISE))
    log_z = LOG_Z + np.log(float(dist.Normal(mean, sd).cdf(WALL)))
    found = run(posterior(WALL), rng_key=1)
    assert abs(score(found, log_z)) < LIMIT
    assert np.all(found["x"][np.isfinite(found.log_weights)][:, 0] <= WALL)


def test_a_mixture_without_its_earlier_rows_is_caught(monkeypatch):
    """Weights by the last temperature alone, as if all particles were its draws."""
    right = persistent.log_mixture_weights

    def latest(state, b):
        t = state.step
        own = state.inverse_temperatures[t]
        log_z = state.log_evidences[t]
        alike = jnp.full_like(state.inverse_temperatures, own)
        level = jnp.full_like(state.log_evidences, log_z)
        return right(state._replace(inverse_temperatures=alike, log_evidences=level), b)

    monkeypatch.setattr(persistent, "log_mixture_weights", latest)
    found = run(posterior(), 4, move=RandomWalk(step_size=0.2), num_moves=1, tune=False)
    assert abs(np.median(log_evidences(found)) - LOG_Z) > 1


@pytest.mark.slow
def test_a_run_with_too_few_temperatures_says_so():
    found = run(posterior(), num_chains=1, max_temperatures=3)
    assert found.history["inverse_temperature"].max() == 1
    assert any("raise max_temperatures" in note for note in found.run.notes)


def test_draws_that_are_all_impossible_are_an_error():
    with pytest.raises(TargetError, match="PersistentSMC: none of 128 draws from the prior"):
        run(posterior(-np.inf))


def test_a_size_that_is_no_number_is_refused():
    with pytest.raises(ValueError, match="ess must be a positive number; got 0"):
        PersistentSMC(ess=0)
