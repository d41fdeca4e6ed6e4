"""A block of attention: rows are a set, which all of them see."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import random

from samplers.attention import AttentionBlock


@pytest.fixture(scope="module")
def block():
    return AttentionBlock(random.key(0), 4, 2)


def by_hand(block, h):
    """Two heads of two, in NumPy."""
    normed = lambda norm, x: norm.weight * (
        (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + norm.eps)
    ) + norm.bias  # fmt: skip
    heads = lambda layer, x: (x @ layer.weight.T).reshape(len(x), 2, -1).swapaxes(0, 1)
    x, attend = normed(block.norms[0], h), block.attention
    layers = attend.query_proj, attend.key_proj, attend.value_proj
    query, key, value = (heads(layer, x) for layer in layers)
    logits = query @ key.swapaxes(1, 2) / np.sqrt(2)
    shares = np.exp(logits) / np.exp(logits).sum(2, keepdims=True)
    h = h + (shares @ value).swapaxes(0, 1).reshape(len(h), 4) @ attend.output_proj.weight.T
    hidden = normed(block.norms[1], h) @ block.hidden.weight.T + block.hidden.bias
    return h + (hidden / (1 + np.exp(-hidden))) @ block.out.weight.T + block.out.bias


def test_it_is_the_block_of_the_papers_and_does_not_see_the_order(block):
    h = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    run = jax.jit(lambda h: block(h))
    found = np.asarray(run(jnp.asarray(h)))
    weights = jax.tree.map(lambda x: np.asarray(x) if hasattr(x, "shape") else x, block)
    np.testing.assert_allclose(found, by_hand(weights, h), rtol=1e-4, atol=1e-5)
    order = np.array([3, 1, 0, 4, 2])
    np.testing.assert_allclose(run(h[order]), found[order], rtol=1e-4, atol=1e-5)
    changed = h.copy()
    changed[4, 0] += 1
    assert np.abs(run(changed)[0] - found[0]).max() > 1e-3  # every row sees every other
