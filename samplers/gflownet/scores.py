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
from samplers.gflownet.policies import BackwardPolicy, Said, masked
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
    rows = Row(paths.states, paths.actions, before, later)

    def one(policy: Any, row: Row) -> Told:
        return told(environment, backward, policy(environment, row.state), row)

    return where_needed(one, policy, rows, _reached(environment, paths), tells)


def _reached(environment: Environment, paths: Paths) -> Bool[Array, "T B"]:
    """States with a transition, and the one that the last move of a path leads to."""
    goes_on = paths.mask & (paths.actions < environment.num_actions)
    return paths.mask | jnp.concatenate([jnp.zeros_like(goes_on[:1]), goes_on[:-1]])


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


class Ahead(eqx.Module):
    """A policy whose flows look forward: where building may stop, it says what that tells of them.

    F(s) P_F(stop | s) = R(s), so that log F(s) less log R(s) is -log P_F(stop | s).
    """

    policy: Any

    def __call__(self, environment: Environment, state: State) -> Said:
        said, mask = self.policy(environment, state), environment.forward_mask(state)
        log_stop = masked(said.forward, mask)[-1]
        return said._replace(log_flow=jnp.where(mask[-1], -log_stop, said.log_flow))


def look_forward(
    environment: Any,
    scores: Scores,
    paths: Paths,
    log_z: Float[Array, ""],
    log_rewards: Float[Array, "T B"],
) -> Scores:
    """Scores by a policy `Ahead`, with forward-looking flows.

        log F(s) = log R(s) - log P_F(stop | s)              where building may stop
                   what was learned - E(s) + (1 - p) log Z   elsewhere

    ``log_rewards`` are those of states, read where building may stop. With p the progress that the
    environment sees at a state, what is learned is small everywhere: without the last term it would
    have to be log Z at the source, and nothing where objects are complete. p is 1 where the
    environment does not tell.
    """

    def shift(state: State, log_reward: Array) -> Array:
        done = environment.progress(state) if "progress" in environment.offers else 1.0
        guess = (1 - done) * log_z - environment.partial_energy(state)
        return jnp.where(environment.forward_mask(state)[-1], log_reward, guess)

    shifts = jax.vmap(jax.vmap(shift))(paths.states, log_rewards)
    shifts = jnp.concatenate([shifts, jnp.zeros_like(shifts[:1])])
    return fl_shift(scores, shifts.astype(scores.log_flow.dtype))


def rewards_on_the_way(
    environment: Environment, paths: Paths, log_reward: Float[Array, " B"]
) -> tuple[Float[Array, "rows B"], Bool[Array, "rows B"]]:
    """Log-rewards of where paths stopped, then of states where they might have; which are asked.

    States where building may not stop are not asked, nor is the last of a path a second time: they
    have the reward of their path. Where none is, as if objects have all one size, it costs nothing.
    """
    may_stop = jax.vmap(jax.vmap(environment.forward_mask))(paths.states)[..., -1]
    goes_on = paths.actions < environment.num_actions
    asked = may_stop & goes_on & _reached(environment, paths)
    of_all = jnp.broadcast_to(log_reward, asked.shape)

    def found() -> Array:
        rewards = jax.vmap(jax.vmap(environment.log_density))(paths.states)
        return jnp.where(asked, rewards, of_all)

    on_the_way = lax.cond(jnp.any(asked), found, lambda: of_all)
    is_asked = jnp.concatenate([jnp.ones_like(asked[:1]), asked])
    return jnp.concatenate([log_reward[None], on_the_way]), is_asked
