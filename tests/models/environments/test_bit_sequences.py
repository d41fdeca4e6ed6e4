"""Bit sequences: the modes are modes, distances are Hamming's, words and bits agree."""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pytest

from models.environments.bit_sequences import BLOCKS, BitSequences
from ppl.environment import check

pytestmark = pytest.mark.usefixtures("unoptimized")


def test_it_passes_the_checker():
    modes = jnp.array([[0, 0, 1, 1, 0, 1], [1, 1, 1, 0, 0, 0]])
    assert check(BitSequences(modes, word=2)) == (1 + 4 + 16 + 64, True)


def test_sixty_modes_of_fifteen_blocks():
    environment = BitSequences()
    assert environment.modes.shape == (60, 120)
    assert (environment.num_actions, environment.max_length) == (256, 15)
    assert len(np.unique(environment.modes, axis=0)) == 60
    blocks = np.asarray(environment.modes).reshape(-1, 8)
    assert {"".join(map(str, block)) for block in blocks} == set(BLOCKS)


def test_distances_are_hamming_distances_of_the_bits():
    environment = BitSequences(strength=0.5)
    words = np.random.default_rng(0).integers(256, size=15).astype(np.int32)
    bits = np.array([int(b) for w in words for b in f"{w:08b}"])
    np.testing.assert_array_equal(eqx.filter_jit(environment.constrain)(words), bits)
    nearest = (bits != np.asarray(environment.modes)).sum(1).min()
    assert eqx.filter_jit(environment.log_density)(words) == -0.5 * nearest


def test_a_word_that_does_not_divide_is_refused():
    with pytest.raises(ValueError, match="word must divide the 120 bits of a mode; got 7"):
        BitSequences(word=7)


def test_what_is_known_is_what_a_sum_over_all_strings_says():
    """Modes two bits apart, of six: a third of the mass would be counted twice."""
    modes = jnp.array([[0, 0, 0, 0, 0, 0], [1, 1, 0, 0, 0, 0], [1, 1, 1, 1, 1, 1]])
    environment = BitSequences(modes, word=2, strength=0.7)
    rng, n = np.random.default_rng(0), 100_000
    strings = np.array(list(np.ndindex(*[2] * 6)))
    nearest, distance = environment.basins(strings)
    reward = np.exp(-0.7 * distance)
    log_z, error, masses = environment.truth(rng, n)
    assert abs(log_z - np.log(reward.sum())) < 4.9 * error
    expected = np.bincount(nearest, reward) / reward.sum()
    assert np.abs(masses - expected).max() < 4.9 * (0.25 / n) ** 0.5
    drawn = environment.exact(rng, n)
    found = np.bincount(environment.basins(drawn)[0], minlength=3) / len(drawn)
    assert np.abs(found - expected).max() < 4.9 * (0.25 / len(drawn)) ** 0.5
    # A twin that forgets that basins overlap.
    whole = np.log(3 * (1 + np.exp(-0.7)) ** 6)
    assert abs(whole - np.log(reward.sum())) > 100 * error
