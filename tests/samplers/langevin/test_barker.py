"""Barker's proposal: exact with any metric, the peer's formula, and robust where MALA is not."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from blackjax.mcmc import barker as blackjax_barker
from jax import random

import ppl
from chains import agrees, banana, gaussian, run, scores
from samplers.langevin import barker
from samplers.langevin.barker import Barker, BarkerState, log_ways
from samplers.langevin.mala import MALA
from samplers.mcmc.metrics import Dense, Diagonal, Identity
from samplers.mcmc.metropolis import accept

pytestmark = pytest.mark.usefixtures("unoptimized")


@cache
def correlated():
    return gaussian([1.0, 2.0, 0.5], 0.7)


FACTOR = np.linalg.cholesky([[1.0, 1.2, 0.3], [1.2, 4.0, 0.5], [0.3, 0.5, 0.3]])


@pytest.mark.parametrize("metric", [Identity(), Dense(FACTOR)], ids=["identity", "dense"])
def test_barker_leaves_a_correlated_gaussian_invariant(metric):
    assert agrees(scores(Barker(step_size=0.8, metric=metric), correlated()))


def test_barker_leaves_the_banana_invariant():
    assert agrees(scores(Barker(step_size=0.7), banana()))


def test_a_test_without_the_proposal_ratio_is_caught(monkeypatch):
    def symmetric(rng_key, log_ratio, proposed, current):
        return accept(rng_key, proposed.log_density - current.log_density, proposed, current)

    monkeypatch.setattr(barker, "accept", symmetric)
    assert not agrees(scores(Barker(0.8, Identity()), correlated(), variant="symmetric"))


@pytest.mark.usefixtures("x64")
def test_the_ratio_of_proposals_is_that_of_the_densities_of_the_proposal():
    """q(x, y) = prod_i 2 N(w_i; 0, s^2) / (1 + exp(-w_i g_i)), with BlackJAX's density."""
    x, y, g, h = random.normal(random.key(3), (4, 5))
    forward = jnp.sum(blackjax_barker._barker_logpdf(y, x, g, 0.7))
    back = jnp.sum(blackjax_barker._barker_logpdf(x, y, h, 0.7))
    ours = log_ways(y - x, g) - log_ways(x - y, h)
    np.testing.assert_allclose(ours, back - forward, rtol=1e-10)


def test_a_gradient_beyond_what_an_exponential_holds_is_no_obstacle():
    """exp(1e3) overflows in float32: BlackJAX's ratio is NaN there and the chain stands."""
    target = ppl.from_log_density(lambda x: -0.25 * jnp.sum(x**4), jnp.zeros(4))
    start = jnp.full((32, 4), 50.0)
    positions, infos = run(Barker(0.5, Identity()), target, random.key(0), start, 600)
    assert np.median(np.abs(positions[-1])) < 2
    stuck, _ = run(MALA(0.1, Identity()), target, random.key(0), start, 600)
    np.testing.assert_array_equal(stuck[-1], start)


def test_warm_up_reaches_the_acceptance_it_is_asked_for():
    target = gaussian([1.0, 10.0, 0.1]).target
    draws = ppl.sample(Barker(), target, rng_key=0, num_samples=500, progress=False)
    assert abs(np.mean(draws.stats["acceptance_rate"]) - 0.4) < 0.1
    scales = np.sqrt(np.diag(draws.sampler.metric.factor @ draws.sampler.metric.factor.T))
    np.testing.assert_allclose(scales, [1.0, 10.0, 0.1], rtol=0.25)


def test_retuning_takes_the_metric_of_the_particles():
    known = gaussian([1.0, 10.0])
    kernel = Barker(step_size=0.4, metric=Diagonal()).resolve(known.target)
    particles, log_weights = known.sample(random.key(0), 4000), jnp.zeros(4000)
    retuned = kernel.retune(particles, log_weights, None)
    np.testing.assert_allclose(retuned.metric.scales, [1.0, 10.0], rtol=0.1)
    assert retuned.step_size == kernel.step_size


def test_a_gradient_that_is_not_finite_is_a_rejected_divergence():
    target = ppl.from_log_density(lambda x: jnp.sqrt(jnp.floor(x[0]) * 0 + x[1] * 0), jnp.zeros(2))
    kernel = Barker(0.1, Identity())
    state = BarkerState(jnp.ones(2), jnp.zeros(()), jnp.zeros(2))
    new, info = jax.jit(lambda k: kernel.step(k, target, state))(random.key(0))
    assert bool(info.diverging)
    np.testing.assert_array_equal(new.position, state.position)
