"""Back-and-forth local search: exact with its Metropolis test, a search without."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax, random

import samplers
from models.environments.hypergrid import Hypergrid
from samplers.gflownet import local_search
from samplers.gflownet.local_search import back_and_forth
from samplers.gflownet.policies import Table

pytestmark = pytest.mark.usefixtures("unoptimized")

SIDE, NUM, ROUNDS = 3, 20_000, 6
CELLS = jnp.stack(jnp.meshgrid(*[jnp.arange(SIDE)] * 2, indexing="ij"), -1).reshape(-1, 2)
LOG_REWARD = jnp.log(jnp.array([1.0, 0.2, 2.0, 0.4, 3.0, 0.1, 0.7, 1.5, 0.5]))


class Cells(Hypergrid):
    """A reward for each cell, none like another."""

    def log_density(self, position):
        return LOG_REWARD[self.index(position)]


def after_rounds(seed, *, always_up=False):
    """Frequencies of cells after some rounds from exact draws, under a poor policy."""
    environment = Cells(2, SIDE)
    policy = Table(0.7 * random.normal(random.key(1), (SIDE**2, 6)))
    chosen = random.categorical(random.key(seed), LOG_REWARD, shape=(NUM,))

    def one(carry, key):
        found = back_and_forth(
            key, environment, policy, samplers.LearnedBackward(), *carry, always_up=always_up
        )
        return (found.objects, found.log_reward), jnp.mean(found.is_accepted)

    run = eqx.filter_jit(lambda start, keys: lax.scan(one, start, keys))
    start = (CELLS[chosen], LOG_REWARD[chosen])
    (objects, log_reward), accepted = run(start, random.split(random.key(seed + 1), ROUNDS))
    index = np.asarray(objects @ jnp.array([SIDE, 1]))
    np.testing.assert_allclose(log_reward, LOG_REWARD[index])
    return np.bincount(index, minlength=SIDE**2) / NUM, np.asarray(accepted)


def largest_error(frequencies):
    law = np.asarray(jax.nn.softmax(LOG_REWARD), float)
    return np.max(np.abs(frequencies - law) / np.sqrt(law * (1 - law) / NUM))


def test_it_leaves_the_law_invariant_whatever_the_policy():
    frequencies, accepted = after_rounds(0)
    assert largest_error(frequencies) < 4.5
    assert 0.2 < accepted.mean() < 0.95


def test_a_twin_that_forgets_the_number_of_places_is_found(monkeypatch):
    monkeypatch.setattr(local_search, "_log_size", lambda lengths: jnp.zeros(lengths.shape))
    assert largest_error(after_rounds(0)[0]) > 4.5


def test_uphill_is_a_search_and_finds_what_is_better():
    frequencies, _ = after_rounds(0, always_up=True)
    assert frequencies[4] > 0.5 > float(jax.nn.softmax(LOG_REWARD)[4])
