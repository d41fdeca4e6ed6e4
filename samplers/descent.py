"""Steps of Adam on all numbers of what is learned in a row.

One step on one vector is a few operations, whatever the number of arrays; on each array by itself
it is as many for each, which takes long to compile and, for small networks, to run.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float


def adam(learning_rate: Float[Array, ""], num_updates: int, clip: float | None = 1.0) -> Any:
    """Adam whose rate falls to zero along a half cosine, with a largest norm of the gradient."""
    steps = optax.adam(optax.cosine_decay_schedule(learning_rate, num_updates))
    return steps if clip is None else optax.chain(optax.clip_by_global_norm(clip), steps)


def begin(optimizer: Any, learned: Any) -> Any:
    """Moments of an optimizer before the first step."""
    return optimizer.init(_in_a_row(learned)[0])


def is_finite(loss: Float[Array, ""], gradient: Any) -> Bool[Array, ""]:
    """Whether a loss and all of its gradient are finite."""
    return jnp.isfinite(loss) & jnp.all(jnp.isfinite(_in_a_row(gradient)[0]))


def descend(
    optimizer: Any, gradient: Any, moments: Any, learned: Any, fine: Bool[Array, ""]
) -> tuple[Any, Any]:
    """What is learned and the moments after a step; both unchanged where not ``fine``."""
    old, back = _in_a_row(learned)
    updates, new = optimizer.update(_in_a_row(gradient)[0], moments, old)
    new = jax.tree.map(lambda a, b: jnp.where(fine, a, b), new, moments)
    moved = back(jnp.where(fine, old + updates, old))
    return eqx.combine(moved, learned), new


def _in_a_row(tree: Any) -> Any:
    return ravel_pytree(eqx.filter(tree, eqx.is_inexact_array))
