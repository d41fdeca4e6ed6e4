"""The path: its ends, weights that stay what they are, steps that keep what was asked."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

import ppl
from ppl import weights
from samplers.mcmc.hmc import HMC
from samplers.mcmc.random_walk import RandomWalk
from samplers.smc.path import Path, increments, next_inverse_temperature

pytestmark = pytest.mark.usefixtures("unoptimized")

PRIOR = dist.Normal(jnp.zeros(2), 3.0).to_event(1)


def log_likelihood(x, center):
    return -jnp.sum((x - center) ** 2)


POSTERIOR = ppl.posterior(PRIOR, log_likelihood, 1.0)
X = jnp.array([0.3, -1.2])


def test_the_path_runs_from_the_prior_to_the_target():
    path = Path(POSTERIOR)
    prior, likelihood = PRIOR.log_prob(X), log_likelihood(X, 1.0)
    for b in (0.0, 0.25, 1.0):
        found = path.at(jnp.asarray(b)).log_density(X)
        np.testing.assert_allclose(found, prior + b * likelihood, rtol=1e-5)
    np.testing.assert_allclose(path.log_ratios(X[None]), [likelihood], rtol=1e-5)


def test_the_path_runs_from_the_reference_to_the_target():
    reference = ppl.from_distribution(dist.Normal(jnp.ones(2), 0.5).to_event(1))
    path = Path(POSTERIOR, reference)
    start, end = reference.log_density(X), POSTERIOR.log_density(X)
    for b in (0.0, 0.25, 1.0):
        found = path.at(jnp.asarray(b)).log_density(X)
        np.testing.assert_allclose(found, (1 - b) * start + b * end, rtol=1e-4)
    draws = path.sample(jax.random.key(0), 4000)
    np.testing.assert_allclose(draws.mean(axis=0), 1.0, atol=5 * 0.5 / 4000**0.5)


@pytest.mark.parametrize("reference", [None, ppl.from_distribution(PRIOR)])
@pytest.mark.parametrize("move", [HMC(), RandomWalk()])
def test_what_moves_know_at_one_temperature_tells_of_every_other_one(reference, move):
    path, x = Path(POSTERIOR, reference), 2 * jax.random.normal(jax.random.key(3), (50, 2))
    known = path.known(x, move)
    np.testing.assert_allclose(known.log_ratio, path.log_ratios(x), rtol=1e-5)
    for b in (0.01, 1.0):
        log_density, gradient = known.at(jnp.asarray(b))
        rung = jax.vmap(jax.value_and_grad(path.at(jnp.asarray(b)).log_density))(x)
        np.testing.assert_allclose(log_density, rung[0], rtol=1e-5)
        assert (gradient is None) == (known.slopes is None) == isinstance(move, RandomWalk)
        if gradient is not None:
            np.testing.assert_allclose(gradient, rung[1], rtol=1e-4, atol=1e-4)
        found = path.known_from(x, jnp.asarray(b), log_density, gradient)
        for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(known), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5 / b)


def test_a_particle_without_density_is_known_to_have_none():
    found = Path(POSTERIOR).known_from(
        jnp.zeros((2, 2)), jnp.asarray(0.1), jnp.array([-jnp.inf, jnp.nan]), jnp.zeros((2, 2))
    )
    np.testing.assert_array_equal(found.log_ratio, [-np.inf, np.nan])


@pytest.mark.parametrize("value", [-jnp.inf, jnp.nan, jnp.inf])
def test_the_start_of_the_path_does_not_see_the_likelihood(value):
    path = Path(ppl.posterior(PRIOR, lambda x, v: v + 0 * x[0], value))
    np.testing.assert_allclose(path.at(jnp.zeros(())).log_density(X), PRIOR.log_prob(X), rtol=1e-5)


def test_impossible_particles_stay_so_whatever_the_step():
    found = increments(0.0, jnp.array([-2.0, -jnp.inf, jnp.nan, jnp.inf]))
    np.testing.assert_array_equal(found, [0, -np.inf, -np.inf, -np.inf])
    np.testing.assert_allclose(increments(0.5, jnp.array([-2.0, 3.0])), [-1.0, 1.5])


V = -5 * jax.random.normal(jax.random.key(1), (1000, 3)) ** 2 @ jnp.ones(3)
W = -jax.random.exponential(jax.random.key(2), (1000,))


@pytest.mark.parametrize("kept", [0.3, 0.9])
def test_a_step_keeps_the_share_of_the_size_that_was_asked(kept):
    b = jnp.asarray(0.1)
    found = next_inverse_temperature(V, W, b, jnp.asarray(kept))
    assert b < found < 1
    left = weights.ess(W + increments(found - b, V)) / weights.ess(W)
    np.testing.assert_allclose(left, kept, rtol=1e-3)
    found = next_inverse_temperature(V, W, b, jnp.asarray(kept), "cess")
    left = weights.cess(W, increments(found - b, V)) / 1000
    np.testing.assert_allclose(left, kept, rtol=1e-3)


def test_the_two_rules_are_one_where_weights_are_equal():
    zero, b, kept = jnp.zeros(1000), jnp.asarray(0.2), jnp.asarray(0.5)
    ess, cess = (next_inverse_temperature(V, zero, b, kept, rule) for rule in ("ess", "cess"))
    np.testing.assert_allclose(ess, cess, rtol=1e-5)


def test_the_last_step_is_to_one():
    b, kept = jnp.asarray(0.9), jnp.asarray(0.5)
    assert next_inverse_temperature(0.01 * V, W, b, kept) == 1
    dead = jnp.full(1000, -jnp.inf)
    assert next_inverse_temperature(dead, W, b, kept) == 1


def test_a_step_is_never_too_small_to_be_one():
    found = next_inverse_temperature(1e12 * V, W, jnp.asarray(0.5), jnp.asarray(0.5))
    assert found > 0.5
