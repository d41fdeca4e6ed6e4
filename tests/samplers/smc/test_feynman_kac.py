"""The engine: its Z is unbiased whatever the resampling, and its mutants are caught.

Two models with a known Z: a chain of three states with potentials of pairs (every quantity by
enumeration), and the path from a prior to a posterior of eight Gaussians with exact moves.
"""

from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import random

from agreement import t_limit, t_scores
from ppl import weights
from samplers.smc import feynman_kac as fk
from samplers.smc.resampling import SCHEMES

pytestmark = pytest.mark.usefixtures("unoptimized")

NUM_CHECKS = 60
START = np.array([0.5, 0.3, 0.2])
MOVE = np.array([[0.7, 0.2, 0.1], [0.3, 0.4, 0.3], [0.2, 0.2, 0.6]])
LAST = np.array([0.02, 0.1, 1.0])
TIMES = 6
# A poor guess of what is to come: 1 early, then a hint, then the truth. Potentials are its ratios.
TWISTS = np.array([np.ones(3)] * 3 + [[0.3, 0.5, 1.0]] * 3 + [LAST])
LOG_Z = float(np.log(START @ np.linalg.matrix_power(MOVE, TIMES) @ LAST))


class Chain(fk.FeynmanKac):
    """Three states; log G_t(x, y) = log twist_t(y) - log twist_{t-1}(x), which is kept with x."""

    log_start: Any
    log_move: Any

    def start(self, rng_key, n):
        x = random.categorical(rng_key, self.log_start, shape=(n,))
        return {"x": x, "log_twist": jnp.zeros(n)}, jnp.zeros(n)

    def advance(self, rng_key, particles, row):
        x = random.categorical(rng_key, self.log_move[particles["x"]])
        log_twist = row[x]
        return {"x": x, "log_twist": log_twist}, log_twist - particles["log_twist"]


CHAIN = Chain(jnp.log(jnp.asarray(START)), jnp.log(jnp.asarray(MOVE)))
ROWS = jnp.log(jnp.asarray(TWISTS[1:]))


@eqx.filter_jit
def runs(model, rows, n, resampler, num_runs, *, force=None, keep_path=False, variant="right"):
    """``num_runs`` runs side by side."""
    run = partial(fk.run, n=n, resampler=resampler, force=force, keep_path=keep_path)
    keys = random.split(random.key(1), num_runs)
    return jax.vmap(lambda key: run(key, model, rows))(keys)


def ratio_score(found, log_z):
    return abs(t_scores(np.exp(np.asarray(found.log_evidence, float) - log_z), 1.0))


OTHERS = sorted(set(SCHEMES) - {"stratified", "multinomial", "ssp"})
NUM_RUNS = 1000
LIMIT = t_limit(NUM_CHECKS, NUM_RUNS - 1)


def on_the_chain(threshold, scheme="stratified", **options):
    resampler = fk.Resampler(jnp.asarray(threshold), scheme)
    return runs(CHAIN, ROWS, 16, resampler, NUM_RUNS, keep_path=True, **options)


@pytest.mark.parametrize("threshold", [0.0, 0.5, 1.0])
def test_z_of_a_chain_is_unbiased_whenever_it_resamples(threshold):
    assert ratio_score(on_the_chain(threshold), LOG_Z) < LIMIT


@pytest.mark.parametrize(
    "scheme",
    ["multinomial", "ssp", *(pytest.param(s, marks=pytest.mark.slow) for s in OTHERS)],
)
def test_z_of_a_chain_is_unbiased_with_every_scheme(scheme):
    assert ratio_score(on_the_chain(1.0, scheme), LOG_Z) < LIMIT


def test_one_run_knows_its_error_where_resampling_is_random():
    found = on_the_chain(1.0, "multinomial")
    error = jax.vmap(fk.log_evidence_error)
    told, between = np.asarray(error(found.population)), np.std(found.log_evidence)
    assert 0.88 < np.sqrt(np.mean(told**2)) / between < 1.12
    # Families taken for independent seem to know less than they do.
    forgotten = found.population._replace(rounding=jnp.zeros(NUM_RUNS))
    assert np.sqrt(np.mean(np.asarray(error(forgotten)) ** 2)) / between > 1.4


def test_forced_resampling_is_done_and_is_unbiased():
    force = jnp.array([False, True, False, False, True, False])
    found = on_the_chain(0.0, force=force)
    assert (np.asarray(found.history.resampled) == np.asarray(force)).all()
    assert ratio_score(found, LOG_Z) < LIMIT


def weights_lost(rng_key, population, resampler, *, force=False):
    """Resamples without banking the mean weight."""
    after, ancestors, done = fk_resample(rng_key, population, resampler, force=force)
    return after._replace(log_evidence=population.log_evidence), ancestors, done


def weights_dropped(rng_key, population, resampler, *, force=False):
    """Forgets the weights where it does not resample."""
    after, ancestors, done = fk_resample(rng_key, population, resampler, force=force)
    return after._replace(log_weights=jnp.zeros_like(after.log_weights)), ancestors, done


def own_ancestors(rng_key, population, resampler, *, force=False):
    """Resets the weights, and every particle stays its own ancestor."""
    after, ancestors, done = fk_resample(rng_key, population, resampler, force=force)
    return after._replace(particles=population.particles), ancestors, done


def half_a_gather(rng_key, population, resampler, *, force=False):
    """Copies the states and leaves what belongs to them behind."""
    after, ancestors, done = fk_resample(rng_key, population, resampler, force=force)
    stale = after.particles | {"log_twist": population.particles["log_twist"]}
    return after._replace(particles=stale), ancestors, done


fk_resample = fk.resample


@pytest.mark.parametrize(
    ("mutant", "threshold"),
    [
        (weights_lost, 1.0),
        (weights_dropped, 0.5),
        (half_a_gather, 1.0),
        pytest.param(own_ancestors, 1.0, marks=pytest.mark.slow),
    ],
)
def test_an_engine_that_loses_weights_or_ancestors_is_caught(monkeypatch, mutant, threshold):
    monkeypatch.setattr(fk, "resample", mutant)
    assert ratio_score(on_the_chain(threshold, variant=mutant.__name__), LOG_Z) > LIMIT


def smoothed(time):
    """Exact law of x_time under the whole weight."""
    forward = START @ np.linalg.matrix_power(MOVE, time)
    backward = np.linalg.matrix_power(MOVE, TIMES - time) @ LAST
    return forward * backward / (forward @ backward)


def paths(population_of, variant):
    """Unnormalized frequencies of the state at each time, one row a run: unbiased for Z p."""
    found = on_the_chain(1.0, "multinomial", variant=variant)
    path = jax.vmap(population_of)(found.history.ancestors, found.path)["x"]
    shares = jax.nn.softmax(found.population.log_weights, axis=-1)
    one_hot = jax.nn.one_hot(path, 3)
    frequency = np.einsum("rtns,rn->rts", np.asarray(one_hot, float), np.asarray(shares, float))
    z = np.exp(np.asarray(found.log_evidence, float) - LOG_Z)
    truth = np.stack([smoothed(t) for t in range(TIMES + 1)])
    return np.abs(t_scores(z[:, None, None] * frequency, truth)).max()


def test_lineages_are_draws_of_the_smoothed_chain_and_unlinked_ones_are_caught():
    assert paths(fk.lineages, "right") < LIMIT
    assert paths(lambda ancestors, path: path, "right") > LIMIT


def test_lineages_follow_the_ancestors_back():
    ancestors = jnp.array([[1, 1, 2], [2, 0, 1]])
    path = jnp.arange(9).reshape(3, 3)
    # Last particle 0 comes from 2 of the middle, which came from 2; 1 from 0 from 1; 2 from 1, 1.
    np.testing.assert_array_equal(fk.lineages(ancestors, path), [[2, 1, 1], [5, 3, 4], [6, 7, 8]])


@pytest.mark.slow
def test_the_step_by_step_loop_is_the_scan():
    resampler = fk.Resampler(0.5)
    whole = fk.run(random.key(5), CHAIN, ROWS, 8, resampler)
    key_start, key_steps = random.split(random.key(5))
    population = fk.begin(*CHAIN.start(key_start, 8))
    for key, row in zip(random.split(key_steps, TIMES), ROWS, strict=True):
        population, _ = fk.step(key, CHAIN, population, row, resampler)
    np.testing.assert_allclose(fk.log_evidence(population), whole.log_evidence, rtol=1e-5)
    np.testing.assert_array_equal(population.particles["x"], whole.population.particles["x"])


# The Gaussian ---------------------------------------------------------------------------------

DIMENSION, CENTER, NOISE = 8, 3.0, 0.1
GAUSSIAN_LOG_Z = DIMENSION * (0.5 * np.log(NOISE / (1 + NOISE)) - CENTER**2 / (2 * (1 + NOISE)))
BETAS = (np.arange(1, 41) / 40) ** 4


class Tempering(fk.FeynmanKac):
    """Prior N(0, I), likelihood exp(-|x - 3|^2 / 0.2), moves that leave each rung invariant:
    at the old rung, then the weight of the new one."""

    keep: Any  # correlation of a move

    def log_likelihood(self, x):
        return -jnp.sum((x - CENTER) ** 2, axis=1) / (2 * NOISE)

    def start(self, rng_key, n):
        return random.normal(rng_key, (n, DIMENSION)), jnp.zeros(n)

    def advance(self, rng_key, particles, row):
        before, beta = row
        precision = 1 + before / NOISE
        mean = before * CENTER / NOISE / precision
        noise = random.normal(rng_key, particles.shape) / jnp.sqrt(precision)
        moved = mean + self.keep * (particles - mean) + jnp.sqrt(1 - self.keep**2) * noise
        return moved, (beta - before) * self.log_likelihood(moved)


RUNGS = (jnp.asarray(np.concatenate([[0], BETAS[:-1]])), jnp.asarray(BETAS))


@pytest.fixture(scope="module")
def gaussian():
    model = Tempering(jnp.asarray(0.5))
    return runs(model, RUNGS, 200, fk.Resampler(0.5), 400)


def test_z_of_eight_gaussians_is_unbiased(gaussian):
    assert np.std(gaussian.log_evidence) < 0.5
    assert ratio_score(gaussian, GAUSSIAN_LOG_Z) < t_limit(NUM_CHECKS, 399)


def test_one_run_knows_its_error(gaussian):
    found = np.asarray(jax.vmap(fk.log_evidence_error)(gaussian.population))
    between = np.std(gaussian.log_evidence)  # known within 4 %
    assert 0.85 < np.sqrt(np.mean(found**2)) / between < 1.15


def test_without_resampling_the_error_is_that_of_the_mean_weight():
    log_weights = jnp.array([0.3, -1.0, 0.7, -jnp.inf])
    error = fk.log_evidence_error(fk.begin(jnp.zeros(4), log_weights))
    np.testing.assert_allclose(error, weights.evidence(log_weights)[1], rtol=1e-5)


def test_means_are_those_of_the_posterior(gaussian):
    shares = jax.nn.softmax(gaussian.population.log_weights, axis=-1)
    x = np.asarray(gaussian.population.particles, float)
    z = np.exp(np.asarray(gaussian.log_evidence, float) - GAUSSIAN_LOG_Z)[:, None]
    errors = np.einsum("rn,rnd->rd", shares, x - CENTER / (1 + NOISE)) * z
    assert np.abs(t_scores(errors, 0.0)).max() < t_limit(NUM_CHECKS, 399)


# Bad weights ----------------------------------------------------------------------------------


class Deadly(fk.FeynmanKac):
    """Particles count their steps; potentials are the rows."""

    def start(self, rng_key, n):
        return jnp.arange(n), jnp.zeros(n)

    def advance(self, rng_key, particles, row):
        return particles + 100, row


def test_a_particle_that_is_nan_dies_is_counted_and_leaves_no_children():
    rows = jnp.zeros((3, 4)).at[0].set(jnp.array([0.0, jnp.nan, jnp.inf, -jnp.inf]))
    found = fk.run(random.key(0), Deadly(), rows, 4, fk.Resampler(1.0))
    np.testing.assert_array_equal(found.history.num_illegal, [2, 0, 0])
    np.testing.assert_array_equal(found.population.particles, 300)
    np.testing.assert_allclose(found.log_evidence, np.log(1 / 4), rtol=1e-6)
    assert not found.dead


def test_a_dead_population_stands_still_and_is_flagged():
    rows = jnp.zeros((3, 4)).at[1].set(-jnp.inf)
    found = fk.run(random.key(0), Deadly(), rows, 4, fk.Resampler(1.0))
    assert found.dead
    assert found.log_evidence == -np.inf
    assert fk.log_evidence_error(found.population) == np.inf
    np.testing.assert_array_equal(found.history.ancestors[2], np.arange(4))
    np.testing.assert_array_equal(np.asarray(found.population.particles) // 100, 2)
    assert not np.isnan(found.history.ess).any()


def test_an_unknown_scheme_is_refused():
    with pytest.raises(ValueError, match=r"scheme must be one of \['multinomial', .*; got 'best'"):
        fk.Resampler(scheme="best")
