"""Potentials of FK steering: when a particle pays for its reward, never what it pays in all.

    r_t = r(D(x_t)), of the start first,     prod_t G_t = exp(r(x_0))

    difference   log G_t = r_t - r_(t+1)
    max          log G_t = max_(s >= t) r_s
    sum          log G_t = sum_(s >= t) r_s

without r of the start; the last two leave ``log G_0 = r(x_0) - sum_(t > 0) log G_t`` to the end, so
that they select too early and take it back [1]_.

References
----------
.. [1] Singhal et al., "A general framework for inference-time scaling and steering of diffusion
   models", ICML 2025, arXiv:2501.06848. Section 3.
"""

from abc import abstractmethod
from typing import Any, NamedTuple

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from samplers.diffusion.steering.values import gained


class Potential(eqx.Module):
    """How the reward is paid in the course of a run.

    A user's own is a subclass. Along every sequence of rewards the log G must add up to the last
    reward, r(x_0); this is checked on trial sequences before a run.
    """

    @abstractmethod
    def init(self, reward: Float[Array, ""]) -> PyTree:
        """Memory of a particle before the first potential; ``reward`` is that of the start."""

    @abstractmethod
    def __call__(self, memory: PyTree, reward: Float[Array, ""], is_last: Any) -> tuple[Any, Any]:
        """``(log G, memory)`` for the next reward of a particle, the last of them r(x_0)."""


class Difference(Potential):
    """Pay what the reward has gained since: the default."""

    def init(self, reward: Float[Array, ""]) -> PyTree:
        return jnp.zeros_like(reward)

    def __call__(self, memory: PyTree, reward: Float[Array, ""], is_last: Any) -> tuple[Any, Any]:
        return gained(reward, memory), reward


class Paid(NamedTuple):
    """What has been seen of the rewards, and the sum of log G so far."""

    seen: Array
    paid: Array


class Maximum(Potential):
    """Pay the best reward so far, again and again; the end settles."""

    def init(self, reward: Float[Array, ""]) -> PyTree:
        return Paid(jnp.full_like(reward, -jnp.inf), jnp.zeros_like(reward))

    def __call__(self, memory: Paid, reward: Float[Array, ""], is_last: Any) -> tuple[Any, Any]:
        return _settled(memory, jnp.maximum(memory.seen, reward), reward, is_last)


class Sum(Potential):
    """Pay the sum of all rewards so far; the end settles. Of high variance."""

    def init(self, reward: Float[Array, ""]) -> PyTree:
        return Paid(jnp.zeros_like(reward), jnp.zeros_like(reward))

    def __call__(self, memory: Paid, reward: Float[Array, ""], is_last: Any) -> tuple[Any, Any]:
        return _settled(memory, memory.seen + reward, reward, is_last)


def _settled(memory: Paid, seen: Array, reward: Array, is_last: Any) -> tuple[Array, Paid]:
    log_g = jnp.where(is_last, gained(reward, memory.paid), seen)
    return log_g, Paid(seen, memory.paid + log_g)


POTENTIALS = {"difference": Difference(), "max": Maximum(), "sum": Sum()}


def potential_of(value: Any) -> Any:
    """The potential of this name, or the one that is given."""
    if isinstance(value, str) and value in POTENTIALS:
        return POTENTIALS[value]
    if isinstance(value, Potential) or type(value) is object:
        return value
    raise ValueError(
        f"potential must be one of {[*POTENTIALS]}, or a subclass of samplers.Potential; got "
        f"{value!r}"
    )


def check_potential(potential: Potential) -> None:
    """Raise unless the log G of trial sequences add up to their last reward."""
    rewards = np.random.default_rng(0).normal(size=(4, 6)).astype(np.float32)
    for sequence in rewards:
        memory, total = potential.init(jnp.asarray(sequence[0])), 0.0
        for k, reward in enumerate(sequence):
            log_g, memory = potential(memory, jnp.asarray(reward), jnp.asarray(k == 5))
            total += float(log_g)
        if not abs(total - sequence[-1]) < 1e-4:
            raise ValueError(
                f"the potentials of {type(potential).__name__} do not multiply to the reward: for "
                f"the rewards {np.round(sequence, 3).tolist()} along a trial path the log G add up "
                f"to {total:.4g} instead of {sequence[-1]:.4g}, the last. Let the last one, where "
                "is_last, be that reward less what was paid before"
            )
