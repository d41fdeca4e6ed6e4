"""Runs the semilinear engine with a denoiser that is itself a random estimate.

A point has a key of its own, and so has each of its rows: ``denoise(rng_key, x, level)``.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import random
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from ppl.energy import Energy, Position
from samplers.diffusion.integrate import integrate
from samplers.diffusion.rules import Rule
from samplers.diffusion.tables import Rows

type Denoise = Callable[[PRNGKeyArray, Array, Any], Array]


class Keyed(Rule):
    """Gives the denoiser a key: that of its row."""

    rng_key: PRNGKeyArray

    def __call__(self, denoiser: Any, x: Array, row: Any, carry: PyTree) -> tuple[Array, PyTree]:
        return denoiser(random.fold_in(self.rng_key, row.index), x, row.level), carry


def along(
    rng_key: PRNGKeyArray, denoise: Denoise, x: Float[Array, " d"], rows: Rows
) -> Float[Array, " d"]:
    """One point, carried along the rows."""
    key_steps, key_estimates = random.split(rng_key)
    denoiser: Any = denoise
    state, _, _ = integrate(key_steps, denoiser, x[None], rows, rule=Keyed(key_estimates))
    return state.x[0]


def vectorized(
    target: Energy,
) -> tuple[Callable[[Array], Array], Float[Array, " d"], Callable[[Array], Position]]:
    """Log-density of a vector, a vector of zeros, and the way from a vector to a position."""
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), target.template)
    like, position = ravel_pytree(zeros)
    return lambda x: target.log_density(position(x)), like, position
