"""Hamiltonian Monte Carlo (HMC), through BlackJAX.

    H(x, p) = -log pi(x) + p . M^-1 p / 2,   p ~ N(0, M)                    (eq. 5.5 of [2])

From a fresh momentum the leapfrog integrator follows the dynamics of H for a fixed time; the end
point is accepted with probability ``min(1, exp(H - H'))``. Exact: the target is left invariant
for any step size, length and metric. It needs a gradient.

The proposal, the Metropolis step and the divergence test are BlackJAX's. The integrator and the
metric handed to it are ours: momenta are those of ``z`` in ``x = A z`` with ``A A^T = M^-1``, so
that their mass matrix is the identity and every metric runs through the same few dot products.

References
----------
.. [1] Duane, Kennedy, Pendleton and Roweth, "Hybrid Monte Carlo", Phys. Lett. B 195, 1987,
   doi:10.1016/0370-2693(87)91197-X.
.. [2] Neal, "MCMC using Hamiltonian dynamics", Handbook of Markov chain Monte Carlo, 2011,
   arXiv:1206.1901. Section 5.3.
"""

from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from blackjax.mcmc import hmc, integrators, metrics
from jax.flatten_util import ravel_pytree
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree

from ppl.energy import Energy, Position
from ppl.sampler import Exactness, MarkovKernel, fraction, positive, size
from samplers.mcmc.metrics import Metric, as_metric
from samplers.mcmc.normals import normal
from samplers.mcmc.windows import WindowWarmUp, flag, optional, resolved, retuned

DIVERGENCE_THRESHOLD = 1000.0  # nats of energy error, as Stan's


class HMCState(NamedTuple):
    """A position, the log-density (nats) and its gradient there."""

    position: PyTree
    log_density: Float[Array, ""]
    gradient: PyTree


class HMCInfo(NamedTuple):
    """What the trajectory did; ``energy`` is H of the state that was chosen, in nats."""

    acceptance_rate: Float[Array, ""]
    is_accepted: Bool[Array, ""]
    diverging: Bool[Array, ""]
    energy: Float[Array, ""]
    n_steps: Int[Array, ""]
    step_size: Float[Array, ""]
    num_evaluations: Int[Array, "2"]


# The meeting with BlackJAX ----------------------------------------------------------------------


# Its types say float and pytree where arrays pass.
FlatState: Any = hmc.HMCState
IntegratorState: Any = integrators.IntegratorState
BlackJAXMetric: Any = metrics.Metric


def whitened(
    target: Energy, metric: Metric, state: HMCState
) -> tuple[Any, Callable[[Any, Array], Any], Callable[[Any], HMCState]]:
    """Present a target to BlackJAX as round: a flat state, the leapfrog, the way back.

    The flat position is ``x``, the momentum that of ``z``; the gradient is the pair of ``A^T g``,
    which moves the momentum, and ``g``, which warm-up learns from.
    """
    x, unravel = ravel_pytree(state.position)
    g, unravel_gradient = ravel_pytree(state.gradient)

    def log_density(x: Float[Array, " d"]) -> Float[Array, ""]:
        value = target.log_density(unravel(x))
        # An infinite density would be accepted for good; NaN is rejected as a divergence.
        return jnp.where(value == jnp.inf, jnp.nan, value)

    def leapfrog(state: Any, step_size: Array) -> Any:
        """Half a kick, a drift, half a kick (eq. 5.18 to 5.20 of Neal)."""
        x, p, _, (kick, _) = state
        p = p + step_size / 2 * kick
        x = x + step_size * metric.scale(p)
        value, g = jax.value_and_grad(log_density)(x)
        kick = metric.scale_transposed(g)
        return IntegratorState(x, p + step_size / 2 * kick, value, (kick, g))

    def restore(state: Any) -> HMCState:
        _, g = state.logdensity_grad
        return HMCState(unravel(state.position), state.logdensity, unravel_gradient(g))

    return FlatState(x, state.log_density, (metric.scale_transposed(g), g)), leapfrog, restore


def energy(state: Any, momentum: Float[Array, " d"]) -> Float[Array, ""]:
    """H of a flat state, in nats."""
    return kinetic_energy(momentum) - state.logdensity


def kinetic_energy(momentum: Float[Array, " d"], position: Any = None) -> Float[Array, ""]:
    """``p . p / 2``."""
    return momentum @ momentum / 2


def is_turning(
    left: Float[Array, " d"], right: Float[Array, " d"], total: Float[Array, " d"], *_: Any
) -> Bool[Array, ""]:
    """Whether the ends of a trajectory move toward each other.

    ``total`` is the sum of all momenta; half of the ends' is taken off, as BlackJAX and NumPyro
    do, so that the sum approximates the distance between the ends by the trapezoidal rule.
    """
    rho = total - (left + right) / 2
    return (left @ rho <= 0) | (right @ rho <= 0)


UNIT_METRIC = BlackJAXMetric(
    sample_momentum=lambda key, position: normal(key, position.size, position.dtype),
    kinetic_energy=kinetic_energy,
    check_turning=is_turning,
    scale=lambda position, element, *, inv, trans: element,
)


# The kernel -------------------------------------------------------------------------------------


class HMC(MarkovKernel):
    """Hamiltonian Monte Carlo with trajectories of a fixed time.

    Parameters
    ----------
    step_size
        Leapfrog step in units of the metric (1 is a standard deviation of a target that the
        metric makes round); where warm-up starts from. None: ``d^(-1/4)``.
    metric
        `Identity`, `Diagonal`, `Dense` or `LowRank` of `samplers.mcmc.metrics`. None: dense up
        to 200 dimensions, low rank beyond.
    trajectory_length
        Time of a trajectory, in the same units. A quarter of a period makes draws from a round
        Gaussian independent.
    num_steps
        Leapfrog steps of a trajectory, in place of ``trajectory_length``.
    max_num_steps
        Most leapfrog steps of a trajectory.
    target_acceptance
        Mean acceptance rate that warm-up tunes the step size to.
    brief
        Whether trajectories are held to 31 steps; set by warm-up while the metric is unknown.

    Differences from the paper
    --------------------------
    ``trajectory_length`` stays fixed while the step size is tuned, so that the number of steps
    follows, and the steps taken are those that divide it, ``step_size`` at most. With
    ``num_steps`` the time follows the step size instead: where it comes near half a period of some
    direction, draws along it turn periodic; NUTS has no such times.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"log_density", "gradient"})
    exactness: ClassVar[Exactness] = "exact"
    plain_state: ClassVar[Any] = HMCState
    fixed_length: ClassVar[bool] = False

    step_size: Any = optional(positive("step_size"))
    metric: Any = eqx.field(default=None, converter=as_metric)
    trajectory_length: Float[Array, ""] = positive("trajectory_length", default=jnp.pi / 2)
    num_steps: int | None = optional(size("num_steps"))
    max_num_steps: int = size("max_num_steps", default=1023)
    target_acceptance: Float[Array, ""] = fraction("target_acceptance", default=0.8)
    brief: Bool[Array, ""] = eqx.field(default=False, converter=flag)

    def resolve(self, target: Energy) -> "HMC":
        return resolved(self, target)

    def warmup(self, target: Energy) -> WindowWarmUp:
        return WindowWarmUp(target_acceptance=self.target_acceptance)

    def watch(self, state: HMCState) -> PyTree:
        return state.gradient

    def init(self, rng_key: PRNGKeyArray, target: Energy, position: Position) -> HMCState:
        return HMCState(position, *jax.value_and_grad(target.log_density)(position))

    def step(
        self, rng_key: PRNGKeyArray, target: Energy, state: HMCState
    ) -> tuple[HMCState, HMCInfo]:
        start, leapfrog, restore = whitened(target, self.metric, state)
        num_steps, step_size = self._steps(start.logdensity.dtype)
        kernel: Any = hmc.build_kernel(lambda *_: leapfrog, DIVERGENCE_THRESHOLD)
        end, info = kernel(rng_key, start, target.log_density, step_size, UNIT_METRIC, num_steps)
        n_steps = info.num_integration_steps
        return restore(end), HMCInfo(
            acceptance_rate=info.acceptance_rate,
            is_accepted=info.is_accepted,
            diverging=info.is_divergent,
            # BlackJAX reports the proposal's energy also where it is rejected.
            energy=jnp.where(info.is_accepted, info.energy, energy(start, info.momentum)),
            n_steps=n_steps,
            step_size=step_size,
            num_evaluations=jnp.stack([n_steps, n_steps]),
        )

    def retune(
        self, particles: Position, log_weights: Float[Array, " n"], info: Any, watched: Any = ()
    ) -> "HMC":
        return retuned(self, particles, log_weights, info, watched)

    def _steps(self, dtype: DTypeLike) -> tuple[Int[Array, ""], Float[Array, ""]]:
        """How many leapfrog steps, and how long."""
        longest = self.step_size.astype(dtype)
        if self.num_steps is not None:
            return jnp.int32(self.num_steps), longest
        time = self.trajectory_length.astype(dtype)
        most = jnp.where(self.brief, min(31, self.max_num_steps), self.max_num_steps)
        num_steps = jnp.clip(jnp.ceil(time / longest), 1, most).astype(jnp.int32)
        # Past a quarter of a period draws remember where they were: two of the longest steps that
        # are often accepted may overshoot it by half.
        return num_steps, jnp.minimum(longest, time / num_steps)
