"""Paths through an environment, drawn forward from its initial state or backward from objects.

A path of n moves has n + 1 transitions, the last of which is the stop: the object is the state at
which it was taken, and its backward probability is 1. All T = max_length + 1 transitions have room;
a mask says which are real.
"""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax, random
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from ppl.environment import Environment, MixedEnvironment, State, shown
from ppl.sampler import where
from ppl.template import TargetError
from samplers.gflownet import value_laws
from samplers.gflownet.policies import BackwardPolicy, Even, Said, masked


class Paths(NamedTuple):
    """Paths, axes (transition, path).

    ``states`` are those before each transition; ``complete``: a path ends with its stop. One that
    meets a state without a move, or goes on behind the longest way, does not: the environment is
    wrong.
    """

    states: State
    actions: Int[Array, "T B"]
    mask: Bool[Array, "T B"]
    complete: Bool[Array, " B"]

    @property
    def objects(self) -> State:
        """Where the paths stopped."""
        return jax.tree.map(lambda x: x[-1], self.states)


class Row(NamedTuple):
    """One state of a path: the move that is made there, the one that led there, what comes next."""

    state: State
    action: Array
    before: Array
    after: State


class Told(NamedTuple):
    """What a policy says of rows: log P_F of the move, log P_B of the one before, the log-flow.

    Alike for all rows, it need not be asked again about paths that it has just drawn.
    """

    log_pf: Float[Array, "T B"]
    log_pb: Float[Array, "T B"]
    log_flow: Float[Array, "T B"]


def told(environment: Environment, backward: BackwardPolicy, said: Said, row: Row) -> Told:
    """Of one row, what the policy has ``said`` of its state."""
    n = environment.num_actions
    log_pf = masked(said.forward, environment.forward_mask(row.state))[row.action]
    if isinstance(environment, MixedEnvironment):
        # The numbers of a move are read off the state it leads to.
        move = jnp.minimum(row.action, n - 1)
        values = environment.values(row.after, move)
        log_pf += jnp.where(row.action < n, value_laws.log_prob(said.values[move], values), 0)
    logits = backward.logits(environment, row.state, said)
    log_pb = masked(logits, environment.backward_mask(row.state))
    return Told(log_pf, log_pb[jnp.minimum(row.before, n - 1)], said.log_flow)


class Exploration(NamedTuple):
    """How the law that draws differs from the policy: (1 - share) P_F^(1 / T) + share U."""

    share: Float[Array, ""] | float = 0.0
    temperature: Float[Array, ""] | float = 1.0

    def log_probs(self, log_p: Float[Array, " n"], mask: Bool[Array, " n"]) -> Float[Array, " n"]:
        """Log-probabilities of what is drawn, from those of the policy."""
        warm = masked(log_p / self.temperature, mask)
        uniform = masked(jnp.zeros_like(log_p), mask)
        share = jnp.asarray(self.share, log_p.dtype)
        return jnp.logaddexp(jnp.log1p(-share) + warm, jnp.log(share) + uniform)


NO_EXPLORATION = Exploration()


def forward_paths(
    rng_key: PRNGKeyArray,
    environment: Environment,
    policy: Any,
    num_paths: int,
    exploration: Exploration = NO_EXPLORATION,
) -> Paths:
    """Paths from the initial state."""
    starts = _copies(environment.initial(), num_paths)
    return forward_from(rng_key, environment, policy, starts, exploration)


def check_ways(environment: Environment, num_ways: int = 64) -> None:
    """Raise if one of some ways drawn by chance, long ones, does not end in an object."""
    paths = eqx.filter_jit(forward_paths)(random.key(0), environment, Even(-3.0), num_ways)
    endless = np.flatnonzero(~np.asarray(paths.complete))
    if not len(endless):
        return
    last = jax.tree.map(lambda x: x[endless[0]], paths.objects)
    if not np.any(environment.forward_mask(last)):
        what = f"forward_mask leaves no move at the state {shown(last)}, nor the stop"
    else:
        what = (
            f"a way is longer than max_length = {environment.max_length}, as in a loop; it is at "
            f"{shown(last)}"
        )
    raise TargetError(
        f"building does not always end: {what}. ppl.environment.check(environment) looks at more"
    )


def built(rng_key: PRNGKeyArray, environment: Environment, n: int) -> State:
    """Objects built by moves drawn uniformly: starts for a chain, ``init=built``."""
    return forward_paths(rng_key, environment, Even(), n).objects


def forward_from(
    rng_key: PRNGKeyArray,
    environment: Environment,
    policy: Any,
    starts: State,
    exploration: Exploration = NO_EXPLORATION,
) -> Paths:
    """Paths from states, stacked, until they stop; after that a path stays where it is."""
    return _forward(rng_key, environment, policy, None, starts, exploration)[0]


def forward_and_told(
    rng_key: PRNGKeyArray,
    environment: Environment,
    policy: Any,
    backward: BackwardPolicy,
    num_paths: int,
    exploration: Exploration = NO_EXPLORATION,
) -> tuple[Paths, Told]:
    """Paths from the initial state, and what the policies say of them, exploration apart."""
    starts = _copies(environment.initial(), num_paths)
    return _forward(rng_key, environment, policy, backward, starts, exploration)


def _forward(
    rng_key: PRNGKeyArray,
    environment: Environment,
    policy: Any,
    backward: BackwardPolicy | None,
    starts: State,
    exploration: Exploration,
) -> tuple[Paths, Any]:
    n, length = environment.num_actions, environment.max_length + 1
    num_paths = len(jax.tree.leaves(starts)[0])
    # The noise of all transitions at once. A draw decides all that follows: the default generator
    # never draws what is rarer than 1e-7.
    noise: Any = random.gumbel(rng_key, (length, num_paths, n + 1), mode="high")
    if isinstance(environment, MixedEnvironment):
        key_values = random.fold_in(rng_key, 1)
        of_values = value_laws.noise(key_values, (length, num_paths), environment.num_values)
        noise = (noise, of_values)
    else:
        noise = (noise, None)

    def one(state: State, noise: Any, before: Array, is_going: Array) -> Any:
        mask, said = environment.forward_mask(state), policy(environment, state)
        log_p = exploration.log_probs(masked(said.forward, mask), mask)
        action = jnp.argmax(log_p + noise[0]).astype(jnp.int32)
        is_stuck = is_going & ~jnp.any(mask)
        moves, move = is_going & ~is_stuck & (action < n), jnp.minimum(action, n - 1)
        if isinstance(environment, MixedEnvironment):
            values = value_laws.draw(noise[1], said.values[move])
            after = environment.place(state, move, values)
        else:
            after = environment.apply(state, move)
        after = where(moves, after, state)
        row = Row(state, action, before, after)
        tells = None if backward is None else told(environment, backward, said, row)
        return after, action, moves, is_stuck, tells

    def transition(carry: Any) -> Any:
        t, states, before, going, stuck, kept = carry
        now = jax.tree.map(lambda x: x[t], noise)
        after, actions, moves, now_stuck, tells = jax.vmap(one)(states, now, before, going)
        put = lambda all, now: all.at[t].set(now)
        kept = jax.tree.map(put, kept, (states, actions, going, tells))
        return t + 1, after, actions, moves, stuck | now_stuck, kept

    # A scan would go on to the longest possible path; this ends with the last of these.
    going, stop = jnp.ones(num_paths, bool), jnp.full(num_paths, n, jnp.int32)
    first = jax.tree.map(lambda x: x[0], noise)
    tells = jax.eval_shape(jax.vmap(one), starts, first, stop, going)[-1]
    tells = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), tells)
    kept = _copies((starts, stop, ~going, tells), length)
    start = (jnp.int32(0), starts, stop, going, ~going, kept)
    end, states, _, going, stuck, kept = lax.while_loop(
        lambda carry: (carry[0] < length) & jnp.any(carry[3]), transition, start
    )
    later = jnp.arange(length) >= end

    def stay(all: Array, last: Array) -> Array:
        return jnp.where(later.reshape(-1, *(1,) * last.ndim), last, all)

    passed, actions, mask, tells = kept
    passed = jax.tree.map(stay, passed, states)
    return Paths(passed, actions, mask, ~(going | stuck)), tells


def _copies(tree: Any, n: int) -> Any:
    return jax.tree.map(lambda x: jnp.broadcast_to(x, (n, *x.shape)), tree)


def backward_paths(
    rng_key: PRNGKeyArray,
    environment: Environment,
    policy: Any,
    backward: BackwardPolicy,
    objects: State,
) -> Paths:
    """Paths that end in objects, stacked."""
    n, length = environment.num_actions, environment.max_length
    num_paths = len(jax.tree.leaves(objects)[0])
    noise = random.gumbel(rng_key, (length, num_paths, n), mode="high")

    def one(state: State, noise: Array) -> Any:
        mask = environment.backward_mask(state)
        log_p = masked(backward.logits(environment, state, policy(environment, state)), mask)
        action = jnp.argmax(log_p + noise).astype(jnp.int32)
        moves = jnp.any(mask)
        return where(moves, environment.undo(state, action), state), action, moves

    def transition(carry: Any) -> Any:
        t, states, _, passed, all_actions, lengths = carry
        before, actions, moves = jax.vmap(one)(states, noise[t])
        passed = jax.tree.map(lambda all, now: all.at[t].set(now), passed, before)
        return t + 1, before, moves, passed, all_actions.at[t].set(actions), lengths + moves

    going, lengths = jnp.ones(num_paths, bool), jnp.zeros(num_paths, jnp.int32)
    passed = _copies(objects, length)
    actions = jnp.zeros((length, num_paths), jnp.int32)
    start = (jnp.int32(0), objects, going, passed, actions, lengths)
    *_, passed, actions, lengths = lax.while_loop(
        lambda carry: (carry[0] < length) & jnp.any(carry[2]), transition, start
    )
    return _turned(environment, objects, passed, actions, lengths)


def _turned(
    environment: Environment, objects: State, states: State, actions: Array, lengths: Array
) -> Paths:
    """Paths in forward order: what came k-th going back is at n - k going forward."""
    t = jnp.arange(environment.max_length + 1)[:, None]
    columns = jnp.arange(len(lengths))[None]
    back = jax.tree.map(lambda x, all: jnp.concatenate([x[None], all]), objects, states)
    at = jnp.maximum(lengths - t, 0)
    forward = jax.tree.map(lambda x: x[at, columns], back)
    stop = jnp.int32(environment.num_actions)
    chosen = actions[jnp.maximum(lengths - 1 - t, 0), columns]
    actions = jnp.where(t < lengths, chosen, stop)
    return Paths(forward, actions, t <= lengths, jnp.ones(len(lengths), bool))


def cut(rng_key: PRNGKeyArray, paths: Paths, share: Float[Array, ""]) -> Paths:
    """Leave a share of the paths incomplete: of each only its first transitions, 1, .. or all."""
    key_which, key_where = random.split(rng_key)
    lengths = jnp.sum(paths.mask, axis=0)
    is_cut = random.bernoulli(key_which, share, lengths.shape)
    kept = random.randint(key_where, lengths.shape, 1, lengths + 1)
    lengths = jnp.where(is_cut, kept, lengths)
    mask = paths.mask & (jnp.arange(len(paths.mask))[:, None] < lengths)
    return paths._replace(mask=mask, complete=paths.complete & jnp.all(mask == paths.mask, axis=0))
