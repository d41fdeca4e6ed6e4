"""The masked process: tokens that are hidden one by one, and revealed again in reverse.

    forward    each token becomes the mask M at a time of its own, uniform on (0, 1), and stays so
    reverse    from time t to s < t a masked place is revealed with probability (t - s) / t, and

        x_i ~ p(x_i | the tokens that are not masked)                              ([1], theorem 1)

What is learned is this conditional law alone, which does not depend on time: that of [1] is a
function of the tokens, ``unmask(tokens)``, and one call of it serves until a token changes. So the
time of a reveal says nothing, and its place is any of those still masked, with equal probability:
the law of the draws is that of tokens drawn one by one in a random order [2].

A token is 0, 1, .., num_tokens - 1, and the mask is num_tokens.

Tokens are drawn by `samplers.diffusion.masked.categorical`: the usual draw in single precision
would lower the temperature [2].

References
----------
.. [1] Ou et al., "Your absorbing discrete diffusion secretly models the conditional distributions
   of clean data", ICLR 2025, arXiv:2406.03736. Theorem 1: the time-free form.
.. [2] Zheng et al., "Masked diffusion models are secretly time-agnostic masked models and exploit
   inaccurate categorical sampling", ICLR 2025, arXiv:2409.02908.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import random
from jax.core import Tracer
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from ppl.energy import TargetError
from ppl.template import describe
from samplers.diffusion.masked.categorical import draw_tokens


def shape_of(target: Any, name: str) -> tuple[int, int]:
    """Length and number of tokens of a masked law; raises where ``unmask`` does not fit it."""
    leaves = jax.tree.leaves(target.template)
    if len(leaves) != 1 or leaves[0].ndim != 1 or not jnp.issubdtype(leaves[0].dtype, jnp.integer):
        raise TargetError(
            f"{name} draws sequences of tokens, integers of shape (length,); positions of this "
            f"target are {describe(target.template)}"
        )
    out = jax.eval_shape(target.unmask, target.template)
    shape, length = getattr(out, "shape", ()), leaves[0].shape[0]
    if len(shape) != 2 or shape[0] != length:
        raise TargetError(
            f"{name}: unmask(tokens) must return log-probabilities of shape (length, num_tokens) = "
            f"({length}, ...), a row for each place; got {shape}"
        )
    return shape


def all_masked(target: Any, n: int) -> tuple[Int[Array, "n length"], int]:
    """``n`` sequences of nothing but masks, and tokens that are known; and what the mask is."""
    length, mask = jax.eval_shape(target.unmask, target.template).shape
    known = getattr(target, "known", None)
    if known is not None:
        return jnp.broadcast_to(known, (n, length)), mask
    return jnp.full((n, length), mask, jax.tree.leaves(target.template)[0].dtype), mask


def num_open(target: Any) -> int:
    """Places that are to be revealed: all but those whose tokens are known, where one can tell."""
    known = getattr(target, "known", None)
    if known is None or isinstance(known, Tracer):
        return jax.tree.leaves(target.template)[0].shape[0]
    return int(np.sum(np.asarray(known) == target.num_tokens))


def random_places(
    rng_key: PRNGKeyArray, masked: Bool[Array, " length"], count: int
) -> Int[Array, " count"]:
    """``count`` of the masked places, any of them; ``length`` for each that there are too few."""
    length = len(masked)
    order = random.permutation(rng_key, length)
    places = order[jnp.argsort(~masked[order], stable=True)[:count]]
    return jnp.where(masked[places], places, length)


def reveal(
    rng_key: PRNGKeyArray,
    tokens: Int[Array, " length"],
    log_probs: Float[Array, "length num_tokens"],
    places: Int[Array, " count"],
) -> Int[Array, " length"]:
    """Draw the tokens of some places, each by itself; places beyond the end are ignored."""
    rows = log_probs.at[places].get(mode="clip")
    return tokens.at[places].set(draw_tokens(rng_key, rows, tokens.dtype), mode="drop")


def likeliest(
    tokens: Int[Array, " length"], log_probs: Float[Array, "length num_tokens"]
) -> Int[Array, " length"]:
    """The sequence whose masked places hold their likeliest tokens: what is promised so far."""
    best = jnp.argmax(log_probs, axis=-1).astype(tokens.dtype)
    return jnp.where(tokens == log_probs.shape[-1], best, tokens)
