"""Updates on objects that were built before: a buffer of them, and paths that lead back from them.

Where the policy rarely goes it rarely learns. Off-policy objectives take paths of any law, so that
every now and then an update starts from the good objects of a buffer, if wanted improves them by
local search or by a Markov kernel, and walks backward from them to the initial state.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax, random
from jaxtyping import Array, Float, Int, PRNGKeyArray

from ppl.energy import Energy
from ppl.environment import Environment, State
from ppl.sampler import MarkovKernel, size
from samplers.gflownet.local_search import back_and_forth
from samplers.gflownet.paths import Paths, backward_paths
from samplers.gflownet.policies import BackwardPolicy
from samplers.trajectory import replay
from samplers.trajectory.replay import Buffer, ByRank


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"uphill must be True or False; got {value!r}")
    return value


class Objects(Energy):
    """The reward of an environment, where building may stop; other states have none.

    A kernel that knows nothing of how objects are built would come to states that are none.
    """

    environment: Environment

    @property
    def template(self) -> Any:
        """Objects."""
        return self.environment.template

    def log_density(self, position: State) -> Float[Array, ""]:
        environment = self.environment
        is_one = environment.is_legal(position) & environment.forward_mask(position)[-1]
        return jnp.where(is_one, environment.log_density(position), -jnp.inf)


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
    kernel
        A Markov kernel that makes ``num_rounds`` steps from each object in place of that search,
        such as `samplers.SiteMetropolis`; where it arrives is kept in the buffer. Good where an
        object that is built anew from some point on is hardly ever as good.

    Raises
    ------
    TypeError
        If ``kernel`` is no Markov kernel.
    ValueError
        For a kernel that would make no steps, or be told of ``uphill``.
    """

    every: int = size("every", minimum=2, default=2)
    capacity: int = size("capacity", default=1000)
    priority: Callable[[Buffer], Array] = eqx.field(default_factory=ByRank)
    num_rounds: int = size("num_rounds", minimum=0, default=0)
    uphill: bool = eqx.field(static=True, converter=_flag, default=False)
    kernel: Any = None

    def __check_init__(self) -> None:
        if self.kernel is None:
            return
        if not isinstance(self.kernel, MarkovKernel):
            raise TypeError(
                "kernel must be a Markov kernel, such as samplers.SiteMetropolis(2), or None; got "
                f"{self.kernel!r}"
            )
        if self.num_rounds == 0 or self.uphill:
            raise ValueError(
                "a kernel makes num_rounds steps, by its own rule: write "
                "Revisit(kernel=..., num_rounds=100), without uphill; got "
                f"num_rounds={self.num_rounds}, uphill={self.uphill}"
            )

    def check(self, environment: Any) -> None:
        """Raise an error about an environment that the kernel cannot serve."""
        if self.kernel is not None:
            self.kernel.check(environment)

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
    ) -> tuple[Paths, Float[Array, " B"], Buffer, Int[Array, ""]]:
        """Paths that end in objects of the buffer, their log-rewards, the buffer, and the cost."""
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

        num_rewards = jnp.int32(self.num_rounds * num_paths)
        if self.kernel is not None:
            keys = random.split(key_search, num_paths)
            moved = jax.vmap(self._moved, (0, None, 0))(keys, environment, objects)
            objects, log_reward, costs = moved
            buffer = replay.insert(buffer, objects, log_reward, jnp.isfinite(log_reward))
            num_rewards = jnp.sum(costs).astype(jnp.int32)
        elif self.num_rounds:
            start = (objects, log_reward, buffer)
            objects, log_reward, buffer = lax.fori_loop(0, self.num_rounds, search, start)
        paths = backward_paths(key_paths, environment, policy, backward, objects)
        return paths, log_reward, buffer, num_rewards

    def _moved(
        self, rng_key: PRNGKeyArray, environment: Environment, one: State
    ) -> tuple[State, Float[Array, ""], Int[Array, ""]]:
        """Where the kernel arrives from one object, the log-reward there, and what that cost."""
        kernel = self.kernel.resolve(environment)
        target = Objects(environment=environment)  # pyright: ignore[reportCallIssue]

        def step(i: Array, carry: Any) -> Any:
            state, cost = carry
            state, info = kernel.step(random.fold_in(rng_key, i), target, state)
            return state, cost + info.num_evaluations[0]

        first = kernel.init(random.fold_in(rng_key, self.num_rounds), target, one)
        state, cost = lax.fori_loop(0, self.num_rounds, step, (first, jnp.int32(1)))
        return state.position, environment.log_density(state.position), cost + 1


def remember(buffer: Buffer, paths: Paths, log_reward: Float[Array, " B"]) -> Buffer:
    """The buffer with what has just been built; objects without a reward are left out."""
    return replay.insert(buffer, paths.objects, log_reward, jnp.isfinite(log_reward))
