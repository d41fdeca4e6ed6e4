"""Normal noise: the generator's own blocks, the normal law up to its tails, nothing shared."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import random
from jax.extend.random import threefry_2x32
from scipy import stats
from scipy.special import ndtr

from ppl import noise
from ppl.noise import normal

N = 1 << 20


@pytest.fixture(scope="module")
def draws():
    return np.asarray(normal(random.key(3), (N,)), np.float64)


def score(values, expected):
    """Distance of a mean from what is expected, in standard errors."""
    return abs(np.mean(values) - expected) / (np.std(values) / np.sqrt(np.size(values)))


def test_blocks_are_those_of_the_generator():
    key = random.key(17)
    words = noise._blocks(random.key_data(key), 1000)
    counters = jnp.arange(1000, dtype=jnp.uint32)
    expected = threefry_2x32(random.key_data(key), jnp.concatenate([0 * counters, counters]))
    np.testing.assert_array_equal(jnp.concatenate(words), expected)


def test_moments_and_tails_are_normal(draws):
    for power, moment in ((1, 0), (2, 1), (3, 0), (4, 3), (6, 15), (8, 105)):
        assert score(draws**power, moment) < 4.9, power
    assert stats.kstest(draws, "norm").pvalue > 1e-4
    assert score((1.01 * draws) ** 2, 1) > 4.9
    for at in (2.0, 3.0, 4.0, 5.0):
        expected = N * ndtr(-at)
        for tail in (draws > at, draws < -at):
            assert abs(tail.sum() - expected) < 4.9 * np.sqrt(expected) + 1, at


def test_numbers_share_nothing(draws):
    """Neither the two of a pair, nor neighbors, nor other keys, nor squares of these."""
    half = N // 2
    others = np.asarray(normal(random.fold_in(random.key(3), 1), (N,)), np.float64)
    pairs = {
        "a pair": (draws[:half], draws[half:]),
        "neighbors": (draws[1:], draws[:-1]),
        "keys": (draws, others),
    }
    for name, (a, b) in pairs.items():
        for power in (1, 2, 3):
            moment = {1: 0, 2: 1, 3: 0}[power]
            assert score(a**power * b**power, moment) < 4.9, (name, power)
    radius = draws[:half] ** 2 + draws[half:] ** 2
    assert stats.kstest(radius[: 1 << 18] / 2, "expon").pvalue > 1e-4
    angle = np.arctan2(draws[half:], draws[:half])[: 1 << 18]
    assert stats.kstest(angle / (2 * np.pi) + 0.5, "uniform").pvalue > 1e-4
    assert stats.kstest(np.abs(angle) / (2 * np.pi) + 0.5, "uniform").pvalue < 1e-4  # a lost sign


def test_uniform_numbers_reach_down_to_their_last_bit():
    words = np.concatenate([np.arange(200), 2 ** np.arange(8.0, 32), [2.0**32 - 1]]).astype(
        np.uint32
    )
    exact = ((words >> 1) + 0.5) * 2.0**-31
    np.testing.assert_allclose(noise._uniform(jnp.asarray(words)), exact, rtol=1e-7)


def test_the_transform_is_exact_to_the_last_digits_and_in_the_tail():
    """Against float64: the radius, and the angle within each octant; the circle is covered once."""
    u, v = (x.ravel() for x in np.meshgrid(2.0 ** -np.arange(1.0, 33), np.linspace(0, 1, 1001)))
    u, v = (np.asarray(x, np.float32).astype(np.float64) for x in (u, v))
    found = np.stack(noise._transform(*(jnp.asarray(x, jnp.float32) for x in (u, v))))
    octant, r = np.floor(8 * v), np.sqrt(-2 * np.log(u))
    angle = (8 * v - octant) * np.pi / 4
    swapped, down, left = (octant.astype(int) & bit != 0 for bit in (1, 2, 4))
    exact = np.stack([np.cos(angle), np.sin(angle)])
    exact = np.where(swapped, exact[::-1], exact) * np.where([down, left], -1, 1)
    np.testing.assert_allclose(found, r * exact, atol=2e-6)
    assert 6.6 < np.abs(found).max() < 6.7
    middles = (np.arange(8) + 0.5) / 8
    around = np.arctan2(*noise._transform(jnp.full(8, 0.5), jnp.asarray(middles, jnp.float32)))
    np.testing.assert_allclose(np.sort(around / (2 * np.pi)), middles - 0.5, atol=1e-6)


def test_it_stands_in_for_that_of_jax(x64):
    key = random.key(0)
    assert normal(key).shape == ()
    assert normal(key, (3, 5), jnp.float32).shape == (3, 5)
    np.testing.assert_array_equal(normal(key, (4,), float), random.normal(key, (4,)))
    other = random.key(0, impl="rbg")
    same = random.normal(other, (4,), jnp.float32)
    np.testing.assert_array_equal(normal(other, (4,), jnp.float32), same)
    keys = random.split(key, 3)
    many = jax.vmap(lambda key: normal(key, (5,), jnp.float32))(keys)
    np.testing.assert_array_equal(many[1], normal(keys[1], (5,), jnp.float32))
