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


def threefry(key, counter, rounds):
    """Threefry-2x32 as its paper defines it, in Python's integers; a block at a time."""
    mask, rotations = 2**32 - 1, (13, 15, 26, 6, 17, 29, 16, 24)
    schedule = (*key, key[0] ^ key[1] ^ 0x1BD11BDA)
    x, y = ((word + k) & mask for word, k in zip(counter, key, strict=True))
    for i in range(rounds):
        by, x = rotations[i % 8], (x + y) & mask
        y = (y << by & mask | y >> (32 - by)) ^ x
        if i % 4 == 3:
            j = i // 4 + 1
            x, y = (x + schedule[j % 3]) & mask, (y + schedule[(j + 1) % 3] + j) & mask
    return x, y


# Known answers of Random123, ``tests/kat_vectors``: rounds, counter, key, block.
ONES, PI = 0xFFFFFFFF, (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344)
KNOWN = [
    (13, (0, 0), (0, 0), (0x9D1C5EC6, 0x8BD50731)),
    (13, (ONES, ONES), (ONES, ONES), (0xFD36D048, 0x2D17272C)),
    (13, PI[:2], PI[2:], (0xBA3E4725, 0xF27D669E)),
    (20, (0, 0), (0, 0), (0x6B200159, 0x99BA4EFE)),
]


@pytest.mark.parametrize("rounds", [13, noise.ROUNDS, 20])
def test_blocks_are_those_of_the_generator(rounds):
    key = random.key_data(random.key(17))
    words = noise._blocks(key, 50, rounds)
    expected = [threefry(key.tolist(), (0, i), rounds) for i in range(50)]
    np.testing.assert_array_equal(np.stack(words, axis=1), np.array(expected, np.uint32))
    for known in KNOWN:
        assert threefry(known[2], known[1], known[0]) == known[3]
    if rounds == 20:
        counters = jnp.arange(50, dtype=jnp.uint32)
        theirs = threefry_2x32(key, jnp.concatenate([0 * counters, counters]))
        np.testing.assert_array_equal(jnp.concatenate(words), theirs)


@pytest.mark.parametrize("impl", ["threefry2x32", "rbg"])
def test_keys_of_many_numbers_are_those_of_jax(impl):
    key, numbers = random.key(3, impl=impl), jnp.array([0, 1, 7, 2**31 - 1], jnp.int32)
    expected = [random.key_data(random.fold_in(key, int(n))) for n in numbers]
    np.testing.assert_array_equal(random.key_data(noise.fold_each(key, numbers)), expected)


@pytest.mark.parametrize(("rounds", "mixes"), [(noise.ROUNDS, True), (5, False)])
def test_a_bit_of_the_counter_or_the_key_changes_half_of_all_bits(rounds, mixes):
    """Each bit of the block, with each bit that is flipped; with 5 rounds some do not."""
    n, blocks = 1 << 14, jax.jit(lambda key: noise._blocks(key, n, rounds))
    key = random.key_data(random.key(5))
    bits = lambda words: np.unpackbits(np.stack(words, axis=1).view(np.uint8), axis=1)
    plain, changed = bits(blocks(key)), []
    for bit in range(14):
        changed.append(plain ^ plain[np.arange(n) ^ (1 << bit)])
    for word in range(2):
        for bit in range(0, 32, 5):
            changed.append(plain ^ bits(blocks(key.at[word].set(key[word] ^ jnp.uint32(1 << bit)))))
    scores = (np.mean(changed, axis=1) - 0.5) * 2 * np.sqrt(n)
    assert (np.abs(scores).max() < 5.5) == mixes  # 1,792 of them


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
    one, other = draws[::2], draws[1::2]
    others = np.asarray(normal(random.fold_in(random.key(3), 1), (N,)), np.float64)
    pairs = {
        "a pair": (one, other),
        "halves": (draws[: N // 2], draws[N // 2 :]),
        "neighbors": (draws[1:], draws[:-1]),
        "keys": (draws, others),
    }
    for name, (a, b) in pairs.items():
        for power in (1, 2, 3):
            moment = {1: 0, 2: 1, 3: 0}[power]
            assert score(a**power * b**power, moment) < 4.9, (name, power)
    radius = one**2 + other**2
    assert stats.kstest(radius[: 1 << 18] / 2, "expon").pvalue > 1e-4
    angle = np.arctan2(other, one)[: 1 << 18]
    assert stats.kstest(angle / (2 * np.pi) + 0.5, "uniform").pvalue > 1e-4
    assert stats.kstest(np.abs(angle) / (2 * np.pi) + 0.5, "uniform").pvalue < 1e-4  # a lost sign


def test_uniform_numbers_reach_down_to_their_last_bit():
    words = np.concatenate([np.arange(200), 2 ** np.arange(8.0, 32), [2.0**32 - 1]]).astype(
        np.uint32
    )
    exact = ((words >> 1) + 0.5) * 2.0**-31
    np.testing.assert_allclose(noise._uniform(jnp.asarray(words)), exact, rtol=1e-7)
    turns = words.view(np.int32) * 2.0**-31
    np.testing.assert_allclose(noise._turn(jnp.asarray(words)), turns, rtol=1e-7)


def test_logarithms_are_exact_to_the_last_digits():
    u = np.concatenate([2.0 ** -np.arange(33.0), np.linspace(2.0**-32, 1, 100_001)])
    u = np.asarray(u, np.float32)
    found, exact = noise._log(jnp.asarray(u)), np.log(u.astype(np.float64))
    np.testing.assert_allclose(found, exact, rtol=4e-7)
    assert found[0] == 0


def test_the_transform_is_exact_to_the_last_digits_and_in_the_tail():
    """Against float64: the radius, and the angle in each quarter; the circle is covered once."""
    u, v = (x.ravel() for x in np.meshgrid(2.0 ** -np.arange(1.0, 33), np.linspace(-1, 1, 2001)))
    u, v = (np.asarray(x, np.float32).astype(np.float64) for x in (u, v))
    found = np.stack(noise._transform(*(jnp.asarray(x, jnp.float32) for x in (u, v))))
    swapped, r = np.abs(v) > 0.5, np.sqrt(-2 * np.log(u)) * np.where(v < 0, -1, 1)
    angle = (np.abs(v) - np.where(swapped, 0.75, 0.25)) * np.pi
    exact = np.stack([np.cos(angle), np.sin(angle)])
    np.testing.assert_allclose(found, r * np.where(swapped, exact[::-1], exact), atol=2e-6)
    assert 6.6 < np.abs(found).max() < 6.7
    middles = (np.arange(-64, 64) + 0.5) / 64
    around = np.arctan2(*noise._transform(jnp.full(128, 0.5), jnp.asarray(middles, jnp.float32)))
    np.testing.assert_allclose(np.sort(around / np.pi), middles, atol=1e-6)


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
