"""Warm-up of a step size alone, by dual averaging.

    log h_{t+1} = mu - sqrt(t) / gamma / (t + t0) * sum_{i <= t} (delta - alpha_i)

``alpha_i`` is the mean acceptance rate over all chains at step i, ``delta`` the rate asked for.
All chains share one step size; after the last step it is the weighted average of the iterates.
This is BlackJAX's dual averaging.

References
----------
.. [1] Nesterov, "Primal-dual subgradient methods for convex problems", Math. Program. 120, 2009,
   doi:10.1007/s10107-007-0149-x.
.. [2] Hoffman and Gelman, "The No-U-Turn Sampler", JMLR 15, 2014, arXiv:1111.4246. Section 3.2.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from blackjax.adaptation.step_size import (
    DualAveragingAdaptationState,
    dual_averaging_adaptation,
)
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from ppl.energy import Energy
from ppl.sampler import Record, WarmUp, fraction


class StepSizeWarmUp(WarmUp):
    """Tune ``kernel.step_size`` until the mean ``acceptance_rate`` of the infos is as asked.

    Parameters
    ----------
    target_acceptance
        The mean acceptance rate asked for, pooled over chains.
    """

    target_acceptance: Float[Array, ""] = fraction("target_acceptance")

    @property
    def _averaging(self) -> tuple[Callable, Callable, Callable]:
        return dual_averaging_adaptation(self.target_acceptance)  # pyright: ignore[reportArgumentType]

    def windows(self, num_steps: int) -> list[int]:
        return [num_steps] if num_steps else []

    def init(
        self, rng_key: PRNGKeyArray, target: Energy, kernel: Any, states: Any
    ) -> tuple[Any, DualAveragingAdaptationState]:
        init, _, _ = self._averaging
        return kernel, jax.tree.map(jnp.asarray, init(kernel.step_size))

    def step(
        self, kernel: Any, adaptation: DualAveragingAdaptationState, infos: Any
    ) -> tuple[Any, DualAveragingAdaptationState]:
        _, update, _ = self._averaging
        updated = update(adaptation, jnp.mean(infos.acceptance_rate))
        # BlackJAX mixes Python numbers in, which would widen float32 where float64 is enabled.
        adaptation = jax.tree.map(lambda new, old: new.astype(old.dtype), updated, adaptation)
        return with_step_size(kernel, jnp.exp(adaptation.log_step_size)), adaptation

    def end_chunk(
        self,
        rng_key: PRNGKeyArray,
        target: Energy,
        kernel: Any,
        adaptation: DualAveragingAdaptationState,
        states: Any,
        record: Record,
        count: Int[Array, ""],
        window_ends: Bool[Array, ""],
        is_last: Bool[Array, ""],
    ) -> tuple[Any, DualAveragingAdaptationState, Any]:
        averaged = jnp.exp(adaptation.log_step_size_avg)
        step_size = jnp.where(is_last, averaged, kernel.step_size)
        return with_step_size(kernel, step_size), adaptation, states


def with_step_size(kernel: Any, step_size: Float[Array, ""]) -> Any:
    """Copy of the kernel with another step size, of the dtype it had."""
    return eqx.tree_at(lambda k: k.step_size, kernel, step_size.astype(kernel.step_size.dtype))


def adjusted(step_size: Float[Array, ""], info: Any, asked: Float[Array, ""]) -> Float[Array, ""]:
    """Step size after one move of many chains: longer where more was accepted than asked for.

    The factor is ``exp(rate - asked)``; before any move, with no info, there is none.
    """
    if info is None:
        return step_size
    rate = jnp.mean(jnp.nan_to_num(info.acceptance_rate))
    return (step_size * jnp.exp(rate - asked)).astype(step_size.dtype)
