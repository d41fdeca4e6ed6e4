"""Back-and-forth local search: an object is taken apart for some moves and built up again.

    x = s_n -> s_n-1 -> .. -> s_j by P_B,   s_j -> .. -> x' by P_F,   j ~ U{0, .., n}
    log alpha = log R(x') - log R(x) + log(n + 1) - log(n' + 1)
                + sum log P_B(x' -> s_j) - sum log P_F(s_j -> x')
                + sum log P_F(s_j -> x)  - sum log P_B(x -> s_j)

Accepted with probability min(1, alpha) it is a Metropolis-Hastings kernel that leaves R / Z
invariant, whatever the policy: the proposal back from x' keeps the same j moves, with probability
1 / (n' + 1), and walks the two ways in the other direction. To keep all n moves must be possible:
the new object may be s_j itself, from which the way back begins by going on. The better the policy,
the closer alpha is to 1.

Accepting where R(x') >= R(x), as `always_up` does, is a search [1]: what it finds is trained on by
objectives that take paths of any law.

References
----------
.. [1] Kim et al., "Local search GFlowNets", ICLR 2024, arXiv:2310.02710. Algorithm 1.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import random
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree

from ppl import weights
from ppl.energy import Energy
from ppl.environment import Environment, State
from samplers.gflownet.paths import Paths, backward_paths, forward_from
from samplers.gflownet.policies import BackwardPolicy
from samplers.gflownet.scores import score
from samplers.trajectory.objectives import Scores


class Round(NamedTuple):
    """Objects after a round, their log-rewards, whether they are new, and log alpha.

    ``is_illegal``: what was found had a log-reward that is none, NaN or +inf, and was rejected.
    """

    objects: State
    log_reward: Float[Array, " B"]
    is_accepted: Bool[Array, " B"]
    log_alpha: Float[Array, " B"]
    is_illegal: Bool[Array, " B"]


def back_and_forth(
    rng_key: PRNGKeyArray,
    environment: Environment,
    policy: Any,
    backward: BackwardPolicy,
    objects: State,
    log_reward: Float[Array, " B"],
    *,
    always_up: bool = False,
    target: Energy | None = None,
) -> Round:
    """One round from objects, stacked; R is the reward of ``target``, if that is another."""
    target = environment if target is None else target
    key_back, key_kept, key_forth, key_accept = random.split(rng_key, 4)
    old = backward_paths(key_back, environment, policy, backward, objects)
    lengths = _num_moves(old)
    kept = random.randint(key_kept, lengths.shape, 0, lengths + 1)
    middle = jax.tree.map(lambda x: x[kept, jnp.arange(len(kept))], old.states)
    new = forward_from(key_forth, environment, policy, middle)
    found = jax.tree.map(lambda x: x[-1], new.states)
    raw = jax.vmap(target.log_density)(found)
    log_reward_found = weights.clean(raw)

    # The old path counts from its place j on, the new one from its start, which is there.
    new_lengths = kept + _num_moves(new)
    old_scores = score(environment, policy, backward, old, log_reward)
    new_scores = score(environment, policy, backward, new, log_reward_found)
    log_alpha = (
        log_reward_found + _log_ratio(new_scores, jnp.zeros_like(kept)) - _log_size(new_lengths)
    ) - (log_reward + _log_ratio(old_scores, kept) - _log_size(lengths))

    if always_up:
        is_accepted = log_reward_found >= log_reward
    else:
        log_u = jnp.log(random.uniform(key_accept, log_alpha.shape, log_alpha.dtype))
        is_accepted = log_u < log_alpha
    choose = lambda a, b: jnp.where(_spread(is_accepted, a), a, b)
    return Round(
        jax.tree.map(choose, found, objects),
        jnp.where(is_accepted, log_reward_found, log_reward),
        is_accepted,
        log_alpha,
        weights.is_illegal(raw),
    )


def _num_moves(paths: Paths) -> Int[Array, " B"]:
    return jnp.sum(paths.mask, axis=0) - 1


def _log_ratio(scores: Scores, first: Int[Array, " B"]) -> Float[Array, " B"]:
    """Sum of log P_B - log P_F over the transitions from ``first`` on, the stop among them."""
    later = scores.mask & (jnp.arange(len(scores.mask))[:, None] >= first)
    return jnp.sum(jnp.where(later, scores.log_pb - scores.log_pf, 0.0), axis=0)


def _log_size(lengths: Int[Array, " B"]) -> Float[Array, " B"]:
    """Log of the number of places that an object can be taken apart to."""
    return jnp.log1p(lengths.astype(float))


def _spread(flags: Bool[Array, " B"], like: PyTree) -> Bool[Array, "..."]:
    return flags.reshape(flags.shape + (1,) * (like.ndim - 1))
