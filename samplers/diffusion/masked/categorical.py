"""Draws of tokens in single precision that are as good as those in double.

The usual way, `jax.random.categorical`, takes the largest of ``log p_v + g_v`` with Gumbel noise
``g = -log(-log u)``, u a multiple of h = 2^-23: g is never above 15.94. A token of probability p is
the largest if -log u is below p times the least of the others' -log(u) / p, which is exponential;
so on the grid it is drawn not with p but, where p is small, with

    p' = sum_(k >= 1) h exp(-k h / p) = p x / (e^x - 1),    x = h / p,

half as often as it should be at p = 1e-7, hardly ever at 2e-8; and a vocabulary is full of these.
The likelier ones get what is missing: the temperature is lower than it should be [1]. The usual way
also takes a random number and two logarithms for each token. Here one is found by tossing coins,

    from the sum of all p down to one of them:  of two sums a and b that make up the last one,
    take the smaller with probability min(a, b) / (a + b)

K - 1 additions, and log2(K) coins. A coin is ``u (a + b) < min(a, b)``, with u of two words,
precise near zero; so each token's probability is right to a few units in the last place of a
float32, as long as it is not below e^-87 of the largest.

References
----------
.. [1] Zheng et al., "Masked diffusion models are secretly time-agnostic masked models and exploit
   inaccurate categorical sampling", ICLR 2025, arXiv:2409.02908. They take u as continuous below
   1 - h, which has p' = p e^-x: the grid is a little better than that.
"""

from typing import Any

import jax.numpy as jnp
from jax import random
from jaxtyping import Array, Float, Int, PRNGKeyArray


def draw_tokens(
    rng_key: PRNGKeyArray, log_probs: Float[Array, "*places num_tokens"], dtype: Any = jnp.int32
) -> Int[Array, "*places"]:
    """Draw a token for each row of log-probabilities, normalized or not."""
    p = jnp.exp(log_probs - jnp.max(log_probs, axis=-1, keepdims=True))
    depth = max(p.shape[-1] - 1, 0).bit_length()
    p = jnp.pad(p, [(0, 0)] * (p.ndim - 1) + [(0, 2**depth - p.shape[-1])])
    pairs = []  # from the leaves to the root
    for _ in range(depth):
        pairs.append(p.reshape(*p.shape[:-1], -1, 2))
        p = jnp.sum(pairs[-1], axis=-1)
    index = jnp.zeros(p.shape[:-1], jnp.int32)
    u = two_words(rng_key, (depth, *index.shape), p.dtype)
    for pair, coin in zip(reversed(pairs), u, strict=True):
        a, b = jnp.moveaxis(jnp.take_along_axis(pair, index[..., None, None], -2)[..., 0, :], -1, 0)
        smaller = coin * (a + b) < jnp.minimum(a, b)
        index = 2 * index + jnp.where(b <= a, smaller, ~smaller)
    return index.astype(dtype)


def two_words(rng_key: PRNGKeyArray, shape: tuple[int, ...], dtype: Any) -> Float[Array, "..."]:
    """Uniform numbers from 64 bits each: rounded, but to full precision near zero."""
    high, low = random.bits(rng_key, (2, *shape), jnp.uint32).astype(dtype)
    return (high + low * 2.0**-32) * 2.0**-32
