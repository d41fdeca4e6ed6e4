"""Shrinkage: a uniform draw from a level set within a bracket, one rejection at a time.

    w ~ U(low, high);  taken if level(w) > height,  else the bracket ends at w, on w's side

The bracket always holds the point the chain is at, so that the search ends; and it is reversible,
because the chain at the point that is found would have shrunk past the same rejected points with
the same probability [1]. Polar and elliptical slices share it.

References
----------
.. [1] Neal, "Slice sampling", Annals of Statistics 31, 2003, doi:10.1214/aos/1056562461.
   Section 4.2 and Figure 5.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import lax, random
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from ppl.sampler import where
from samplers.mcmc.metropolis import illegal

MAX_TRIES = 100  # of a bracket that shrinks: 2^-100 of it is left, less than any precision resolves


class Found(NamedTuple):
    """What a search has found.

    ``point`` is the start where ``is_found`` is false; ``diverging``: a density on the way was
    NaN or infinite, and counted as a rejection.
    """

    point: Any
    is_found: Bool[Array, ""]
    tries: Int[Array, ""]
    diverging: Bool[Array, ""]


def shrink(
    rng_key: PRNGKeyArray,
    bracket: tuple[Float[Array, ""], Float[Array, ""]],
    here: Float[Array, ""],
    evaluate: Callable[[Float[Array, ""]], tuple[Float[Array, ""], Any]],
    height: Float[Array, ""],
    start: Any,
) -> Found:
    """Draw from the part of ``bracket`` where the level exceeds ``height``.

    Parameters
    ----------
    rng_key
        Key of the whole search.
    bracket
        Lower and upper end, on the two sides of ``here``.
    here
        Where the chain is.
    evaluate
        ``evaluate(w) -> (level, point)``.
    height
        Of the slice, in nats; below the level of ``here``.
    start
        The point at ``here``, kept if `MAX_TRIES` find no other.
    """

    def body(carry: tuple[Any, Any, Found]) -> tuple[Any, Any, Found]:
        low, high, found = carry
        w = random.uniform(random.fold_in(rng_key, found.tries), (), low.dtype, low, high)
        level, point = evaluate(w)
        bad = illegal(level)
        inside = (level > height) & ~bad
        found = Found(
            where(inside, point, found.point), inside, found.tries + 1, found.diverging | bad
        )
        return jnp.where(w < here, w, low), jnp.where(w < here, high, w), found

    no = jnp.zeros((), bool)
    found = Found(start, no, jnp.int32(0), no)
    searching = lambda carry: ~carry[2].is_found & (carry[2].tries < MAX_TRIES)
    return lax.while_loop(searching, body, (*bracket, found))[2]
