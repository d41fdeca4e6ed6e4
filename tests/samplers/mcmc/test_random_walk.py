"""Random-walk Metropolis leaves its targets invariant and finds its step size."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ppl
from chains import agrees, banana, run, scores
from samplers.mcmc import random_walk
from samplers.mcmc.metropolis import accept
from samplers.mcmc.random_walk import RandomWalk

pytestmark = pytest.mark.usefixtures("unoptimized")


def test_random_walk_leaves_the_banana_invariant():
    assert agrees(scores(RandomWalk(step_size=0.7), banana()))


def test_a_test_at_another_temperature_is_caught(monkeypatch):
    def hot(rng_key, log_ratio, proposed, current):
        return accept(rng_key, 0.8 * log_ratio, proposed, current)

    monkeypatch.setattr(random_walk, "accept", hot)
    assert not agrees(scores(RandomWalk(step_size=0.7), banana(), variant="hot"))


@pytest.mark.parametrize(("dimension", "optimum"), [(1, 0.44), (5, 0.234)])
def test_warm_up_asks_for_the_optimal_acceptance(dimension, optimum):
    target = ppl.from_log_density(lambda x: -0.5 * jnp.sum(x**2), jnp.zeros(dimension))
    np.testing.assert_allclose(RandomWalk().warmup(target).target_acceptance, optimum)


def test_warm_up_reaches_the_acceptance_it_asks_for():
    target = ppl.from_log_density(lambda x: -50 * jnp.sum(x**2), jnp.zeros(5))
    draws = ppl.sample(RandomWalk(step_size=10.0), target, num_samples=500, progress=False)
    assert abs(np.mean(draws.stats["acceptance_rate"]) - 0.234) < 0.06


def test_a_wall_of_density_zero_is_a_rejection_and_no_divergence():
    target = ppl.from_log_density(lambda x: jnp.where(x > 0, -x, -jnp.inf), jnp.zeros(()))
    positions, infos = run(RandomWalk(2.0), target, jax.random.key(0), jnp.ones(8), 200)
    assert (positions > 0).all()
    assert (infos.acceptance_rate == 0).any()
    assert not infos.diverging.any()


def test_integers_are_refused():
    target = ppl.from_log_density(lambda n: -0.1 * n.sum(), jnp.zeros(3, jnp.int32))
    with pytest.raises(ppl.TargetError, match=r"RandomWalk adds Gaussian noise.*int32\[3\]"):
        ppl.sample(RandomWalk(), target, init=jnp.zeros(3, jnp.int32), progress=False)
