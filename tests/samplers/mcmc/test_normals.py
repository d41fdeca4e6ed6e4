"""Noise for many keys is that of each key alone, whatever is vmapped over it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import random

from samplers.mcmc.normals import normal

KEYS = random.split(random.key(0), 6)


def plain(key, dimension, dtype=jnp.float32):
    return random.normal(key, (dimension,), dtype)


@pytest.mark.parametrize("dimension", [1, 3, 10])
def test_noise_is_that_of_jax(dimension):
    found = jax.jit(jax.vmap(lambda key: normal(key, dimension, jnp.float32)))(KEYS)
    truth = jax.vmap(lambda key: plain(key, dimension))(KEYS)
    np.testing.assert_allclose(found, truth, rtol=1e-6, atol=1e-7)
    assert len(np.unique(found)) == 6 * dimension
    one = normal(KEYS[2], dimension, jnp.float32)
    np.testing.assert_allclose(one, found[2], rtol=1e-6, atol=1e-7)


def test_any_way_of_batching_gives_the_same():
    keys = KEYS.reshape(2, 3)
    draw = lambda key: normal(key, 4, jnp.float32)
    truth = jax.vmap(jax.vmap(lambda key: plain(key, 4)))(keys)
    np.testing.assert_allclose(jax.vmap(jax.vmap(draw))(keys), truth, rtol=1e-6, atol=1e-7)
    mapped = jax.lax.map(jax.vmap(draw), keys)
    np.testing.assert_allclose(mapped, truth, rtol=1e-6, atol=1e-7)
    last = jax.vmap(draw, out_axes=-1)(keys[0])
    np.testing.assert_allclose(last.T, truth[0], rtol=1e-6, atol=1e-7)


def test_other_generators_and_precisions_are_left_to_jax():
    keys = random.split(random.key(1, impl="rbg"), 3)
    found = jax.vmap(lambda key: normal(key, 3, jnp.float32))(keys)
    np.testing.assert_array_equal(found, jax.vmap(lambda key: plain(key, 3))(keys))
    with jax.enable_x64(True):
        found = jax.vmap(lambda key: normal(key, 3, jnp.float64))(KEYS)
        truth = jax.vmap(lambda key: plain(key, 3, jnp.float64))(KEYS)
        np.testing.assert_array_equal(found, truth)
