"""Microcanonical Langevin Monte Carlo (MCLMC), unadjusted.

    dx = u dt,   du = P(u) (grad log pi(x) / (d - 1) dt + eta dW),   P(u) = I - u u'

The momentum u has unit length: the particle moves at constant speed whatever the gradient, the
dynamics keep an energy, and on a surface of constant energy the position has the law pi. Noise
turns u around over a length L. Every step is kept, which is fast in high dimensions and biased by
the step size; warm-up bounds the bias through the energy error per dimension. At the default the
variances of a Gaussian come out about 2 % wrong. `AdjustedMCLMC` is exact.

A unit speed is slow from hundreds of standard deviations out, and without a test nothing calls back
a chain that has run into a narrow place. Of a hierarchy of 65 parameters, centered, eight runs of
twelve from jittered starts had not come in after 2,000 steps, as R-hat told; all of eight had that
began at draws of NUTS: ``init=draws``. `PathfinderStart` brings chains in where the optimum of the
density is a place of mass, which in a centered hierarchy it is not.

The integrator and the refreshment of the momentum are BlackJAX's. Warm-up tunes the step size by
BlackJAX's rule and the metric by windows, both pooled over chains.

References
----------
.. [1] Robnik and Seljak, "Fluctuation without dissipation: microcanonical Langevin Monte Carlo",
   AABI 2024, arXiv:2303.18221.
.. [2] Robnik, De Luca, Silverstein and Seljak, "Microcanonical Hamiltonian Monte Carlo", JMLR 24,
   2023, arXiv:2212.08549. The tuning through the energy error, and L.
"""

from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from blackjax.mcmc.integrators import with_isokinetic_maruyama
from blackjax.util import generate_unit_vector
from jax import random
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree

from ppl.energy import Energy, Position
from ppl.sampler import Exactness, MarkovKernel, Record, WarmUp, positive, where
from ppl.template import dimension
from samplers.mcmc.isokinetic import GRADIENTS, flatten, integrator, require_two_dimensions
from samplers.mcmc.metrics import Metric
from samplers.mcmc.metropolis import all_finite
from samplers.mcmc.windows import SHORT_WINDOWS, WindowState, WindowWarmUp, resolved

ARRIVING = 10.0  # nats by which a step raises the log-density, beside one a dimension


class MCLMCState(NamedTuple):
    """A position, the log-density (nats) and its gradient there, and the unit momentum, flat."""

    position: PyTree
    log_density: Float[Array, ""]
    gradient: PyTree
    momentum: Float[Array, " d"]


class MCLMCInfo(NamedTuple):
    """What the step did to the energy.

    energy_change
        The energy error, in nats.
    diverging
        It was not finite, and the step was not taken.
    arriving
        The log-density rose by more than it does where the mass is: a chain on its way in.
    """

    energy_change: Float[Array, ""]
    diverging: Bool[Array, ""]
    arriving: Bool[Array, ""]
    num_evaluations: Int[Array, "2"]


class MCLMC(MarkovKernel):
    """Microcanonical Langevin Monte Carlo: biased, of second order in the step size.

    Parameters
    ----------
    step_size
        Distance of a step, in units of ``sqrt(d)`` standard deviations; where warm-up starts from.
    decoherence_length
        The L above, in the same units.
    metric
        `Identity`, `Diagonal`, `Dense` or `LowRank` of `samplers.mcmc.metrics`. None: dense up
        to 200 dimensions, low rank beyond. Tuned in warm-up.
    energy_error
        Variance of the energy error of a step, per dimension, that warm-up tunes the step size
        to: the smaller, the less bias.

    Raises
    ------
    TargetError
        In one dimension, where a unit momentum cannot turn.

    Differences from the paper
    --------------------------
    The metric is that of the library's Hamiltonian samplers. With it L is the paper's first
    guess, ``sqrt(d)`` standard deviations, and not refined from the autocorrelation. A step whose
    density, gradient or energy is not finite is not taken: the momentum is drawn anew, and a
    divergence is counted.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"log_density", "gradient"})
    exactness: ClassVar[Exactness] = "biased"

    step_size: Float[Array, ""] = positive("step_size", default=0.25)
    decoherence_length: Float[Array, ""] = positive("decoherence_length", default=1.0)
    metric: Metric | None = None
    energy_error: Float[Array, ""] = positive("energy_error", default=5e-4)

    def check(self, target: Energy) -> None:
        require_two_dimensions(self, target)

    def resolve(self, target: Energy) -> "MCLMC":
        return resolved(self, target)

    def warmup(self, target: Energy) -> "EnergyWarmUp":
        return EnergyWarmUp(dimension(target.template))

    def watch(self, state: MCLMCState) -> PyTree:
        return state.gradient

    def init(self, rng_key: PRNGKeyArray, target: Energy, position: Position) -> MCLMCState:
        momentum = generate_unit_vector(rng_key, ravel_pytree(position)[0])
        return MCLMCState(position, *jax.value_and_grad(target.log_density)(position), momentum)

    def step(
        self, rng_key: PRNGKeyArray, target: Energy, state: MCLMCState
    ) -> tuple[MCLMCState, MCLMCInfo]:
        assert self.metric is not None, "resolve(target) first, as ppl.sample does"
        key_move, key_restart = random.split(rng_key)
        dtype = state.log_density.dtype
        move = with_isokinetic_maruyama(integrator(target, self.metric, state))
        start = flatten(self.metric, state, state.momentum)
        end: Any
        end, kinetic_change = move(
            start, self.step_size.astype(dtype), self.decoherence_length.astype(dtype), key_move
        )
        energy_change = kinetic_change - end.logdensity + start.logdensity
        arriving = end.logdensity - start.logdensity > ARRIVING + state.momentum.size

        unravel = ravel_pytree(state.position)[1]
        moved = MCLMCState(
            unravel(end.position), end.logdensity, unravel(end.logdensity_grad[1]), end.momentum
        )
        # Straight on it would leave the support again.
        stay = state._replace(momentum=generate_unit_vector(key_restart, state.momentum))
        finite = all_finite((moved, energy_change))
        return where(finite, moved, stay), MCLMCInfo(
            jnp.where(finite, energy_change, 0.0),
            ~finite,
            arriving & finite,
            jnp.full(2, GRADIENTS, jnp.int32),
        )


# Warm-up --------------------------------------------------------------------------------------

STEPS_REMEMBERED = 150  # by the average of the energy errors
TRUST = 1.5  # how far from the wanted energy error, in factors of e of the step, errors count


class EnergyState(NamedTuple):
    """By chain: sums of ``energy error / step_size^6`` and of weights, the largest safe step."""

    total: Float[Array, " chain"]
    weight: Float[Array, " chain"]
    largest_step: Float[Array, " chain"]
    windows: WindowState


class EnergyWarmUp(WarmUp):
    """Step size from the energy error, metric from windows.

    The variance of the energy error grows with the sixth power of the step size [2], so each
    error foretells the step size at which it would be as wanted; errors far from it say little
    and weigh little. The rule is BlackJAX's; the chains share the
    median of what each of them foretells.

    Parameters
    ----------
    dimension
        Of the positions.
    """

    dimension: int = eqx.field(static=True)
    metric_windows: WindowWarmUp = eqx.field(default_factory=lambda: WindowWarmUp(jnp.asarray(0.8)))

    def windows(self, num_steps: int) -> list[int]:
        return self.metric_windows.windows(num_steps)

    def init(
        self, rng_key: PRNGKeyArray, target: Energy, kernel: MCLMC, states: Any
    ) -> tuple[MCLMC, EnergyState]:
        started, windows = self.metric_windows.init(rng_key, target, kernel, states)
        like = jnp.broadcast_to(kernel.step_size, states.log_density.shape)
        return started, _start(like, windows)

    def step(
        self, kernel: MCLMC, adaptation: EnergyState, infos: MCLMCInfo
    ) -> tuple[MCLMC, EnergyState]:
        step_size, decay = kernel.step_size, (STEPS_REMEMBERED - 1) / (STEPS_REMEMBERED + 1)
        error = infos.energy_change**2 / (self.dimension * kernel.energy_error)
        # Far out in a tail, energies are larger than the precision at which errors are wanted.
        error = jnp.where(infos.arriving, 0.0, jnp.minimum(error, 1e12)) + 1e-8
        weight = jnp.exp(-0.5 * (jnp.log(error) / (6 * TRUST)) ** 2)
        weight = jnp.where(infos.diverging, 0.0, weight)
        total = decay * adaptation.total + weight * error / step_size**6
        weights = decay * adaptation.weight + weight
        bound = jnp.where(infos.diverging, 0.8 * step_size, jnp.inf)
        largest = jnp.minimum(adaptation.largest_step, bound)

        foretold = jnp.where(weights > 0, (weights / total) ** (1 / 6), step_size)
        agreed = jnp.median(jnp.minimum(foretold, largest))
        # Small errors by chance must not throw a chain out of the typical set.
        growth = jnp.where(jnp.mean(infos.arriving) > 0.5, 2.0, 1.25)
        kernel = _with_step_size(kernel, jnp.clip(agreed, step_size / 2, growth * step_size))
        return kernel, EnergyState(total, weights, largest, adaptation.windows)

    def end_chunk(
        self,
        rng_key: PRNGKeyArray,
        target: Energy,
        kernel: MCLMC,
        adaptation: EnergyState,
        states: Any,
        record: Record,
        count: Int[Array, ""],
        window_ends: Bool[Array, ""],
        is_last: Bool[Array, ""],
    ) -> tuple[MCLMC, EnergyState, Any]:
        tuned, windows, states = self.metric_windows.end_chunk(
            rng_key, target, kernel, adaptation.windows, states, record, count, window_ends, is_last
        )
        # The first good metrics change what a step is; later ones hardly do.
        fresh = window_ends & (windows.window <= SHORT_WINDOWS)
        kept = adaptation._replace(windows=windows)
        adaptation = where(fresh, _start(adaptation.total, windows), kept)
        return _with_step_size(tuned, kernel.step_size), adaptation, states


def _start(like: Float[Array, " chain"], windows: WindowState) -> EnergyState:
    zero = jnp.zeros_like(like)
    return EnergyState(zero, zero, jnp.full_like(like, jnp.inf), windows)


def _with_step_size(kernel: MCLMC, step_size: Float[Array, ""]) -> MCLMC:
    return eqx.tree_at(lambda k: k.step_size, kernel, step_size.astype(kernel.step_size.dtype))
