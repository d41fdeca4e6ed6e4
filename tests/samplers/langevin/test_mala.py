"""MALA leaves its targets invariant, whatever the metric; a wrong test does not."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import random

import ppl
from chains import agrees, banana, gaussian, run, scores
from models.programs import rats
from samplers.langevin import mala
from samplers.langevin.mala import MALA
from samplers.mcmc.metrics import Dense, Diagonal, Identity
from samplers.mcmc.metropolis import accept

pytestmark = pytest.mark.usefixtures("unoptimized")


@cache
def correlated():
    return gaussian([1.0, 2.0, 0.5], 0.7)


FACTOR = np.linalg.cholesky([[1.0, 1.2, 0.3], [1.2, 4.0, 0.5], [0.3, 0.5, 0.3]])


def test_mala_leaves_a_correlated_gaussian_invariant():
    assert agrees(scores(MALA(step_size=0.1, metric=Identity()), correlated()))


@pytest.mark.parametrize(
    "metric", [Diagonal([1.0, 2.0, 0.5]), Dense(FACTOR)], ids=["diagonal", "dense"]
)
def test_mala_with_a_metric_leaves_a_correlated_gaussian_invariant(metric):
    assert agrees(scores(MALA(step_size=0.4, metric=metric), correlated()))


def test_mala_leaves_the_banana_invariant():
    assert agrees(scores(MALA(step_size=0.2), banana()))


def test_a_test_with_the_wrong_proposal_ratio_is_caught(monkeypatch):
    def flipped(rng_key, log_ratio, proposed, current):
        difference = proposed.log_density - current.log_density
        return accept(rng_key, 2 * difference - log_ratio, proposed, current)

    monkeypatch.setattr(mala, "accept", flipped)
    assert not agrees(scores(MALA(0.1, Identity()), correlated(), variant="flipped"))


def test_accepting_everything_is_caught(monkeypatch):
    def always(rng_key, log_ratio, proposed, current):
        return accept(rng_key, jnp.zeros(()), proposed, current)

    monkeypatch.setattr(mala, "accept", always)
    assert not agrees(scores(MALA(0.1, Identity()), correlated(), variant="always"))


def test_a_metric_that_makes_the_target_round_is_as_good_as_a_round_target():
    """In z, x = A z, the chain is the one of the identity on the standard normal."""
    factor = np.asarray([[2.0, 0.0], [1.5, 0.1]])
    precision = np.linalg.inv(factor @ factor.T)
    round_ = ppl.from_log_density(lambda z: -0.5 * jnp.sum(z**2), jnp.zeros(2))
    long = ppl.from_log_density(lambda x, p: -0.5 * x @ p @ x, jnp.zeros(2), precision)
    start = jnp.ones((1, 2))
    z, _ = run(MALA(0.5, Identity()), round_, random.key(0), start, 100)
    kernel = MALA(0.5, Dense(factor)).resolve(long)
    x, _ = run(kernel, long, random.key(0), start @ factor.T, 100)
    np.testing.assert_allclose(x, z @ factor.T, atol=1e-3)


def test_warm_up_reaches_the_acceptance_it_is_asked_for():
    target = gaussian([1.0, 10.0, 0.1]).target
    draws = ppl.sample(MALA(), target, rng_key=0, num_samples=500, progress=False)
    assert abs(np.mean(draws.stats["acceptance_rate"]) - 0.574) < 0.1
    scales = np.sqrt(np.diag(draws.sampler.metric.factor @ draws.sampler.metric.factor.T))
    np.testing.assert_allclose(scales, [1.0, 10.0, 0.1], rtol=0.2)


@pytest.mark.slow
def test_warm_up_arrives_on_a_hierarchical_model_from_jittered_starts():
    """Windows that quadruple left each of these chains with a metric of its way in: R-hat 1.6."""
    target = ppl.from_numpyro(rats.model, **rats.data())
    worst = []
    for key in range(3):
        draws = ppl.sample(MALA(), target, rng_key=key, progress=False)
        worst.append(draws.summary()["r_hat"].max())
    # Now and then a chain is still on its way: the warm-up is short, and the report says so.
    assert np.median(worst) < 1.06


def test_retuning_takes_the_metric_of_the_particles_and_follows_the_acceptance():
    known = gaussian([1.0, 10.0])
    kernel = MALA(step_size=0.4, metric=Diagonal()).resolve(known.target)
    particles, log_weights = known.sample(random.key(0), 4000), jnp.zeros(4000)
    retuned = kernel.retune(particles, log_weights, None)
    np.testing.assert_allclose(retuned.metric.scales, [1.0, 10.0], rtol=0.1)
    assert retuned.step_size == kernel.step_size
    _, infos = run(retuned, known.target, random.key(1), particles, 1)
    rate, info = infos.acceptance_rate.mean(), jax.tree.map(lambda x: x[0], infos)
    longer = retuned.retune(particles, log_weights, info).step_size
    np.testing.assert_allclose(longer, 0.4 * np.exp(rate - 0.574), rtol=1e-4)


def test_a_gradient_that_is_not_finite_is_a_rejected_divergence():
    # The square root has an infinite slope at 0, where its value is finite.
    target = ppl.from_log_density(lambda x: jnp.sqrt(jnp.floor(x[0]) * 0 + x[1] * 0), jnp.zeros(2))
    kernel = MALA(0.1, Identity())
    state = mala.MALAState(jnp.ones(2), jnp.zeros(()), jnp.zeros(2))
    new, info = jax.jit(lambda k: kernel.step(k, target, state))(random.key(0))
    assert bool(info.diverging)
    assert float(info.acceptance_rate) == 0
    np.testing.assert_array_equal(new.position, state.position)
