"""Log-ratios of stored paths under a policy, as `samplers.trajectory.objectives` sees them."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from ppl.environment import Environment, MixedEnvironment, State
from samplers.gflownet import value_laws
from samplers.gflownet.paths import Paths
from samplers.gflownet.policies import BackwardPolicy, masked
from samplers.trajectory.objectives import Scores, fl_shift

NUM_PARTS = 4


class Row(NamedTuple):
    """One state of a path: the move that is made there, the one that led there, what comes next."""

    state: State
    action: Array
    before: Array
    after: State


def score(
    environment: Environment,
    policy: Any,
    backward: BackwardPolicy,
    paths: Paths,
    log_reward: Float[Array, " B"],
) -> Scores:
    """Scores of paths. The policy is asked once for each state that was met, all together."""
    n = environment.num_actions

    def one(row: Row) -> tuple[Array, Array, Array]:
        said = policy(environment, row.state)
        log_pf = masked(said.forward, environment.forward_mask(row.state))[row.action]
        if isinstance(environment, MixedEnvironment):
            # The numbers of a move are read off the state it leads to.
            move = jnp.minimum(row.action, n - 1)
            values = environment.values(row.after, move)
            log_pf += jnp.where(row.action < n, value_laws.log_prob(said.values[move], values), 0)
        logits = backward.logits(environment, row.state, said)
        log_pb = masked(logits, environment.backward_mask(row.state))
        return log_pf, log_pb[jnp.minimum(row.before, n - 1)], said.log_flow

    later = jax.tree.map(lambda x: jnp.concatenate([x[1:], x[-1:]]), paths.states)
    before = jnp.concatenate([jnp.full_like(paths.actions[:1], n), paths.actions[:-1]])
    is_stop = paths.actions == n
    # States with a transition, and the one that the last move of a path leads to.
    is_left = jnp.concatenate([jnp.zeros_like(is_stop[:1]), (paths.mask & ~is_stop)[:-1]])
    rows = Row(paths.states, paths.actions, before, later)
    log_pf, log_pb, log_flow = where_needed(one, rows, paths.mask | is_left)
    nothing = jnp.zeros_like(log_flow[:1])
    # The last of all transitions can only be a stop, whose backward probability is one.
    log_pb = jnp.where(is_stop, 0.0, jnp.concatenate([log_pb[1:], nothing]))
    log_flow = jnp.concatenate([log_flow, nothing])
    start, log_reward = nothing[0], log_reward.astype(log_flow.dtype)
    return Scores(log_pf, log_pb, log_flow, log_reward, start, paths.mask, paths.complete)


def where_needed(one: Callable[[Row], Any], rows: Row, needed: Bool[Array, "T B"]) -> Any:
    """``one`` of each row that is needed, and zeros elsewhere.

    Most paths are shorter than the longest: rows are sorted, what is needed first, and parts in
    which nothing is are left out.
    """
    shape, num_rows = needed.shape, needed.size
    width = -(-num_rows // NUM_PARTS)
    order = jnp.argsort(~needed.reshape(-1), stable=True)
    order = jnp.concatenate([order, jnp.full(NUM_PARTS * width - num_rows, num_rows)])

    def part(places: Array) -> Any:
        chosen = jax.tree.map(lambda x: x.reshape(num_rows, *x.shape[2:])[places], rows)
        found = jnp.take(needed.reshape(-1), places, mode="fill", fill_value=False)
        out = jax.eval_shape(jax.vmap(one), chosen)
        zeros = lambda _: jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), out)
        return lax.cond(jnp.any(found), jax.vmap(one), zeros, chosen)

    parts = lax.map(part, order.reshape(NUM_PARTS, width))
    put = lambda x: jnp.zeros(num_rows, x.dtype).at[order].set(x.reshape(-1), mode="drop")
    return jax.tree.map(lambda x: put(x).reshape(shape), parts)


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
