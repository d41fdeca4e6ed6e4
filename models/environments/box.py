"""Continuous box: points of a box, one coordinate after the other, with any density.

A move sets the next coordinate, so that a policy is an autoregressive law; -1 is a coordinate that
is not set. The position is in the unit cube, and what the user sees is in the box: draws are
weighted, and their mean weight estimates the integral of the density over the box.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from ppl.environment import MixedEnvironment
from ppl.template import as_data

NUM_WAVES = 3


class Box(MixedEnvironment):
    """A density on a box.

    Parameters
    ----------
    fn
        ``fn(x, *data) -> scalar`` in nats, x in the box.
    low, high
        Corners, a number for each coordinate; traced.
    data
        Whatever else ``fn`` takes; traced.
    """

    fn: Callable[..., Any] = eqx.field(static=True)
    low: Float[Array, " d"]
    high: Float[Array, " d"]
    data: tuple[Any, ...]

    def __init__(self, fn: Callable[..., Any], low: Any, high: Any, *data: Any):
        corners = [np.atleast_1d(np.asarray(corner, float)) for corner in (low, high)]
        shapes = [corner.shape for corner in corners]
        good = shapes[0] == shapes[1] and len(shapes[0]) == 1 and np.isfinite(corners).all()
        if not good or not np.all(corners[0] < corners[1]):
            raise ValueError(
                "low and high are finite vectors of one length, each number of low below that of "
                f"high; got {low} and {high}"
            )
        self.fn, self.data = fn, as_data(data)
        self.low, self.high = (jnp.asarray(corner, float) for corner in corners)

    @property
    def template(self) -> jax.ShapeDtypeStruct:
        """Coordinates in the unit cube."""
        return jax.ShapeDtypeStruct(self.low.shape, self.low.dtype)

    @property
    def num_actions(self) -> int:
        """A move for each coordinate."""
        return len(self.low)

    @property
    def num_values(self) -> int:
        """One: the coordinate."""
        return 1

    @property
    def max_length(self) -> int:
        """All coordinates are set."""
        return len(self.low)

    def initial(self) -> Float[Array, " d"]:
        return jnp.full_like(self.low, -1.0)

    def constrain(self, position: Float[Array, " d"]) -> Float[Array, " d"]:
        return self.low + (self.high - self.low) * position

    def unconstrain(self, values: Float[Array, " d"]) -> Float[Array, " d"]:
        return (values - self.low) / (self.high - self.low)

    def log_jacobian(self, position: Float[Array, " d"]) -> Float[Array, ""]:
        return jnp.sum(jnp.log(self.high - self.low))

    def log_density(self, position: Float[Array, " d"]) -> Float[Array, ""]:
        return self.fn(self.constrain(position), *self.data) + self.log_jacobian(position)

    def forward_mask(self, state: Float[Array, " d"]) -> Bool[Array, " moves_and_stop"]:
        # The number of coordinates that are set is the next move, or else the stop.
        return jnp.arange(len(state) + 1) == jnp.sum(state >= 0)

    def backward_mask(self, state: Float[Array, " d"]) -> Bool[Array, " d"]:
        return jnp.arange(len(state)) == jnp.sum(state >= 0) - 1

    def place(
        self, state: Float[Array, " d"], action: Int[Array, ""], values: Float[Array, "1"]
    ) -> Float[Array, " d"]:
        return state.at[action].set(values[0].astype(state.dtype))

    def values(self, state: Float[Array, " d"], action: Int[Array, ""]) -> Float[Array, "1"]:
        return state[action][None]

    def undo(self, state: Float[Array, " d"], action: Int[Array, ""]) -> Array:
        return state.at[action].set(-1.0)

    def is_legal(self, state: Float[Array, " d"]) -> Bool[Array, ""]:
        return jnp.all((state == -1) | ((state >= 0) & (state <= 1)))

    def features(self, state: Float[Array, " d"]) -> Float[Array, "d features"]:
        """A coordinate a row: whether it is set, its value, and waves of it."""
        is_set = state >= 0
        angle = np.pi * jnp.arange(1, NUM_WAVES + 1) * state[:, None]
        waves = jnp.concatenate([state[:, None], jnp.sin(angle), jnp.cos(angle)], axis=1)
        shown = jnp.where(is_set[:, None], waves, 0.0)
        return jnp.concatenate([is_set[:, None].astype(state.dtype), shown], axis=1)
