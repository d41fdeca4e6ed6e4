"""A choice among candidates by what they promise: the step that the versions of SVDD share.

    c_1..c_M: moves of one particle,    c_j is taken with probability ~ exp(v(c_j))
    log G = log mean_j exp(v(c_j)) - v(c that was taken before),    or none

The second line makes the choice a proposal with random weights: exact for any v, see
`samplers.diffusion.steering.nested_svdd`.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from ppl import weights
from samplers.diffusion.masked.categorical import draw_tokens
from samplers.diffusion.steering.values import gained


def repeated(particles: Any, num_candidates: int) -> Any:
    """Each particle as often as it has candidates."""
    return jax.tree.map(lambda x: jnp.repeat(x, num_candidates, axis=0), particles)


def chosen(
    rng_key: PRNGKeyArray,
    before: Any,
    candidates: Any,
    values: Float[Array, " n_times_m"],
    *,
    nested: bool,
) -> tuple[Any, Float[Array, " n"]]:
    """One of the candidates of each particle, and log G.

    ``memory`` of the particles is the value of what was taken.
    """
    n = len(before.memory)
    values = weights.clean(values).reshape(n, -1)
    # Where none has any hope, any will do.
    hope = jnp.any(jnp.isfinite(values), axis=1, keepdims=True)
    which = draw_tokens(rng_key, jnp.where(hope, values, 0))
    index = jnp.arange(n) * values.shape[1] + which
    candidates = candidates._replace(memory=values.reshape(-1))
    after = jax.tree.map(lambda x: x[index], candidates)
    if not nested:
        return after, jnp.zeros(n, values.dtype)
    return after, gained(weights.log_mean_exp(values), before.memory)
