"""What all who walk the path share: a metric for few particles, the dead, the next temperature."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

import ppl
from ppl import weights
from samplers.mcmc.hmc import HMC
from samplers.mcmc.metrics import Dense, Diagonal
from samplers.mcmc.random_walk import RandomWalk
from samplers.smc.annealed import AIS
from samplers.smc.path import increments
from samplers.smc.tempered import TemperedSMC

pytestmark = pytest.mark.usefixtures("unoptimized")

PRIOR = dist.Normal(jnp.zeros(3), 1.0).to_event(1)
# Beyond a wall it is not a number.
TARGET = ppl.posterior(
    PRIOR, lambda x, wall: jnp.where(x[0] > wall, jnp.nan, -jnp.sum((x - 1) ** 2)), 0.5
)


@pytest.mark.parametrize("walker", [TemperedSMC, AIS])
def test_few_particles_are_moved_with_a_diagonal_metric_unless_the_move_says_more(walker):
    metric = lambda num_particles, **options: type(
        walker(num_particles, **options).resolve(TARGET).move.metric
    )
    assert metric(16) is metric(16, move=HMC()) is Diagonal
    assert metric(32) is metric(16, move=HMC(metric=Dense())) is metric(16, tune=False) is Dense


@pytest.fixture(scope="module")
def start():
    """A sampler and its first population."""
    walker = TemperedSMC(200, RandomWalk(step_size=0.5), num_moves=1, tune=False).resolve(TARGET)
    return walker, jax.jit(lambda key: walker.init(key, TARGET))(jax.random.key(0))


def test_draws_without_a_likelihood_have_no_weight_and_none_afterwards(start):
    walker, state = start
    positions, _ = state.population.particles
    dead = np.asarray(positions[:, 0] > 0.5)
    assert 20 < dead.sum() < 100
    np.testing.assert_array_equal(state.population.log_weights, np.where(dead, -np.inf, 0))
    cloud = walker.weighed(state, jnp.asarray(0.3))
    expected = np.where(dead, -np.inf, -0.3 * np.sum((np.asarray(positions) - 1) ** 2, axis=1))
    np.testing.assert_allclose(cloud.log_weights, expected, rtol=1e-5)


def test_the_next_temperature_keeps_what_was_asked_or_is_that_of_the_schedule(start):
    walker, state = start
    b = walker.next_temperature(state, jnp.asarray(0.7))
    before, (_, known) = state.population.log_weights, state.population.particles
    left = weights.ess(before + increments(b, known.log_ratio)) / weights.ess(before)
    np.testing.assert_allclose(left, 0.7, rtol=1e-3)
    given = AIS(200, schedule=(0.1, 0.4, 1.0))
    later = state._replace(step=jnp.int32(1))
    assert given.next_temperature(later, jnp.asarray(0.7)) == np.float32(0.4)
