"""ChEES-HMC: Hamiltonian Monte Carlo with trajectories that many chains tune together.

The criterion is the change in the estimator of the expected square (ChEES) over a trajectory of
length t, and its gradient is taken along the trajectory:

    ChEES(t) = E[(|x' - E x'|^2 - |x - E x|^2)^2] / 4                             (eq. 7 of [1])
    d ChEES / dt = E[(|x' - E x'|^2 - |x - E x|^2) (x' - E x') . v']              (eq. 12)
    t = h T,   h = 1/2, 1/4, 3/4, 1/8, ...                                        (section 3.4)

Warm-up climbs it in log T by Adam, one step for each step of the chains, with means over chains as
expectations, and tunes the step size by dual averaging of the harmonic mean of acceptance rates.
The fractions h (van der Corput's, Halton's in base two) are the same in all chains, so that all
take as many leapfrog steps and none waits for another: where NUTS trees of vmapped chains run in
lock-step, this is the sampler for accelerators and many chains. Exact: warm-up apart, it is HMC.

References
----------
.. [1] Hoffman, Radul and Sountsov, "An adaptive-MCMC scheme for setting trajectory lengths in
   Hamiltonian Monte Carlo", AISTATS 2021, PMLR 130.
.. [2] Seyboldt, Carlson and Carpenter, "Preconditioning Hamiltonian Monte Carlo by minimizing
   Fisher divergence", 2026, arXiv:2603.18845.
"""

from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from blackjax.mcmc import hmc
from blackjax.mcmc.dynamic_hmc import halton_sequence
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree

from ppl.energy import Energy, Position
from ppl.sampler import Exactness, MarkovKernel, Record, WarmUp, fraction, positive, size
from samplers.mcmc.hmc import DIVERGENCE_THRESHOLD, UNIT_METRIC, HMCState, energy, whitened
from samplers.mcmc.metrics import as_metric
from samplers.mcmc.windows import (
    SHORT_WINDOWS,
    WindowState,
    WindowWarmUp,
    optional,
    resolved,
    retuned,
)


class ChEESState(NamedTuple):
    """A position, the log-density (nats) and its gradient there, and the number of steps taken."""

    position: PyTree
    log_density: Float[Array, ""]
    gradient: PyTree
    steps: Int[Array, ""]


class Trajectory(NamedTuple):
    """Ends of a trajectory, flat, the velocity at its end (of ``z``), and its share h of T."""

    start: Float[Array, "*chain d"]
    end: Float[Array, "*chain d"]
    velocity: Float[Array, "*chain d"]
    share: Float[Array, "*chain"]


class ChEESInfo(NamedTuple):
    """What the trajectory did; ``energy`` is H of the state that was chosen, in nats."""

    acceptance_rate: Float[Array, ""]
    is_accepted: Bool[Array, ""]
    diverging: Bool[Array, ""]
    energy: Float[Array, ""]
    n_steps: Int[Array, ""]
    trajectory: Trajectory
    num_evaluations: Int[Array, "2"]


class ChEES(MarkovKernel):
    """ChEES-HMC: Hamiltonian Monte Carlo for many chains. Exact.

    Parameters
    ----------
    step_size
        Leapfrog step in units of the metric; where warm-up starts from. None: ``d^(-1/4)``.
    metric
        `Identity`, `Diagonal`, `Dense` or `LowRank` of `samplers.mcmc.metrics`. None: dense up
        to 200 dimensions, low rank beyond.
    trajectory_length
        The T above, in the same units; where warm-up starts from.
    max_num_steps
        Most leapfrog steps of a trajectory.
    target_acceptance
        Harmonic mean of acceptance rates that warm-up tunes the step size to.
    learning_rate
        Of Adam, in log T.

    Differences from the paper
    --------------------------
    The paper has the identity as metric; here it is that of the library's Hamiltonian samplers
    [2], and the criterion is taken in the space that it makes round. T starts over when the first
    metrics come, and is at last the geometric mean over the last window of warm-up.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"log_density", "gradient"})
    exactness: ClassVar[Exactness] = "exact"
    # All chains take as many leapfrog steps, but those of different targets do not.
    fixed_length: ClassVar[bool] = False
    usual_chains: ClassVar[int] = 64
    fewest_chains: ClassVar[int] = 8

    step_size: Any = optional(positive("step_size"))
    metric: Any = eqx.field(default=None, converter=as_metric)
    trajectory_length: Float[Array, ""] = positive("trajectory_length", default=1.0)
    max_num_steps: int = size("max_num_steps", default=1000)
    target_acceptance: Float[Array, ""] = fraction("target_acceptance", default=0.651)
    learning_rate: Float[Array, ""] = positive("learning_rate", default=0.025)

    def resolve(self, target: Energy) -> "ChEES":
        return resolved(self, target)

    def warmup(self, target: Energy) -> "ChEESWarmUp":
        return ChEESWarmUp(WindowWarmUp(target_acceptance=self.target_acceptance))

    def watch(self, state: ChEESState) -> PyTree:
        return state.gradient

    def init(self, rng_key: PRNGKeyArray, target: Energy, position: Position) -> ChEESState:
        value_and_gradient = jax.value_and_grad(target.log_density)(position)
        return ChEESState(position, *value_and_gradient, jnp.int32(0))

    def step(
        self, rng_key: PRNGKeyArray, target: Energy, state: ChEESState
    ) -> tuple[ChEESState, ChEESInfo]:
        hamiltonian = HMCState(state.position, state.log_density, state.gradient)
        start, leapfrog, restore = whitened(target, self.metric, hamiltonian)
        dtype = start.logdensity.dtype
        step_size = self.step_size.astype(dtype)
        share = jnp.asarray(halton_sequence(state.steps), dtype)
        length = jnp.ceil(share * self.trajectory_length / step_size)
        n_steps = jnp.clip(length, 1, self.max_num_steps).astype(jnp.int32)
        kernel: Any = hmc.build_kernel(lambda *_: leapfrog, DIVERGENCE_THRESHOLD)
        end, info = kernel(rng_key, start, target.log_density, step_size, UNIT_METRIC, n_steps)
        # BlackJAX turns the momentum of a proposal around.
        trajectory = Trajectory(
            start.position, info.proposal.position, -info.proposal.momentum, share
        )
        return ChEESState(*restore(end), state.steps + 1), ChEESInfo(
            acceptance_rate=info.acceptance_rate,
            is_accepted=info.is_accepted,
            diverging=info.is_divergent,
            # BlackJAX reports the proposal's energy also where it is rejected.
            energy=jnp.where(info.is_accepted, info.energy, energy(start, info.momentum)),
            n_steps=n_steps,
            trajectory=trajectory,
            num_evaluations=jnp.stack([n_steps, n_steps]),
        )

    def retune(
        self, particles: Position, log_weights: Float[Array, " n"], info: Any, watched: Any = ()
    ) -> "ChEES":
        return retuned(self, particles, log_weights, info, watched)


# Warm-up --------------------------------------------------------------------------------------

DECAY = 0.95  # of Adam's second moment; the paper has no first one
LARGEST_STEP = 0.35  # of log T
SHORTEST = -7.0  # log T
WORST_RATE = 1e-3  # of a chain, in the harmonic mean


class ChEESAdaptation(NamedTuple):
    """T to start from, Adam's second moment and its age, sums over a window, and the windows."""

    first: Float[Array, ""]
    moment: Float[Array, ""]
    age: Int[Array, ""]
    total: Float[Array, ""]
    steps: Int[Array, ""]
    windows: WindowState


class ChEESWarmUp(WarmUp):
    """Trajectory length by ChEES; step size and metric by windows."""

    metric_windows: WindowWarmUp

    def windows(self, num_steps: int) -> list[int]:
        return self.metric_windows.windows(num_steps)

    def init(
        self, rng_key: PRNGKeyArray, target: Energy, kernel: ChEES, states: Any
    ) -> tuple[ChEES, ChEESAdaptation]:
        started, windows = self.metric_windows.init(rng_key, target, kernel, states)
        zero, none = jnp.zeros_like(kernel.trajectory_length), jnp.int32(0)
        return started, ChEESAdaptation(kernel.trajectory_length, zero, none, zero, none, windows)

    def step(
        self, kernel: ChEES, adaptation: ChEESAdaptation, infos: ChEESInfo
    ) -> tuple[ChEES, ChEESAdaptation]:
        rates = jnp.where(infos.diverging, 0.0, jnp.nan_to_num(infos.acceptance_rate))
        slope = criterion_slope(kernel, infos.trajectory, rates)
        slope = jnp.where(jnp.isfinite(slope), slope, 0.0).astype(adaptation.moment.dtype)
        age = adaptation.age + 1
        moment = DECAY * adaptation.moment + (1 - DECAY) * slope**2
        scale = jnp.sqrt(moment / (1 - DECAY**age))
        move = kernel.learning_rate * slope / jnp.where(scale > 0, scale, 1)
        log_length = jnp.log(kernel.trajectory_length)
        log_length = log_length + jnp.clip(move, -LARGEST_STEP, LARGEST_STEP)

        harmonic = 1 / jnp.mean(1 / jnp.maximum(rates, WORST_RATE), keepdims=True)
        pooled = infos._replace(acceptance_rate=harmonic)
        kernel, windows = self.metric_windows.step(kernel, adaptation.windows, pooled)
        # A trajectory is one step at least, but T does not follow the step size up: dual averaging
        # begins with steps far too long, and the criterion has further maxima out there.
        longest = jnp.log(kernel.max_num_steps * kernel.step_size)
        log_length = jnp.clip(log_length, SHORTEST, longest).astype(log_length.dtype)
        total, steps = adaptation.total + log_length, adaptation.steps + 1
        kernel = _with_length(kernel, jnp.exp(log_length))
        return kernel, ChEESAdaptation(adaptation.first, moment, age, total, steps, windows)

    def end_chunk(
        self,
        rng_key: PRNGKeyArray,
        target: Energy,
        kernel: ChEES,
        adaptation: ChEESAdaptation,
        states: Any,
        record: Record,
        count: Int[Array, ""],
        window_ends: Bool[Array, ""],
        is_last: Bool[Array, ""],
    ) -> tuple[ChEES, ChEESAdaptation, Any]:
        kernel, windows, states = self.metric_windows.end_chunk(
            rng_key, target, kernel, adaptation.windows, states, record, count, window_ends, is_last
        )
        mean = jnp.exp(adaptation.total / jnp.maximum(adaptation.steps, 1))
        length = jnp.where(is_last, mean, kernel.trajectory_length)
        # Chains on their way in lengthen T, and the criterion has further maxima there.
        fresh = window_ends & ~is_last & (windows.window <= SHORT_WINDOWS)
        kernel = _with_length(kernel, jnp.where(fresh, adaptation.first, length))
        zero, none = jnp.zeros_like(mean), jnp.int32(0)
        adaptation = ChEESAdaptation(
            adaptation.first,
            jnp.where(fresh, zero, adaptation.moment),
            jnp.where(fresh, none, adaptation.age),
            jnp.where(window_ends, zero, adaptation.total),
            jnp.where(window_ends, none, adaptation.steps),
            windows,
        )
        return kernel, adaptation, states


def criterion_slope(
    kernel: ChEES, trajectory: Trajectory, rates: Float[Array, " chain"]
) -> Float[Array, ""]:
    """Gradient of the criterion in log T (eq. 12), proposals weighted by their acceptance rates."""
    start, end = (jax.vmap(kernel.metric.unscale)(x) for x in (trajectory.start, trajectory.end))
    # A trajectory that diverged may end nowhere: it has no weight, and must not be multiplied.
    good = (rates > 0)[:, None] & jnp.isfinite(end) & jnp.isfinite(trajectory.velocity)
    end, velocity = jnp.where(good, end, 0), jnp.where(good, trajectory.velocity, 0)
    weights = (rates * jnp.all(good, axis=1)).astype(end.dtype)
    weights = weights / jnp.maximum(jnp.sum(weights), 1e-20)
    end, start = end - weights @ end, start - jnp.mean(start, axis=0)
    change = jnp.sum(end**2, axis=1) - jnp.sum(start**2, axis=1)
    slopes = change * jnp.sum(end * velocity, axis=1)
    return jnp.sum(weights * trajectory.share * kernel.trajectory_length * slopes)


def _with_length(kernel: ChEES, length: Float[Array, ""]) -> ChEES:
    length = length.astype(kernel.trajectory_length.dtype)
    return eqx.tree_at(lambda k: k.trajectory_length, kernel, length)
