"""A small network of prefixes: what the sequence has held so far, its last tokens, and the place.

    h = gelu(place_t + sum_{u < t} bag[s_u] / sqrt(length) + sum_k recent_k[s_{t-k}])
    out = W_2 gelu(W_1 h + b_1) + b_2

Its inputs are one-hot, so that the first layer is a sum of rows of tables, one for each token that
came before. The last layer starts at zero: no token is preferred until something is learned.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import random
from jaxtyping import Array, Float, Int, PRNGKeyArray

LOOK_BACK = 4  # places whose order counts


class PrefixNetwork(NamedTuple):
    """Parameters of the network."""

    place: Float[Array, "length width"]
    bag: Float[Array, "num_tokens width"]
    recent: Float[Array, "back num_tokens width"]
    hidden: Float[Array, "width width"]
    hidden_bias: Float[Array, " width"]
    out: Float[Array, "width num_tokens"]
    out_bias: Float[Array, " num_tokens"]


def prefix_network(
    rng_key: PRNGKeyArray, length: int, num_tokens: int, width: int = 64
) -> PrefixNetwork:
    """Parameters to start from."""
    key_place, key_bag, key_recent, key_hidden = random.split(rng_key, 4)
    scale = (LOOK_BACK + 2) ** -0.5
    return PrefixNetwork(
        scale * random.normal(key_place, (length, width)),
        scale * random.normal(key_bag, (num_tokens, width)),
        scale * random.normal(key_recent, (LOOK_BACK, num_tokens, width)),
        (2 / width) ** 0.5 * random.normal(key_hidden, (width, width)),
        jnp.zeros(width),
        jnp.zeros((width, num_tokens)),
        jnp.zeros(num_tokens),
    )


def prefix_row(
    params: PrefixNetwork, tokens: Int[Array, " length"], t: Int[Array, ""]
) -> Float[Array, " num_tokens"]:
    """A number for each token at place t, from the tokens before."""
    places = jnp.arange(len(tokens))
    held = jnp.where((places < t)[:, None], params.bag[tokens], 0)
    back = t - 1 - jnp.arange(LOOK_BACK)
    last = params.recent[jnp.arange(LOOK_BACK), tokens[jnp.maximum(back, 0)]]
    h = jnp.sum(held, axis=0) / len(tokens) ** 0.5 + params.place[t]
    h = jax.nn.gelu(h + jnp.sum(jnp.where((back >= 0)[:, None], last, 0), axis=0))
    return jax.nn.gelu(h @ params.hidden + params.hidden_bias) @ params.out + params.out_bias


def prefix_rows(
    params: PrefixNetwork, tokens: Int[Array, " length"]
) -> Float[Array, "length num_tokens"]:
    """All rows."""
    return jax.vmap(prefix_row, (None, None, 0))(params, tokens, jnp.arange(len(tokens)))
