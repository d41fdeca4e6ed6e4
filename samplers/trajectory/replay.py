"""Ends of paths that training comes back to: a buffer, priorities, and a local search.

    p(i) ~ 1 / (k N + rank_i),   ranks 0, 1, .. from the highest log R             ([2])
    p(i) ~ R_i^b                                                                   by reward

A buffer is a ring of fixed capacity: the newest overwrite the oldest. Backward paths from what it
holds are as good to off-policy objectives as forward ones, and where forward paths never come they
are better. The local search improves what is there: chains of MALA on the target start from draws
of the buffer, and what they accepted after burn-in is kept apart, to be replayed [1].

References
----------
.. [1] Sendera et al., "Improved off-policy training of diffusion samplers", NeurIPS 2024,
   arXiv:2402.05098. Section 4.3 and algorithm 1.
.. [2] Tripp, Daxberger and Hernandez-Lobato, "Sample-efficient optimization in the latent space of
   deep generative models via weighted retraining", NeurIPS 2020, arXiv:2006.09191.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax, random
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from ppl.sampler import fraction, nonnegative, positive, size
from samplers.langevin.mala import MALA
from samplers.mcmc.metrics import Identity
from samplers.mcmc.step_size import adjusted, with_step_size
from samplers.smc.resampling import multinomial
from samplers.trajectory.kernels import Flat


class Buffer(NamedTuple):
    """A ring of ends of paths: objects, log R, the place of the next one, and how many are here.

    ``items`` is a pytree of arrays with a leading axis of places.
    """

    items: Any
    log_reward: Float[Array, " capacity"]
    place: Int[Array, ""]
    num_held: Int[Array, ""]

    @property
    def is_held(self) -> Bool[Array, " capacity"]:
        """Which places are taken."""
        return jnp.arange(self.log_reward.size) < self.num_held


def empty(items: Any, capacity: int, dtype: Any) -> Buffer:
    """A buffer for ``capacity`` objects of these shapes and dtypes (a pytree of structs)."""
    room = jax.tree.map(lambda x: jnp.zeros((capacity, *x.shape), x.dtype), items)
    zero = jnp.zeros((), jnp.int32)
    return Buffer(room, jnp.full(capacity, -jnp.inf, dtype), zero, zero)


def insert(
    buffer: Buffer, items: Any, log_reward: Float[Array, " n"], keep: Bool[Array, " n"]
) -> Buffer:
    """Put in those that ``keep`` says, in order; of more than fit, only the last stay."""
    capacity = buffer.log_reward.size
    order, number = jnp.cumsum(keep) - 1, jnp.sum(keep).astype(jnp.int32)
    # Of what would be overwritten at once nothing is written: no order of writes is promised.
    stays = keep & (order >= number - capacity)
    to = jnp.where(stays, (buffer.place + order) % capacity, capacity)  # beyond the end: dropped
    put = lambda old, new: old.at[to].set(new, mode="drop")
    return Buffer(
        jax.tree.map(put, buffer.items, items),
        put(buffer.log_reward, log_reward),
        (buffer.place + number) % capacity,
        jnp.minimum(buffer.num_held + number, capacity),
    )


def draw(
    rng_key: PRNGKeyArray, buffer: Buffer, n: int, priority: Callable[[Buffer], Array]
) -> tuple[Any, Float[Array, " n"]]:
    """``n`` of what the buffer holds, with repetition, by priority."""
    log_priority = jnp.where(buffer.is_held, priority(buffer), -jnp.inf)
    chosen = multinomial(rng_key, log_priority, n)
    return jax.tree.map(lambda x: x[chosen], buffer.items), buffer.log_reward[chosen]


# Priorities: log of an unnormalized probability of each place ----------------------------------


def uniform(buffer: Buffer) -> Float[Array, " capacity"]:
    """All alike."""
    return jnp.zeros_like(buffer.log_reward)


class ByRank(eqx.Module):
    """By the rank of the reward: 1 / (k N + rank).

    Parameters
    ----------
    k
        Near 0 only the best are drawn, large: all alike.
    """

    k: Float[Array, ""] = positive("k", default=0.01)

    def __call__(self, buffer: Buffer) -> Float[Array, " capacity"]:
        held = jnp.where(buffer.is_held, buffer.log_reward, -jnp.inf)
        rank = (
            jnp.zeros_like(buffer.num_held, shape=held.shape)
            .at[jnp.argsort(-held)]
            .set(jnp.arange(held.size, dtype=buffer.num_held.dtype))
        )
        return -jnp.log(self.k.astype(held.dtype) * buffer.num_held + rank.astype(held.dtype))


class ByReward(eqx.Module):
    """By a power of the reward: R^b.

    Parameters
    ----------
    inverse_temperature
        The b.
    """

    inverse_temperature: Float[Array, ""] = nonnegative("inverse_temperature", default=1.0)

    def __call__(self, buffer: Buffer) -> Float[Array, " capacity"]:
        return self.inverse_temperature.astype(buffer.log_reward.dtype) * buffer.log_reward


# Local search -----------------------------------------------------------------------------------


class LocalSearch(eqx.Module):
    """Chains of MALA from what the buffer holds.

    Parameters
    ----------
    every
        Updates between two searches.
    num_chains, num_steps
        Of one search; its first half is burn-in.
    step_size
        Of the first step; it follows the acceptance rate, in each chain by itself.
    target_acceptance
        The rate wanted.

    Differences from the paper
    --------------------------
    Each chain has its own step size, which moves after each step of the burn-in by exp(rate -
    wanted); their geometric mean is where the next search begins. Theirs is one for all, and moves
    by 1 % after each fifth step: where the target is narrow nothing is accepted then, nor kept. Our
    default is 0.1 in units of the reference's variance, theirs 0.001 or 0.1 by target.
    """

    every: int = size("every", default=100)
    num_chains: int = size("num_chains", default=200)
    num_steps: int = size("num_steps", minimum=2, default=100)
    step_size: Float[Array, ""] = positive("step_size", default=0.1)
    target_acceptance: Float[Array, ""] = fraction("target_acceptance", default=0.574)

    def kernel(self, step_size: Float[Array, ""]) -> MALA:
        """The chain's kernel."""
        return with_step_size(MALA(metric=Identity()), step_size)

    def search(
        self,
        rng_key: PRNGKeyArray,
        target: Flat,
        starts: Float[Array, "chains d"],
        step_size: Float[Array, ""],
        found: Buffer,
    ) -> tuple[Buffer, Float[Array, ""]]:
        """Add to ``found`` what the chains accept after burn-in; the step size to go on with."""
        kernel = self.kernel(step_size)
        states = jax.vmap(kernel.init, (None, None, 0))(rng_key, target, starts)

        def move(rng_key: PRNGKeyArray, state: Any, size: Array) -> Any:
            state, info = with_step_size(kernel, size).step(rng_key, target, state)
            return state, info, adjusted(size, info, self.target_acceptance)

        def step(carry: Any, t: Any) -> Any:
            states, sizes, found = carry
            keys = random.split(random.fold_in(rng_key, t), self.num_chains)
            states, info, adapted = jax.vmap(move)(keys, states, sizes)
            is_burn_in = t < self.num_steps // 2
            keep = info.is_accepted & ~is_burn_in
            found = insert(found, states.position, states.log_density, keep)
            return (states, jnp.where(is_burn_in, adapted, sizes), found), None

        sizes = jnp.full(self.num_chains, kernel.step_size)
        steps = jnp.arange(self.num_steps)
        (_, sizes, found), _ = lax.scan(step, (states, sizes, found), steps)
        return found, jnp.exp(jnp.mean(jnp.log(sizes)))

    @property
    def evaluations(self) -> int:
        """Gradients of one search."""
        return self.num_chains * (self.num_steps + 1)


class Replay(eqx.Module):
    """What share of the paths of an update goes backward from old ends, and from which.

    Parameters
    ----------
    capacity
        Ends the buffer holds.
    share
        Of the paths of an update that are replayed.
    priority
        `uniform`, `ByRank` or `ByReward`: a function of the buffer.
    local_search
        A `LocalSearch`, whose results are replayed then, or None.
    """

    capacity: int = size("capacity", default=10_000)
    share: float = eqx.field(static=True, default=0.5)
    priority: Callable[[Buffer], Array] = eqx.field(default_factory=ByRank)
    local_search: LocalSearch | None = None

    def __check_init__(self) -> None:
        if isinstance(self.share, bool) or not 0 < self.share < 1:
            raise ValueError(f"share must be a number between 0 and 1; got {self.share!r}")
