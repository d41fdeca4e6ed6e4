"""Policies: what is said of a state, logits of the next move, of the last move, and its log-flow.

    P_F(a | s) ~ exp(l_F(s)_a) 1{a is legal at s},   the stop among them
    P_B(a | s') ~ exp(l_B(s')_a) 1{a may have led to s'}

A policy is a table, where the states can be numbered, or a network on the features of the state, a
row for each of its parts. All begin at zero: each legal move is as likely as another.
"""

from abc import abstractmethod
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import random
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from ppl.environment import Environment, MixedEnvironment, State
from ppl.sampler import size
from ppl.template import TargetError
from samplers.attention import AttentionBlock
from samplers.gflownet import value_laws
from samplers.networks import MLP

ILLEGAL = -1e9  # finite, so that no gradient is NaN


class Said(NamedTuple):
    """What a policy says of one state."""

    forward: Float[Array, " moves_and_stop"]
    backward: Float[Array, " moves"]
    log_flow: Float[Array, ""]
    values: Float[Array, "moves parameters"]  # laws of the numbers of each move, if there are any


def masked(logits: Float[Array, " n"], mask: Bool[Array, " n"]) -> Float[Array, " n"]:
    """Log-probabilities of what is legal."""
    return jax.nn.log_softmax(jnp.where(mask, logits, ILLEGAL))


class Policy(eqx.Module):
    """Kind and sizes of a policy; ``start`` makes one for an environment."""

    def check(self, environment: Environment) -> None:
        """Raise an error about an environment it cannot serve; by default none."""

    @abstractmethod
    def start(self, rng_key: PRNGKeyArray, environment: Environment) -> Any:
        """Return a module ``(environment, state) -> Said`` with its first parameters."""


class Even(eqx.Module):
    """What is said of a state before anything is learned: each legal move is alike.

    ``stop``: logit of the stop.
    """

    stop: float = 0.0

    def __call__(self, environment: Environment, state: State) -> Said:
        said = jnp.zeros(_width(environment)).at[environment.num_actions].set(self.stop)
        return _said(environment, said)


# Tables ---------------------------------------------------------------------------------------


class Table(eqx.Module):
    """A row for each state."""

    rows: Float[Array, "states said"]

    def __call__(self, environment: Any, state: State) -> Said:
        return _said(environment, self.rows[environment.index(state)])


class TabularPolicy(Policy):
    """A table of all states, for environments with an ``index``."""

    def check(self, environment: Environment) -> None:
        if "index" not in environment.offers:
            raise TargetError(
                f"TabularPolicy numbers the states, and {type(environment).__name__} has no index: "
                "write policy=samplers.MLPPolicy(), or give it index(state) and num_states"
            )

    def start(self, rng_key: PRNGKeyArray, environment: Any) -> Table:
        return Table(jnp.zeros((environment.num_states, _width(environment))))


# Networks -------------------------------------------------------------------------------------


class Network(eqx.Module):
    """A network on features."""

    network: Any

    def __call__(self, environment: Environment, state: State) -> Said:
        return _said(environment, self.network(environment.features(state)))


class MLPPolicy(Policy):
    """A multilayer perceptron on all features.

    Parameters
    ----------
    width, depth
        Numbers in a layer, and residual layers.
    """

    width: int = size("width", default=128)
    depth: int = size("depth", default=1)

    def start(self, rng_key: PRNGKeyArray, environment: Environment) -> Network:
        shape, out = _features(environment), (_width(environment),)
        sizes: Any = {"width": self.width, "depth": self.depth}
        return Network(MLP(rng_key, shape, out_shape=out, timed=False, **sizes))


class _DeepSets(eqx.Module):
    inside: MLP
    outside: MLP

    def __call__(self, rows: Float[Array, "parts width"]) -> Array:
        # The networks of the library begin at zero, and a sum of zeros would learn nothing.
        within = jax.vmap(lambda row: jax.nn.silu(self.inside.first(row)))(rows)
        parts = within + jax.vmap(self.inside)(rows)
        return self.outside(jnp.sum(parts, axis=0) / len(rows) ** 0.5)


class DeepSetsPolicy(Policy):
    """A network on a sum over parts [1]: the order of the rows does not matter.

    Parameters
    ----------
    width, depth
        As those of `MLPPolicy`, inside the sum and outside.
    """

    width: int = size("width", default=128)
    depth: int = size("depth", default=1)

    def start(self, rng_key: PRNGKeyArray, environment: Environment) -> Network:
        key_inside, key_outside = random.split(rng_key)
        row, width = _features(environment)[1:], (self.width,)
        sizes: Any = {"width": self.width, "depth": self.depth, "timed": False}
        inside = MLP(key_inside, row, out_shape=width, **sizes)
        outside = MLP(key_outside, width, out_shape=(_width(environment),), **sizes)
        return Network(_DeepSets(inside, outside))


class _Transformer(eqx.Module):
    embedding: eqx.nn.Linear
    places: Float[Array, "parts width"]
    blocks: tuple[AttentionBlock, ...]
    last: MLP

    def __call__(self, rows: Float[Array, "parts features"]) -> Array:
        h = jax.vmap(self.embedding)(rows) + self.places
        for block in self.blocks:
            h = block(h)
        return self.last(jnp.mean(h, axis=0))


class TransformerPolicy(Policy):
    """A small transformer, each part a token, averaged at the end.

    Parameters
    ----------
    width, depth, num_heads
        Numbers in a token, blocks, and heads of attention in each.
    """

    width: int = size("width", default=64)
    depth: int = size("depth", default=2)
    num_heads: int = size("num_heads", default=4)

    def __check_init__(self) -> None:
        if self.width % self.num_heads:
            raise ValueError(
                f"width must be a multiple of num_heads; got {self.width} and {self.num_heads}"
            )

    def start(self, rng_key: PRNGKeyArray, environment: Environment) -> Network:
        key_in, key_places, key_last, *keys = random.split(rng_key, 3 + self.depth)
        parts, features = _features(environment)
        out = (_width(environment),)
        return Network(
            _Transformer(
                eqx.nn.Linear(features, self.width, key=key_in),
                0.1 * random.normal(key_places, (parts, self.width)),
                tuple(AttentionBlock(key, self.width, self.num_heads) for key in keys),
                MLP(key_last, (self.width,), out_shape=out, width=self.width, depth=1, timed=False),
            )
        )


def _features(environment: Environment) -> tuple[int, ...]:
    return jax.eval_shape(environment.features, environment.template).shape


def _num_parameters(environment: Environment) -> int:
    if isinstance(environment, MixedEnvironment):
        return value_laws.num_parameters(environment.num_values)
    return 0


def _width(environment: Environment) -> int:
    n = environment.num_actions
    return 2 * n + 2 + n * _num_parameters(environment)


def _said(environment: Environment, out: Float[Array, " said"]) -> Said:
    n = environment.num_actions
    forward, backward, log_flow, values = jnp.split(out, (n + 1, 2 * n + 1, 2 * n + 2))
    return Said(forward, backward, log_flow[0], values.reshape(n, _num_parameters(environment)))


# Backward policies ----------------------------------------------------------------------------


class BackwardPolicy(eqx.Module):
    """Where the logits of the last move come from."""

    def check(self, environment: Environment) -> None:
        """Raise an error about an environment it cannot serve; by default none."""

    @abstractmethod
    def logits(self, environment: Any, state: State, said: Said) -> Float[Array, " moves"]:
        """Before the mask."""


class UniformBackward(BackwardPolicy):
    """Each move that may have come last is as likely as another."""

    def logits(self, environment: Environment, state: State, said: Said) -> Float[Array, " moves"]:
        return jnp.zeros_like(said.backward)


class LearnedBackward(BackwardPolicy):
    """Learned with the forward policy."""

    def logits(self, environment: Environment, state: State, said: Said) -> Float[Array, " moves"]:
        return said.backward


class MaxEntBackward(BackwardPolicy):
    """Each way to a state is as likely as another [2]: P_B(s | s') = n(s) / n(s'), n ways each.

    The environment gives ``log_num_paths``.
    """

    def check(self, environment: Environment) -> None:
        if "log_num_paths" not in environment.offers:
            raise TargetError(
                f"MaxEntBackward counts ways, and {type(environment).__name__} has no "
                "log_num_paths: write backward=samplers.UniformBackward(), or give it one"
            )

    def logits(self, environment: Any, state: State, said: Said) -> Float[Array, " moves"]:
        def before(action: Array) -> Array:
            return environment.log_num_paths(environment.undo(state, action))

        ways = jax.vmap(before)(jnp.arange(environment.num_actions))
        legal = environment.backward_mask(state)
        return jnp.where(legal, ways, 0.0).astype(said.backward.dtype)
