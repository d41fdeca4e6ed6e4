"""The network that masked diffusion defaults to: a small transformer of tokens, without time.

    h_i = token[x_i] + place[i],   h <- blocks of attention,   logits_i = W norm(h_i) + b_i

Each place sees all others, and whether they are masked. It begins at equal probabilities, W and b
being zero; b, a row for each place, is what a family of aligned sequences is told apart by first.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import random
from jaxtyping import Array, Float, Int, PRNGKeyArray

from samplers.attention import AttentionBlock


class MaskedTransformer(eqx.Module):
    """Bidirectional transformer ``network(tokens) -> (length, num_tokens)``, of logits.

    Parameters
    ----------
    rng_key
        Key of the initial values.
    length, num_tokens
        Of the sequences; the mask, ``num_tokens``, has an embedding of its own.
    width, depth, num_heads
        Numbers in a place, blocks, and heads of attention in each.

    Raises
    ------
    ValueError
        For a width that the heads do not divide.
    """

    tokens: Float[Array, "tokens_and_mask width"]
    places: Float[Array, "length width"]
    blocks: tuple[AttentionBlock, ...]
    norm: eqx.nn.LayerNorm
    out: Float[Array, "num_tokens width"]
    bias: Float[Array, "length num_tokens"]

    def __init__(
        self,
        rng_key: PRNGKeyArray,
        length: int,
        num_tokens: int,
        *,
        width: int = 64,
        depth: int = 2,
        num_heads: int = 4,
    ) -> None:
        sizes = {"width": width, "depth": depth, "num_heads": num_heads}
        for name, value in sizes.items():
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be an integer, at least 1; got {value!r}")
        if width % num_heads:
            raise ValueError(f"width must be a multiple of num_heads; got {width} and {num_heads}")
        key_tokens, key_places, *keys = random.split(rng_key, 2 + depth)
        self.tokens = 0.5 * random.normal(key_tokens, (num_tokens + 1, width))
        self.places = 0.5 * random.normal(key_places, (length, width))
        self.blocks = tuple(AttentionBlock(key, width, num_heads) for key in keys)
        self.norm = eqx.nn.LayerNorm(width)
        self.out = jnp.zeros((num_tokens, width))
        self.bias = jnp.zeros((length, num_tokens))

    def __call__(self, tokens: Int[Array, " length"]) -> Any:
        h = self.tokens[tokens] + self.places
        for block in self.blocks:
            h = block(h)
        return jax.vmap(self.norm)(h) @ self.out.T + self.bias
