"""Positions as points: an array as it is, any other pytree raveled to a vector."""

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, PyTree

from ppl.energy import Position


def is_array(position: Position) -> bool:
    """Whether a position, or a template of one, is a single array."""
    return jax.tree.structure(position) == jax.tree.structure(0)


def zeros(template: PyTree) -> Position:
    """The position that is zero."""
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), template)


def flat(position: Position) -> Array:
    """From a position to a point."""
    return position if is_array(position) else ravel_pytree(position)[0]


def position(template: PyTree, point: Array) -> Position:
    """From a point to a position."""
    return point if is_array(template) else ravel_pytree(zeros(template))[1](point)
