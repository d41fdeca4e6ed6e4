"""One site at a time on what can be listed: spins and a pair of letters, with broken twins."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import random

import ppl
from chains import Known, agrees, scores
from samplers.mcmc.site_metropolis import SiteMetropolis

pytestmark = pytest.mark.usefixtures("unoptimized")
SPINS = jnp.array(list(itertools.product((-1, 1), repeat=3)), jnp.int32)
WORDS = jnp.array(list(itertools.product(range(3), repeat=2)), jnp.int32)
TABLE = jnp.log(jnp.array([1.0, 0.2, 2.0, 0.4, 3.0, 0.1, 0.7, 1.5, 0.5]))


def chain(s):
    return 0.6 * jnp.sum(s[1:] * s[:-1]) + 0.2 * s[0]


def table(w):
    return TABLE[3 * w[0] + w[1]]


CASES = {"spins": (chain, SPINS, [-1, 1]), "letters": (table, WORDS, 3)}


def known(log_density, states):
    """A target, exact draws of it, and the frequency of each state."""
    target = ppl.from_log_density(log_density, states[0])
    p = np.asarray(jax.nn.softmax(jax.vmap(log_density)(states)), float)

    def sample(key, n):
        return states[random.choice(key, len(states), (n,), p=jnp.asarray(p))]

    return Known(target, sample, lambda x: jnp.all(x == states, axis=1).astype(float), p)


@pytest.mark.parametrize("name", ["letters", pytest.param("spins", marks=pytest.mark.slow)])
def test_every_state_is_visited_as_often_as_it_should(name):
    log_density, states, values = CASES[name]
    assert agrees(scores(SiteMetropolis(values), known(log_density, states)))


def test_a_proposal_that_is_not_symmetric_is_caught():
    """Letter 0 is listed twice, so that it is proposed twice as often as it is left."""
    kernel = SiteMetropolis(3)
    twice = jax.tree.map(lambda v: jnp.array([0, 0, 1, 2], jnp.int32), kernel)
    assert not agrees(scores(twice, known(table, WORDS), variant="twice"))


def test_it_moves_integers_among_its_values_only():
    real = ppl.from_log_density(lambda x: -jnp.sum(x**2), jnp.zeros(2))
    with pytest.raises(ppl.TargetError, match="SiteMetropolis moves integers.*float32"):
        ppl.sample(SiteMetropolis(2), real, progress=False)
    target = known(table, WORDS).target
    with pytest.raises(ppl.TargetError, match="would never return to 7, which is in a start"):
        ppl.sample(SiteMetropolis(3), target, init=jnp.full((4, 2), 7), progress=False)
    for wrong in (1, True, [0, 0], [0.5, 1.0]):
        with pytest.raises(ValueError, match="values must be how many there are"):
            SiteMetropolis(wrong)
