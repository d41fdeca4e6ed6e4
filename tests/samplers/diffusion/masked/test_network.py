"""The transformer of masked diffusion: begins as no knowledge, sees all places, refuses sizes."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import random

import samplers

pytestmark = pytest.mark.usefixtures("unoptimized")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 6, "num_heads": 4}, "width must be a multiple of num_heads; got 6 and 4"),
        ({"depth": 0}, "depth must be an integer, at least 1; got 0"),
    ],
)
def test_a_transformer_of_other_sizes_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        samplers.MaskedTransformer(random.key(0), 4, 3, **options)


def test_the_network_begins_at_equal_probabilities_and_sees_both_sides():
    network = samplers.MaskedTransformer(random.key(0), 4, 3, width=16, depth=1, num_heads=2)
    assert not np.any(network(jnp.array([0, 3, 3, 1])))
    arrays, rest = eqx.partition(network, eqx.is_inexact_array)
    grown = jax.tree.map(lambda w: w + 0.1 * random.normal(random.key(1), w.shape), arrays)
    tokens = jnp.array([[0, 3, 3, 1], [0, 3, 3, 2], [2, 3, 3, 1]])
    rows = jax.vmap(eqx.combine(grown, rest))(tokens)
    assert np.all(np.abs(rows[1:, 1] - rows[0, 1]).max(-1) > 1e-4)
