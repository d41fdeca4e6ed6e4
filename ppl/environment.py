"""Environments: objects that are built move by move, as targets of generative flow networks.

    s_0 -> s_1 -> ... -> s_n = x, stop          moves 0, .., num_actions - 1, then the stop

An `Environment` is a target: ``log_density(x)`` is the log reward of an object, in nats, and the
law to draw from is R(x) / Z. Beside it, it says how objects are built. A state is a pytree of
arrays of fixed shapes; an object is the state at which building stopped, so that both look like
``template``. From the initial state every state can be reached by legal moves, none twice on one
way, and every way ends after ``max_length`` moves at most. Masks carry what differs from state to
state: the legal moves, and so the lengths.

A move and the state it leads to determine the state it came from. So one number names a move in
both directions: ``undo(apply(state, action), action)`` is ``state``, and ``backward_mask`` marks
the moves that may have come last. The stop is the last entry of ``forward_mask``. All methods are
written for a single state and are traced; whoever calls them vmaps.

`check` finds what is wrong with an environment before anything is trained on it. Where the number
of states is small, `ppl.state_graph` lists them, and laws of what a policy builds are exact sums.
"""

from abc import abstractmethod
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PyTree

from ppl.energy import Energy, TargetError
from ppl.template import describe

type State = PyTree


class Environment(Energy):
    """Abstract environment. Subclasses are final and give all that is abstract here.

    They may give more, which is listed in ``offers``:

    ======================  ====================================================================
    ``partial_energy``      ``partial_energy(state)``, nats: what the energy -log R of objects to
                            come owes to what is there already; any finite function is right
    ``progress``            ``progress(state)``, from 0 at the initial state to 1: how much of an
                            object is there; any finite function is right
    ``index``               ``index(state)``, below ``num_states``: a number for each state
    ``log_num_paths``       ``log_num_paths(state)``: log number of ways from the initial state
    ======================  ====================================================================
    """

    @property
    @abstractmethod
    def num_actions(self) -> int:
        """Number of moves, the stop apart; static."""

    @property
    @abstractmethod
    def max_length(self) -> int:
        """Moves of the longest way, the stop apart; static."""

    @property
    def offers(self) -> frozenset[str]:
        optional = ("partial_energy", "progress", "index", "log_num_paths")
        found = {name for name in optional if hasattr(self, name)}
        return frozenset({"log_density", "environment"} | found)

    def initial(self) -> State:
        """The state where building starts; zeros by default."""
        return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), self.template)

    @abstractmethod
    def forward_mask(self, state: State) -> Bool[Array, " moves_and_stop"]:
        """Which moves are legal, and, last, whether building may stop."""

    @abstractmethod
    def backward_mask(self, state: State) -> Bool[Array, " moves"]:
        """Which moves may have led here; none at the initial state."""

    @abstractmethod
    def apply(self, state: State, action: Int[Array, ""]) -> State:
        """The state after a legal move."""

    @abstractmethod
    def undo(self, state: State, action: Int[Array, ""]) -> State:
        """The state before a move that may have led here."""

    def is_legal(self, state: State) -> Bool[Array, ""]:
        """Whether this is a state at all; what `check` asks of everything it meets."""
        return jnp.ones((), bool)

    def features(self, state: State) -> Float[Array, "parts width"]:
        """What a network sees: a row for each part of the state; by default all in one row."""
        leaves = [jnp.ravel(leaf).astype(float) for leaf in jax.tree.leaves(state)]
        return jnp.concatenate(leaves)[None]


class MixedEnvironment(Environment):
    """Environment whose moves carry numbers: ``num_values`` in the open unit cube, with a density.

    The numbers of the last move can be read off the state. So a path is its states and the names of
    its moves here too, and densities of its moves are with respect to the numbers.
    """

    @property
    @abstractmethod
    def num_values(self) -> int:
        """Numbers of a move; static."""

    @abstractmethod
    def place(self, state: State, action: Int[Array, ""], values: Float[Array, " values"]) -> State:
        """The state after a legal move with these numbers."""

    @abstractmethod
    def values(self, state: State, action: Int[Array, ""]) -> Float[Array, " values"]:
        """The numbers of a move that may have led here."""

    def apply(self, state: State, action: Int[Array, ""]) -> State:
        """The move in the middle of its cube."""
        return self.place(state, action, jnp.full(self.num_values, 0.5))


# The checker ----------------------------------------------------------------------------------


class Checked(NamedTuple):
    """What `check` has looked at: how many states, and whether these were all there are."""

    num_states: int
    complete: bool


class Findings(NamedTuple):
    """What the checker sees of states, stacked; as NumPy arrays, once they are on the host."""

    forward: Any  # (states, moves and stop)
    backward: Any  # (states, moves), as are the next eight
    children: State
    legal_children: Any
    can_be_undone: Any
    undone: Any
    legal_parents: Any
    can_be_redone: Any
    redone: Any
    log_density: Any  # (states,), as are the last three
    partial_energy: Any
    index: Any
    log_num_paths: Any


@eqx.filter_jit
def look_at(environment: Environment, states: State) -> Findings:
    """Findings of states, stacked."""
    moves = jnp.arange(environment.num_actions)

    def one(state: State) -> Findings:
        def ahead(action: Array) -> tuple[Any, ...]:
            child = environment.apply(state, action)
            back = environment.undo(child, action)
            allowed = environment.backward_mask(child)[action]
            return child, environment.is_legal(child), allowed, _equal(back, state)

        def behind(action: Array) -> tuple[Any, ...]:
            parent = environment.undo(state, action)
            again = _retrace(environment, parent, state, action)
            allowed = environment.forward_mask(parent)[action]
            return environment.is_legal(parent), allowed, _equal(again, state)

        def optional(name: str) -> Array:
            found = name in environment.offers
            return jnp.asarray(getattr(environment, name)(state) if found else 0)

        found = (
            environment.forward_mask(state),
            environment.backward_mask(state),
            *jax.vmap(ahead)(moves),
            *jax.vmap(behind)(moves),
            environment.log_density(state),
            *(optional(name) for name in Findings._fields[-3:]),
        )
        return Findings._make(found)

    return jax.vmap(one)(states)


def _retrace(environment: Environment, parent: State, child: State, action: Array) -> State:
    if isinstance(environment, MixedEnvironment):
        return environment.place(parent, action, environment.values(child, action))
    return environment.apply(parent, action)


def _equal(one: State, other: State) -> Bool[Array, ""]:
    same = jax.tree.map(lambda a, b: jnp.all(a == b), one, other)
    return jnp.all(jnp.stack(jax.tree.leaves(same)))


def check(environment: Any, *, max_states: int = 20_000, num_walks: int = 64) -> Checked:
    """Raise an error that says what is wrong with an environment, if anything is.

    All states are visited where there are ``max_states`` of them at most; otherwise those of
    ``num_walks`` random ways.

    Raises
    ------
    TargetError
        For masks or moves of a wrong shape; a mask that leaves no move, so that building cannot
        end; a move that cannot be undone, or an undone move that cannot be made; a move to what is
        no state; a way that is too long or meets a state twice; a log-density that is NaN or +inf,
        or -inf everywhere; an ``index`` or ``log_num_paths`` that is wrong.
    """
    from ppl import state_graph

    _check_shapes(environment)
    explored = state_graph.explore(environment, max_states)
    if explored is None:
        states, found, problem = state_graph.walk(environment, num_walks)
        _check_states(environment, states, found)
        if problem is not None:
            raise TargetError(problem)
    else:
        _check_states(environment, *explored)
        _check_graph(environment, state_graph.sort(*explored), explored[1])
        found = explored[1]
    return Checked(len(found.log_density), explored is not None)


def _check_shapes(environment: Any) -> None:
    if not isinstance(environment, Environment):
        raise TargetError(
            "check takes a ppl.environment.Environment, and a GFlowNet runs on one; got "
            f"{type(environment).__name__}"
        )
    n, expected = environment.num_actions, describe(environment.template)
    action = jax.ShapeDtypeStruct((), jnp.int32)
    state = jax.eval_shape(environment.initial)
    shapes = {"initial": state}
    for name in ("apply", "undo"):
        shapes[f"{name}(state, action)"] = jax.eval_shape(getattr(environment, name), state, action)
    for name, out in shapes.items():
        if describe(out) != expected:
            raise TargetError(f"{name} must be a state, {expected}; got {describe(out)}")
    for name, size in (("forward_mask", n + 1), ("backward_mask", n)):
        out = jax.eval_shape(getattr(environment, name), state)
        if (out.shape, out.dtype) != ((size,), jnp.dtype(bool)):
            last = " and, last, for the stop" if name == "forward_mask" else ""
            raise TargetError(
                f"{name}(state) must have a bool for each of the {n} moves{last}, bool[{size}]; "
                f"got {out.dtype.name}{list(out.shape)}"
            )


def _check_states(environment: Environment, states: State, found: Findings) -> None:
    """Raise for the first state at which something is wrong."""

    def refuse(bad: np.ndarray, message: str) -> None:
        if bad.any():
            i, *move = np.argwhere(bad)[0]
            at = lambda tree: jax.tree.map(lambda x: x[tuple([i, *move])[: 1 + len(move)]], tree)
            here = shown(jax.tree.map(lambda x: x[i], states))
            there = shown(at(found.children)) if move else ""
            raise TargetError(message.format(here=here, there=there, move=(move or [0])[0]))

    n = environment.num_actions
    legal, back = found.forward[:, :n], found.backward
    is_start = np.arange(len(back)) == 0
    refuse(
        ~found.forward.any(1),
        "forward_mask leaves no move at the state {here}, nor the stop: building cannot end there",
    )
    refuse(
        is_start[:, None] & back,
        "backward_mask allows move {move} at the initial state {here}, before which there is none",
    )
    refuse(
        legal & ~found.legal_children,
        "forward_mask allows move {move} at the state {here}; it leads to {there}, which is no "
        "state (is_legal)",
    )
    refuse(
        legal & ~found.can_be_undone,
        "move {move} has no inverse: it leads from {here} to {there}, where backward_mask does not "
        "allow it",
    )
    refuse(
        legal & ~found.undone,
        "move {move} has a wrong inverse: it leads from {here} to {there}, and undo does not lead "
        "back",
    )
    refuse(
        back & ~(found.legal_parents & found.can_be_redone & found.redone),
        "backward_mask allows move {move} at the state {here}, but no legal state leads there by "
        "it: each wrong parent takes probability from the right ones",
    )
    can_stop = found.forward[:, n]
    log_reward = np.asarray(found.log_density)
    for bad, what in ((np.isnan(log_reward), "NaN"), (log_reward == np.inf, "+inf")):
        refuse(can_stop & bad, f"log_density is {what} at the object {{here}}")
    if can_stop.any() and (log_reward[can_stop] == -np.inf).all():
        raise TargetError(
            f"log_density is -inf at each of the {can_stop.sum()} objects visited: there is "
            "nothing to draw"
        )
    refuse(~np.isfinite(found.partial_energy), "partial_energy is not finite at the state {here}")
    if "index" in environment.offers:
        total = environment.num_states  # pyright: ignore[reportAttributeAccessIssue]
        index = np.asarray(found.index)
        refuse(
            (index < 0) | (index >= total), f"index must be below num_states = {total} at {{here}}"
        )
        _, first, inverse = np.unique(index, return_index=True, return_inverse=True)
        refuse(first[inverse] != np.arange(len(index)), "index is that of another state at {here}")


def _check_graph(environment: Environment, graph: Any, found: Findings) -> None:
    if graph.level.max() > environment.max_length:
        raise TargetError(
            f"max_length is {environment.max_length}, and a way has {graph.level.max()} moves"
        )
    if "log_num_paths" in environment.offers:
        given = np.asarray(found.log_num_paths)[graph.order]
        wrong = np.abs(given - graph.log_num_paths()) > 1e-3
        if wrong.any():
            i = np.argmax(wrong)
            raise TargetError(
                f"log_num_paths is {given[i]:.4f} at the state "
                f"{shown(jax.tree.map(lambda x: x[i], graph.states))}, to which "
                f"exp({graph.log_num_paths()[i]:.4f}) ways lead"
            )


def shown(state: State) -> str:
    """One line for error messages."""
    leaves = [np.array2string(np.asarray(x), separator=", ") for x in jax.tree.leaves(state)]
    return " ".join(", ".join(leaves).split())
