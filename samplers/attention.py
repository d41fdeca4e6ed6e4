"""A block of a transformer: every row looks at all rows, for networks on sequences and on sets."""

import equinox as eqx
import jax
from jax import random
from jaxtyping import Array, Float, PRNGKeyArray


class AttentionBlock(eqx.Module):
    """Attention and a layer of its own for each row, both beside a straight way."""

    norms: tuple[eqx.nn.LayerNorm, eqx.nn.LayerNorm]
    attention: eqx.nn.MultiheadAttention
    hidden: eqx.nn.Linear
    out: eqx.nn.Linear

    def __init__(self, rng_key: PRNGKeyArray, width: int, num_heads: int) -> None:
        a, b, c = random.split(rng_key, 3)
        self.norms = (eqx.nn.LayerNorm(width), eqx.nn.LayerNorm(width))
        self.attention = eqx.nn.MultiheadAttention(num_heads, width, key=a)
        self.hidden = eqx.nn.Linear(width, 2 * width, key=b)
        self.out = eqx.nn.Linear(2 * width, width, key=c)

    def __call__(self, h: Float[Array, "rows width"]) -> Float[Array, "rows width"]:
        x = jax.vmap(self.norms[0])(h)
        h = h + self.attention(x, x, x)
        layer = lambda row: self.out(jax.nn.silu(self.hidden(self.norms[1](row))))
        return h + jax.vmap(layer)(h)
