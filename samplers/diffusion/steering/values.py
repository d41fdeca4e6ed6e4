"""What a particle promises: the reward of its denoised value, or a value function of its own.

    v_t(x) = log E[exp(r(x_0)) | x_t = x],    r(D(x_t)) in its place where it is not known

The first is the soft value, with which potentials have the least variance there is; the second
needs no training. At the end both are the reward itself.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from samplers.diffusion.steering.chain import Particle, ReverseChain, Step

type Value = Callable[[Any, Array], Array]  # value(y, sigma), for y = x_0 + sigma noise


def rewards(target: Any, chain: ReverseChain, points: Float[Array, "n ..."]) -> Float[Array, " n"]:
    """Log-likelihood, or scaled reward, of clean points."""
    return jax.vmap(target.log_likelihood)(chain.positions(points)).astype(points.dtype)


def promised(
    target: Any, chain: ReverseChain, value: Value | None, after: Particle, step: Step
) -> Float[Array, " n"]:
    """What particles promise after a step, and after the last one have."""
    reward = rewards(target, chain, after.denoised)
    if value is None:
        return reward
    y = chain.positions(after.x / step.end.alpha)
    guess = jax.vmap(value, (0, None))(y, step.end.kappa).astype(reward.dtype)
    return jnp.where(step.is_last, reward, guess)


def gained(now: Float[Array, "*n"], before: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """``now - before``; what had no hope has none."""
    lost = before == -jnp.inf
    return jnp.where(lost, -jnp.inf, now - jnp.where(lost, 0, before))
