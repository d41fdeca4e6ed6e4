"""Updates on objects that were built before: a buffer of them, and paths that lead back from them.

Where the policy rarely goes it rarely learns. Off-policy objectives take paths of any law, so that
every now and then an update starts from the good objects of a buffer, if wanted improves them by
local search, and walks backward from them to the initial state.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jax import lax, random
from jaxtyping import Array, Float, PRNGKeyArray

from ppl.environment import Environment, State
from ppl.sampler import size
from samplers.gflownet.local_search import back_and_forth
from samplers.gflownet.paths import Paths, backward_paths
from samplers.gflownet.policies import BackwardPolicy
from samplers.trajectory import replay
from samplers.trajectory.replay import Buffer, ByRank


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"uphill must be True or False; got {value!r}")
    return value


class Revisit(eqx.Module):
    """Which updates go back, to which objects.

    Parameters
    ----------
    every
        Each ``every``-th update goes back.
    capacity
        Objects the buffer holds: the last that were built.
    priority
        Of objects in the buffer: `samplers.trajectory.replay.uniform`, `ByRank` or `ByReward`.
    num_rounds
        Of local search from each object before its path is drawn; 0: none.
    uphill
        Whether the search accepts what is no worse, or by the Metropolis-Hastings rule.
    """

    every: int = size("every", minimum=2, default=2)
    capacity: int = size("capacity", default=1000)
    priority: Callable[[Buffer], Array] = eqx.field(default_factory=ByRank)
    num_rounds: int = size("num_rounds", minimum=0, default=0)
    uphill: bool = eqx.field(static=True, converter=_flag, default=False)

    def empty(self, environment: Environment) -> Buffer:
        """The buffer before the first object."""
        return replay.empty(environment.template, self.capacity, jnp.zeros(()).dtype)

    def paths(
        self,
        rng_key: PRNGKeyArray,
        environment: Environment,
        policy: Any,
        backward: BackwardPolicy,
        buffer: Buffer,
        num_paths: int,
    ) -> tuple[Paths, Float[Array, " B"], Buffer]:
        """Paths that end in objects of the buffer, their log-rewards, and the buffer."""
        key_draw, key_search, key_paths = random.split(rng_key, 3)
        objects, log_reward = replay.draw(key_draw, buffer, num_paths, self.priority)

        def search(i: Array, carry: tuple[State, Array, Buffer]) -> tuple[State, Array, Buffer]:
            objects, log_reward, buffer = carry
            key = random.fold_in(key_search, i)
            found = back_and_forth(
                key, environment, policy, backward, objects, log_reward, always_up=self.uphill
            )
            buffer = replay.insert(buffer, found.objects, found.log_reward, found.is_accepted)
            return found.objects, found.log_reward, buffer

        if self.num_rounds:
            start = (objects, log_reward, buffer)
            objects, log_reward, buffer = lax.fori_loop(0, self.num_rounds, search, start)
        paths = backward_paths(key_paths, environment, policy, backward, objects)
        return paths, log_reward, buffer


def remember(buffer: Buffer, paths: Paths, log_reward: Float[Array, " B"]) -> Buffer:
    """The buffer with what has just been built; objects without a reward are left out."""
    return replay.insert(buffer, paths.objects, log_reward, jnp.isfinite(log_reward))
