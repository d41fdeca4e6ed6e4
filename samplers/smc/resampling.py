"""Resampling: which particles go on, and how often.

    scheme(rng_key, log_weights, n) -> indices (n,),   E[number of copies of i] = n W_i

W are the normalized weights of the N particles (n may differ from N). The schemes differ in the
variance they add to what they must: n points are laid on the line [0, 1), particle i gets those
that fall into its stretch of length W_i.

===========  =======================================  ======================  ====================
scheme       points                                   copies of i             as n grows
===========  =======================================  ======================  ====================
multinomial  n uniform on [0, 1)                      binomial                consistent
stratified   one uniform in each n-th of the line     n W_i, within 2         consistent
systematic   the same uniform in each n-th            floor or ceil of n W_i  depends on the order
residual     floor(n W_i) copies, the rest            at least floor(n W_i)   consistent
             multinomial
ssp          pairs of fractions settle one by one     floor or ceil of n W_i  consistent [2]_
===========  =======================================  ======================  ====================

Weights go in as logarithms, of any scale. One that is NaN or +inf counts as zero, and a particle
without weight is never copied, not even by rounding. Where no particle has weight all of them go
on as they are; the caller says so.

Differences from BlackJAX
-------------------------
BlackJAX has the first four, on weights in linear scale. Its sorted uniforms (multinomial, residual)
are sums of ``-log(u)``, where a ``u`` of zero, one in eight million single-precision draws, makes
all points NaN and copies the last particle n times; its points are compared with sums of weights
that rounding leaves below 1, so that the last particle is copied even where its weight is zero.

References
----------
.. [1] R. Douc, O. Cappe, E. Moulines, "Comparison of resampling schemes for particle filtering",
   ISPA 2005, arXiv:cs/0507025.
.. [2] M. Gerber, N. Chopin, N. Whiteley, "Negative association, ordering and convergence of
   resampling methods", Ann. Statist. 47, 2019, arXiv:1707.01845. Algorithm 2 (SSP).
"""

from collections.abc import Callable
from typing import Any, Literal

import jax.numpy as jnp
from jax import lax, random
from jaxtyping import Array, Float, Int, PRNGKeyArray

from ppl import weights

type Scheme = Literal["stratified", "systematic", "multinomial", "residual", "ssp"]


def systematic(rng_key: PRNGKeyArray, log_weights: Float[Array, " N"], n: int) -> Int[Array, " n"]:
    """One uniform for all: the least noise, but offspring that depend on the particles' order."""
    u = random.uniform(rng_key, (), log_weights.dtype)
    return _live(log_weights, _fall(_ladder(u, n), weights.probabilities(log_weights)))


def stratified(rng_key: PRNGKeyArray, log_weights: Float[Array, " N"], n: int) -> Int[Array, " n"]:
    """A uniform for each stratum."""
    u = random.uniform(rng_key, (n,), log_weights.dtype)
    return _live(log_weights, _fall(_ladder(u, n), weights.probabilities(log_weights)))


def multinomial(rng_key: PRNGKeyArray, log_weights: Float[Array, " N"], n: int) -> Int[Array, " n"]:
    """Independent draws, in order: the most noise, and the one scheme without dependence."""
    points = jnp.sort(random.uniform(rng_key, (n,), log_weights.dtype))
    return _live(log_weights, _fall(points, weights.probabilities(log_weights)))


def residual(rng_key: PRNGKeyArray, log_weights: Float[Array, " N"], n: int) -> Int[Array, " n"]:
    """Whole copies for sure, the rest independent."""
    copies, fractions = _split(log_weights, n)
    # The first places are those of whole copies; a random draw from the fractions fills the others.
    drawn = _fall(random.uniform(rng_key, (n,), fractions.dtype), fractions)
    whole = _repeat(copies, n)
    ancestors = jnp.where(jnp.arange(n) < jnp.sum(copies), whole, drawn)
    return _live(log_weights, jnp.sort(ancestors))


def ssp(rng_key: PRNGKeyArray, log_weights: Float[Array, " N"], n: int) -> Int[Array, " n"]:
    """Srinivasan sampling process: as even as systematic, and consistent; N steps in sequence.

    Two particles with fractions x and y of a copy compare: one of them leaves with a copy or
    without, the other keeps what is left of x + y, with each one's expectation unchanged.
    """
    copies, fractions = _split(log_weights, n)
    size = fractions.shape[0]
    uniforms = random.uniform(rng_key, (size,), fractions.dtype)

    def compare(holder: tuple[Array, Array], other: tuple[Array, Array, Array]) -> Any:
        (i, x), (j, y, u) = holder, other
        up, down = jnp.minimum(y, 1 - x), jnp.minimum(x, 1 - y)  # what i may gain, or lose
        gains = u * (up + down) < down
        leaves = jnp.where(gains, 1 - x <= y, x <= 1 - y)  # i settles at 1 or at 0; else j does
        winner = jnp.where(gains & leaves, i, jnp.where(~gains & ~leaves, j, size))
        left_with_j = jnp.where(gains, y - up, y + down)
        left_with_i = jnp.where(gains, x + up, x - down)
        return (
            jnp.where(leaves, j, i),
            jnp.where(leaves, left_with_j, left_with_i),
        ), winner

    index = jnp.arange(size, dtype=jnp.int32)
    rest = (index[1:], fractions[1:], uniforms[1:])
    (last, _), winners = lax.scan(compare, (index[0], fractions[0]), rest)
    copies = copies.at[winners].add(1, mode="drop")
    # Fractions add up to a whole number: what the last one holds is 0 or 1, up to rounding.
    copies = copies.at[last].add(jnp.maximum(n - jnp.sum(copies, dtype=jnp.int32), 0))
    return _live(log_weights, _repeat(copies, n))


SCHEMES: dict[str, Callable[[PRNGKeyArray, Any, int], Any]] = {
    "stratified": stratified,
    "systematic": systematic,
    "multinomial": multinomial,
    "residual": residual,
    "ssp": ssp,
}


def _ladder(u: Float[Array, "*strata"], n: int) -> Float[Array, " n"]:
    return (jnp.arange(n, dtype=u.dtype) + u) / n


def _fall(points: Float[Array, " n"], shares: Float[Array, " N"]) -> Int[Array, " n"]:
    """Whose stretch of the line each point of [0, 1) falls into; shares need not add up to one."""
    line = jnp.cumsum(shares)
    found = jnp.searchsorted(line, points * line[-1], side="right")
    return jnp.minimum(found, len(shares) - 1).astype(jnp.int32)


def _split(log_weights: Float[Array, " N"], n: int) -> tuple[Int[Array, " N"], Float[Array, " N"]]:
    """``n W`` in whole numbers and fractions; a hair below a whole number is that number."""
    expected = n * weights.probabilities(log_weights)
    copies = jnp.floor(expected * (1 + 4 * jnp.finfo(expected.dtype).eps))
    return copies.astype(jnp.int32), jnp.clip(expected - copies, 0, 1)


def _repeat(copies: Int[Array, " N"], n: int) -> Int[Array, " n"]:
    index = jnp.arange(len(copies), dtype=jnp.int32)
    return jnp.repeat(index, copies, total_repeat_length=n)


def _live(log_weights: Float[Array, " N"], indices: Int[Array, " n"]) -> Int[Array, " n"]:
    """Indices that rounding laid on a particle without weight, moved to the next one with some."""
    size = len(log_weights)
    alive = jnp.isfinite(weights.clean(log_weights))
    index = jnp.arange(size, dtype=jnp.int32)
    last = jnp.max(jnp.where(alive, index, -1))
    following = lax.cummin(jnp.where(alive, index, size), reverse=True)
    repaired = jnp.minimum(following, last)[indices]
    as_they_are = jnp.arange(len(indices), dtype=jnp.int32) % size
    return jnp.where(last >= 0, repaired, as_they_are)
