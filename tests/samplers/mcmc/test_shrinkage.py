"""A search that shrinks keeps the uniform law on a slice, and ends whatever it meets."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import random

from agreement import t_limit, t_scores
from samplers.mcmc.shrinkage import MAX_TRIES, shrink

pytestmark = pytest.mark.usefixtures("unoptimized")

NUM = 40_000
LIMIT = t_limit(20, NUM - 1)
LOW, HIGH = -1.0, 4.0


def two_pieces(w):
    """A slice of [0, 1] and [2, 2.5]: two thirds of it and a third."""
    inside = ((w >= 0) & (w <= 1)) | ((w >= 2) & (w <= 2.5))
    return jnp.where(inside, 1.0, -1.0), w


def uniform_on_the_slice():
    u = 1.5 * random.uniform(random.key(0), (NUM,))
    return jnp.where(u < 1, u, u + 1)


def scores(search=shrink):
    """Of the share of the first piece, the mean and the mean square, after one search each."""

    @jax.vmap
    def one(key, here):
        bracket = jnp.asarray(LOW), jnp.asarray(HIGH)
        return search(key, bracket, here, two_pieces, jnp.zeros(()), here)

    found = one(random.split(random.key(1), NUM), uniform_on_the_slice())
    assert found.is_found.all()
    x = np.asarray(found.point, float)
    truth = [2 / 3, (0.5 + 0.5 * 2.25) / 1.5, (1 / 3 + (2.5**3 - 8) / 3) / 1.5]
    return np.abs(t_scores(np.stack([x < 1.5, x, x**2], axis=1), truth))


def test_the_uniform_law_on_a_slice_of_two_pieces_stays():
    assert scores().max() < LIMIT


def test_a_bracket_that_shrinks_around_its_middle_is_caught():
    @jax.vmap
    def one(key, here):
        middle, bracket = jnp.asarray((LOW + HIGH) / 2), (jnp.asarray(LOW), jnp.asarray(HIGH))
        return shrink(key, bracket, middle, two_pieces, jnp.zeros(()), here).is_found

    # The middle is not on the slice: the bracket may end beside it.
    assert not one(random.split(random.key(1), NUM), uniform_on_the_slice()).all()


def test_taking_the_first_point_of_any_level_is_caught():
    def twin(key, bracket, here, evaluate, height, start):
        return shrink(key, bracket, here, lambda w: (jnp.ones(()), w), height, start)

    assert scores(twin).max() > LIMIT


def test_a_slice_that_is_never_met_leaves_the_chain_where_it_is():
    def nowhere(w):
        return jnp.where(w > 0, jnp.nan, -1.0), w

    bracket = jnp.asarray(-1.0), jnp.asarray(1.0)
    found = shrink(random.key(0), bracket, jnp.zeros(()), nowhere, jnp.zeros(()), jnp.asarray(7.0))
    assert not found.is_found
    assert found.point == 7.0
    assert found.tries == MAX_TRIES
    assert found.diverging
    assert not shrink(
        random.key(0), bracket, jnp.zeros(()), lambda w: (w + 2, w), jnp.zeros(()), 7.0
    ).diverging


def test_an_infinite_level_is_no_point_of_the_slice():
    bracket = jnp.asarray(-1.0), jnp.asarray(1.0)
    level = lambda w: (jnp.where(w > 0, jnp.inf, 1.0), w)
    keys = random.split(random.key(0), 200)
    found = jax.vmap(
        lambda key: shrink(key, bracket, jnp.asarray(-0.5), level, jnp.zeros(()), jnp.zeros(()))
    )(keys)
    assert (found.point < 0).all()
    assert 0 < found.diverging.mean() < 1
