"""Dynamics of a momentum of unit length, between BlackJAX and a metric.

    dx = A u dt,   du = (I - u u') A' grad log pi(x) / (d - 1) dt,   |u| = 1

BlackJAX's exact update of the momentum and its integrator of McLachlan, two gradients a step. The
metric enters where the position moves and where the gradient arrives, so that every metric of
`samplers.mcmc.metrics` serves: u is the momentum of z in ``x = A z``.

Distances are in units of ``sqrt(d)`` standard deviations, the radius at which the mass of a
Gaussian lies: a step of 1 here takes as long as one of 1 in HMC, whose particles have about that
speed, and nothing that is tuned depends on the dimension for a trivial reason.

References
----------
.. [1] Ver Steeg and Galstyan, "Hamiltonian dynamics with non-Newtonian momentum for rapid
   sampling", NeurIPS 2021, arXiv:2111.02434. The update of the momentum.
.. [2] Robnik, De Luca, Silverstein and Seljak, "Microcanonical Hamiltonian Monte Carlo", JMLR 24,
   2023, arXiv:2212.08549. The dynamics and the integrator.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from blackjax.mcmc.integrators import (
    IntegratorState,
    esh_dynamics_momentum_update_one_step,
    format_isokinetic_state_output,
    generalized_two_stage_integrator,
    mclachlan_coefficients,
)
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from ppl.energy import Energy, TargetError
from ppl.template import dimension
from samplers.mcmc.metrics import Metric

GRADIENTS = 2  # of one step


def flatten(metric: Metric, state: Any, momentum: Float[Array, " d"]) -> IntegratorState:
    """Flat state of a kernel's state; its gradient is the pair of ``A' g`` and ``g``."""
    g = ravel_pytree(state.gradient)[0]
    return IntegratorState(
        ravel_pytree(state.position)[0],
        momentum,
        state.log_density,
        (metric.scale_transposed(g), g),
    )


def integrator(
    target: Energy, metric: Metric, state: Any
) -> Callable[[IntegratorState, Array], tuple[IntegratorState, Array]]:
    """One step on flat states: ``(state, step_size) -> (state, change of kinetic energy)``."""
    unravel = ravel_pytree(state.position)[1]
    radius = dimension(target.template) ** 0.5

    def log_density(x: Float[Array, " d"]) -> Float[Array, ""]:
        value = target.log_density(unravel(x))
        # An infinite density would be accepted for good; NaN is a divergence.
        return jnp.where(value == jnp.inf, jnp.nan, value)

    turn = esh_dynamics_momentum_update_one_step(1.0)

    def kick(u: Array, gradients: tuple[Array, Array], *args: Any, **last: Any) -> Any:
        return turn(u, gradients[0], *args, **last)

    def drift(x: Array, u: Array, distance: Array, coefficient: float, _: None) -> Any:
        x = x + distance * coefficient * metric.scale(u)
        value, g = jax.value_and_grad(log_density)(x)
        return x, value, (metric.scale_transposed(g), g), None

    step = generalized_two_stage_integrator(
        kick, drift, mclachlan_coefficients, format_isokinetic_state_output
    )
    return lambda state, step_size: step(state, step_size * radius)


def require_two_dimensions(sampler: Any, target: Energy) -> None:
    """Raise for a target in one dimension, where a unit momentum cannot turn."""
    if dimension(target.template) < 2:
        raise TargetError(
            f"{type(sampler).__name__} moves at unit speed and turns: it needs at least two "
            "dimensions, and this target has one. Use samplers.NUTS() or samplers.MALA()."
        )
