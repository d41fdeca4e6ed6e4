"""Log-ratios of stored paths under a policy, as `samplers.trajectory.objectives` sees them."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ppl.environment import Environment
from samplers.gflownet.paths import Paths
from samplers.gflownet.policies import BackwardPolicy, masked
from samplers.trajectory.objectives import Scores, fl_shift


def score(
    environment: Environment,
    policy: Any,
    backward: BackwardPolicy,
    paths: Paths,
    log_reward: Float[Array, " B"],
) -> Scores:
    """Scores of paths. The policy is asked once for each state that was stored, all together."""

    def one(state: Any) -> tuple[Array, Array, Array]:
        said = policy(environment, state)
        log_pf = masked(said.forward, environment.forward_mask(state))
        logits = backward.logits(environment, state, said)
        return log_pf, masked(logits, environment.backward_mask(state)), said.log_flow

    log_pf, log_pb, log_flow = jax.vmap(jax.vmap(one))(paths.states)
    zeros = jnp.zeros_like(log_flow[:1])
    # The last move into a state is judged there; the last of the transitions can only be a stop.
    log_pb = jnp.concatenate([log_pb[1:], jnp.zeros_like(log_pb[:1])])
    is_stop = paths.actions == environment.num_actions
    moves = jnp.where(is_stop, 0, paths.actions)
    return Scores(
        _taken(log_pf, paths.actions),
        jnp.where(is_stop, 0.0, _taken(log_pb, moves)),
        jnp.concatenate([log_flow, zeros]),
        log_reward.astype(log_flow.dtype),
        jnp.zeros_like(zeros[0]),
        paths.mask,
        paths.complete,
    )


def look_forward(environment: Any, scores: Scores, paths: Paths) -> Scores:
    """Scores whose flows are forward-looking: log F(s) = what was learned - E(s)."""
    energy = jax.vmap(jax.vmap(environment.partial_energy))(paths.states)
    energy = jnp.concatenate([energy, jnp.zeros_like(energy[:1])])
    return fl_shift(scores, -energy.astype(scores.log_flow.dtype))


def _taken(log_p: Float[Array, "T B n"], actions: Array) -> Float[Array, "T B"]:
    return jnp.take_along_axis(log_p, actions[..., None], axis=-1)[..., 0]
