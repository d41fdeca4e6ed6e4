"""Log-ratios of stored paths under a policy, as `samplers.trajectory.objectives` sees them."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from ppl.environment import Environment, State
from samplers.gflownet.paths import Paths, Row, Told, told
from samplers.gflownet.policies import BackwardPolicy
from samplers.trajectory.objectives import Scores, fl_shift

WIDTH = 64  # rows that a policy is asked about together


def score(
    environment: Environment,
    policy: Any,
    backward: BackwardPolicy,
    paths: Paths,
    log_reward: Float[Array, " B"],
    tells: Told | None = None,
) -> Scores:
    """Scores of paths. The policy is asked once for each state that was met, all together.

    ``tells``: what these very policies said of the paths, which then are asked for gradients alone.
    """
    log_pf, log_pb, log_flow = ask(environment, policy, backward, paths, tells)
    nothing = jnp.zeros_like(log_flow[:1])
    # The last of all transitions can only be a stop, whose backward probability is one.
    is_stop = paths.actions == environment.num_actions
    log_pb = jnp.where(is_stop, 0.0, jnp.concatenate([log_pb[1:], nothing]))
    log_flow = jnp.concatenate([log_flow, nothing])
    start, log_reward = nothing[0], log_reward.astype(log_flow.dtype)
    return Scores(log_pf, log_pb, log_flow, log_reward, start, paths.mask, paths.complete)


def ask(
    environment: Environment,
    policy: Any,
    backward: BackwardPolicy,
    paths: Paths,
    tells: Told | None = None,
) -> Told:
    """What policies say of paths; with ``tells``, that again, with its gradient."""
    n = environment.num_actions
    later = jax.tree.map(lambda x: jnp.concatenate([x[1:], x[-1:]]), paths.states)
    before = jnp.concatenate([jnp.full_like(paths.actions[:1], n), paths.actions[:-1]])
    # States with a transition, and the one that the last move of a path leads to.
    goes_on = paths.mask & (paths.actions < n)
    is_left = jnp.concatenate([jnp.zeros_like(goes_on[:1]), goes_on[:-1]])
    rows = Row(paths.states, paths.actions, before, later)

    def one(policy: Any, row: Row) -> Told:
        return told(environment, backward, policy(environment, row.state), row)

    return where_needed(one, policy, rows, paths.mask | is_left, tells)


def where_needed(
    one: Callable[[Any, Row], Any],
    policy: Any,
    rows: Row,
    needed: Bool[Array, "T B"],
    known: Any = None,
) -> Any:
    """``one(policy, row)`` of each row that is needed; others are zero, or are not to be read.

    What is ``known`` of all this is not computed, only its gradient.

    Most paths are shorter than the longest. Rows are sorted, what is needed first, and taken some
    at a time until nothing is left, forward and once more for the gradient, which memory does not
    grow with the paths for either.
    """
    arrays, rest = eqx.partition(policy, eqx.is_inexact_array)
    shape, num_rows = needed.shape, needed.size
    width = min(WIDTH, num_rows)
    rows = jax.tree.map(lambda x: x.reshape(num_rows, *x.shape[2:]), rows)
    order = jnp.argsort(~needed.reshape(-1), stable=True)
    order = jnp.concatenate([order, jnp.full(-num_rows % width, num_rows)])  # beyond: nowhere
    num_parts = -(-jnp.sum(needed) // width)

    def part(arrays: Any, places: Array) -> Any:
        chosen = jax.tree.map(lambda x: x.at[places].get(mode="clip"), rows)
        policy = eqx.combine(arrays, rest)
        return jax.vmap(lambda row: one(policy, row))(chosen)

    def places_of(i: Array) -> Array:
        return lax.dynamic_slice_in_dim(order, i * width, width)

    def of_all(arrays: Any) -> Any:
        if known is not None:
            return jax.tree.map(lambda x: x.reshape(num_rows, *x.shape[2:]), known)

        def add(i: Array, found: Any) -> Any:
            places = places_of(i)
            put = lambda all, new: all.at[places].set(new, mode="drop")
            return jax.tree.map(put, found, part(arrays, places))

        out = jax.eval_shape(part, arrays, order[:width])
        nothing = jax.tree.map(lambda x: jnp.zeros((num_rows, *x.shape[1:]), x.dtype), out)
        return lax.fori_loop(0, num_parts, add, nothing)

    def pulled(arrays: Any, pulls: Any) -> tuple[Any]:
        def add(i: Array, total: Any) -> Any:
            places = places_of(i)
            pull = jax.tree.map(lambda x: x.at[places].get(mode="fill", fill_value=0), pulls)
            (gradient,) = jax.vjp(lambda arrays: part(arrays, places), arrays)[1](pull)
            return jax.tree.map(jnp.add, total, gradient)

        return (lax.fori_loop(0, num_parts, add, jax.tree.map(jnp.zeros_like, arrays)),)

    # A loop whose length is not known when it is compiled has no gradient of its own.
    differentiable = jax.custom_vjp(of_all)
    differentiable.defvjp(lambda arrays: (of_all(arrays), arrays), pulled)
    return jax.tree.map(lambda x: x.reshape(shape), differentiable(arrays))


def look_forward(environment: Any, scores: Scores, paths: Paths, log_z: Float[Array, ""]) -> Scores:
    """Scores whose flows are forward-looking: log F(s) = what was learned - E(s) + (1 - p) log Z.

    With p the progress that the environment sees at a state, what is learned is small everywhere:
    without the last term it would have to be log Z at the source, and nothing where objects are
    complete. p is 1 where the environment does not tell.
    """

    def guess(state: State) -> Array:
        done = environment.progress(state) if "progress" in environment.offers else 1.0
        return (1 - done) * log_z - environment.partial_energy(state)

    shift = jax.vmap(jax.vmap(guess))(paths.states)
    shift = jnp.concatenate([shift, jnp.zeros_like(shift[:1])])
    return fl_shift(scores, shift.astype(scores.log_flow.dtype))
