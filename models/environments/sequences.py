"""Sequences over an alphabet, written letter by letter from the left, with any reward.

A state holds the letters so far, 0, 1, .., and -1 in the places that are empty. There is one way to
each state, so that flows are those of a tree.
"""

from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from ppl.environment import Environment
from ppl.sampler import size
from ppl.template import as_data


class Written(Environment):
    """What environments of sequences share: subclasses give the fields, and a reward."""

    length: eqx.AbstractVar[int]

    @property
    @abstractmethod
    def shortest(self) -> int:
        """Length from which on writing may stop."""

    @property
    def template(self) -> jax.ShapeDtypeStruct:
        """Letters of one sequence."""
        return jax.ShapeDtypeStruct((self.length,), jnp.dtype("int32"))

    @property
    def max_length(self) -> int:
        """A move for each place."""
        return self.length

    def initial(self) -> Int[Array, " length"]:
        return jnp.full(self.length, -1, jnp.int32)

    def forward_mask(self, state: Int[Array, " length"]) -> Bool[Array, " moves_and_stop"]:
        written = num_letters(state)
        letters = jnp.broadcast_to(written < self.length, (self.num_actions,))
        return jnp.append(letters, written >= self.shortest)

    def backward_mask(self, state: Int[Array, " length"]) -> Bool[Array, " moves"]:
        written = num_letters(state)
        last = state[jnp.maximum(written - 1, 0)]
        return (jnp.arange(self.num_actions) == last) & (written > 0)

    def apply(self, state: Int[Array, " length"], action: Int[Array, ""]) -> Array:
        return state.at[num_letters(state)].set(action)

    def undo(self, state: Int[Array, " length"], action: Int[Array, ""]) -> Array:
        # At the empty sequence the place is -1, the last, which is empty already.
        return state.at[num_letters(state) - 1].set(-1)

    def is_legal(self, state: Int[Array, " length"]) -> Bool[Array, ""]:
        places = jnp.arange(self.length) < num_letters(state)
        return jnp.all(jnp.where(places, (state >= 0) & (state < self.num_actions), state == -1))

    def features(self, state: Int[Array, " length"]) -> Float[Array, "length letters"]:
        return jax.nn.one_hot(state, self.num_actions)  # zeros where a place is empty

    def log_num_paths(self, state: Int[Array, " length"]) -> Float[Array, ""]:
        """There is one way."""
        return jnp.zeros(())


def num_letters(state: Int[Array, " length"]) -> Int[Array, ""]:
    """How many places are taken."""
    return jnp.sum(state >= 0)


class Sequences(Written):
    """Sequences of ``shortest`` to ``length`` letters, with a reward of your own.

    Parameters
    ----------
    log_reward
        ``log_reward(letters, *data) -> scalar`` in nats; ``letters`` is an array of integers,
        (length,), -1 behind the end.
    data
        Whatever else it takes; traced.
    num_letters
        Size of the alphabet.
    length, shortest
        Of a sequence; by default all have the full length.
    """

    log_reward: Callable[..., Any] = eqx.field(static=True)
    data: tuple[Any, ...] = eqx.field(converter=as_data, default=())
    num_letters: int = size("num_letters", default=4)
    length: int = size("length", default=8)
    fewest: int = size("shortest", minimum=0, default=0)

    def __init__(
        self,
        log_reward: Callable[..., Any],
        *data: Any,
        num_letters: int,
        length: int,
        shortest: int | None = None,
    ):
        self.log_reward, self.data = log_reward, data
        self.num_letters, self.length = num_letters, length
        self.fewest = length if shortest is None else shortest
        if self.fewest > self.length:
            raise ValueError(f"shortest must be {length}, the length, at most; got {shortest}")

    @property
    def num_actions(self) -> int:
        """A move for each letter."""
        return self.num_letters

    @property
    def shortest(self) -> int:
        """Length from which on writing may stop."""
        return self.fewest

    def log_density(self, position: Int[Array, " length"]) -> Float[Array, ""]:
        return jnp.asarray(self.log_reward(position, *self.data), float)
