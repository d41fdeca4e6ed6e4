"""MEADS: generalized Hamiltonian Monte Carlo whose parameters many chains read off each other.

Maximum-eigenvalue adaptation of damping and step size (MEADS) runs generalized HMC: one leapfrog
step at a time, with momenta that are only partly refreshed and a slice variable that moves on
instead of being drawn anew [2], so that rejections, which turn the momentum around, come seldom
and in clusters.

    p <- sqrt(1 - a) p + sqrt(a) n,   a = 1 - exp(-2 e g)                   (algorithm 1 of [1])
    u <- (u + 1 + a / 2 mod 2) - 1,   accept if log |u| < H - H'
    e = min(1, 1 / (2 sqrt(largest eigenvalue of E[s s'])))                 step size, s = A' grad
    g = max(1 / sqrt(largest eigenvalue of cov z), 1 / (t e))               damping, z = A^-1 x

Nothing is searched for: at every step of warm-up t, step size e and damping g follow from the
chains as they stand, in the space that the metric A makes round. A draw costs one gradient. Exact:
after warm-up the parameters are fixed, and the kernel leaves the target invariant.

References
----------
.. [1] Hoffman and Sountsov, "Tuning-free generalized Hamiltonian Monte Carlo", AISTATS 2022,
   PMLR 151.
.. [2] Neal, "Non-reversibly updating a uniform [0, 1] value for Metropolis accept/reject
   decisions", 2020, arXiv:2001.11950.
"""

from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from blackjax.mcmc import hmc
from jax import random
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree

from ppl.energy import Energy, Position
from ppl.sampler import Exactness, MarkovKernel, Record, WarmUp, positive, where
from samplers.mcmc.hmc import (
    DIVERGENCE_THRESHOLD,
    HMCState,
    IntegratorState,
    energy,
    kinetic_energy,
    whitened,
)
from samplers.mcmc.metrics import as_metric
from samplers.mcmc.windows import (
    SHORT_WINDOWS,
    WindowState,
    WindowWarmUp,
    optional,
    resolved,
    retuned,
)

LARGEST_STEP = 1.0  # in units of the metric
FULL_REFRESHMENT = 3.0  # step size times damping after which nothing of a momentum is left


class MEADSState(NamedTuple):
    """A position, the log-density (nats) and its gradient there; the momentum and the slice.

    The momentum is that of ``z``, flat; the slice variable lies in [-1, 1].
    """

    position: PyTree
    log_density: Float[Array, ""]
    gradient: PyTree
    momentum: Float[Array, " d"]
    slice: Float[Array, ""]


class Standing(NamedTuple):
    """Where a chain stands: position and gradient, flat."""

    position: Float[Array, "*chain d"]
    gradient: Float[Array, "*chain d"]


class MEADSInfo(NamedTuple):
    """What the leapfrog step did; ``energy`` is H of the state that was chosen, in nats."""

    acceptance_rate: Float[Array, ""]
    is_accepted: Bool[Array, ""]
    diverging: Bool[Array, ""]
    energy: Float[Array, ""]
    standing: Standing
    num_evaluations: Int[Array, "2"]


class MEADS(MarkovKernel):
    """Generalized Hamiltonian Monte Carlo, tuned by the largest eigenvalues of many chains. Exact.

    Parameters
    ----------
    step_size
        Leapfrog step in units of the metric. None: ``d^(-1/4)``, until warm-up knows better.
    metric
        `Identity`, `Diagonal`, `Dense` or `LowRank` of `samplers.mcmc.metrics`. None: dense up
        to 200 dimensions, low rank beyond.
    damping
        The g above: momenta are forgotten over a time of ``1 / g``.

    Differences from the paper
    --------------------------
    Adaptation ends with warm-up instead of going on in folds of chains that see each other's
    parameters only: the kernel is then fixed, and nothing has to be excluded. Parameters are at
    last geometric means over the last window. The metric is that of the library's Hamiltonian
    samplers instead of the standard deviations over chains. Eigenvalues of chains on their way in
    would freeze them there: over the first two windows momenta are refreshed in full, and the step
    size follows the acceptance rate, as in MALA.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"log_density", "gradient"})
    exactness: ClassVar[Exactness] = "exact"
    usual_chains: ClassVar[int] = 128
    fewest_chains: ClassVar[int] = 16

    step_size: Any = optional(positive("step_size"))
    metric: Any = eqx.field(default=None, converter=as_metric)
    damping: Float[Array, ""] = positive("damping", default=1.0)

    def resolve(self, target: Energy) -> "MEADS":
        return resolved(self, target)

    def warmup(self, target: Energy) -> "MEADSWarmUp":
        return MEADSWarmUp(WindowWarmUp(target_acceptance=jnp.asarray(0.6)))

    def watch(self, state: MEADSState) -> PyTree:
        return state.gradient

    def init(self, rng_key: PRNGKeyArray, target: Energy, position: Position) -> MEADSState:
        key_momentum, key_slice = random.split(rng_key)
        value, gradient = jax.value_and_grad(target.log_density)(position)
        flat, _ = ravel_pytree(position)
        momentum = random.normal(key_momentum, flat.shape, flat.dtype)
        level = random.uniform(key_slice, (), value.dtype, -1, 1)
        return MEADSState(position, value, gradient, momentum, level)

    def step(
        self, rng_key: PRNGKeyArray, target: Energy, state: MEADSState
    ) -> tuple[MEADSState, MEADSInfo]:
        hamiltonian = HMCState(state.position, state.log_density, state.gradient)
        start, leapfrog, restore = whitened(target, self.metric, hamiltonian)
        dtype = start.logdensity.dtype
        step_size = self.step_size.astype(dtype)
        refreshed = -jnp.expm1(-2 * step_size * self.damping.astype(dtype))
        noise = random.normal(rng_key, state.momentum.shape, state.momentum.dtype)
        momentum = jnp.sqrt(1 - refreshed) * state.momentum + jnp.sqrt(refreshed) * noise
        level = (state.slice + 1 + refreshed / 2) % 2 - 1
        build: Any = hmc.hmc_proposal  # its types say pytree and float where arrays pass
        propose = build(
            leapfrog, kinetic_energy, step_size,
            divergence_threshold=DIVERGENCE_THRESHOLD, sample_proposal=slice_test,
        )  # fmt: skip
        begun = IntegratorState(start.position, momentum, start.logdensity, start.logdensity_grad)
        chosen, info, level = propose(level, begun)
        moved = restore(chosen)
        # BlackJAX turns a proposal around, so that here a rejected momentum is.
        new = MEADSState(*moved, -chosen.momentum, level)
        standing = Standing(chosen.position, ravel_pytree(moved.gradient)[0])
        return new, MEADSInfo(
            acceptance_rate=info.acceptance_rate,
            is_accepted=info.is_accepted,
            diverging=info.is_divergent,
            energy=jnp.where(info.is_accepted, info.energy, energy(start, momentum)),
            standing=standing,
            num_evaluations=jnp.ones(2, jnp.int32),
        )

    def retune(
        self, particles: Position, log_weights: Float[Array, " n"], info: Any, watched: Any = ()
    ) -> "MEADS":
        return retuned(self, particles, log_weights, None, watched)


def slice_test(
    level: Float[Array, ""], log_ratio: Float[Array, ""], current: Any, proposed: Any
) -> tuple[Any, Any]:
    """Accept where ``|level| < ratio``, and divide the level by the ratio there [2].

    BlackJAX's own multiplies the branch not taken by zero, which is NaN where a ratio underflows:
    a chain would then reject for good.
    """
    is_accepted = jnp.log(jnp.abs(level)) < log_ratio
    ratio = jnp.exp(jnp.where(is_accepted, log_ratio, 0.0))
    rate = jnp.exp(jnp.minimum(log_ratio, 0.0))
    next_level = jnp.clip(level / ratio, -1, 1).astype(level.dtype)
    return where(is_accepted, proposed, current), (is_accepted, rate, next_level)


# Warm-up --------------------------------------------------------------------------------------


class MEADSAdaptation(NamedTuple):
    """Steps taken, sums of the log parameters over a window and their number, and the windows."""

    t: Int[Array, ""]
    log_step_size: Float[Array, ""]
    log_damping: Float[Array, ""]
    steps: Int[Array, ""]
    windows: WindowState


class MEADSWarmUp(WarmUp):
    """Step size and damping from the largest eigenvalues over chains; the metric by windows."""

    metric_windows: WindowWarmUp

    def windows(self, num_steps: int) -> list[int]:
        return self.metric_windows.windows(num_steps)

    def init(
        self, rng_key: PRNGKeyArray, target: Energy, kernel: MEADS, states: Any
    ) -> tuple[MEADS, MEADSAdaptation]:
        started, windows = self.metric_windows.init(rng_key, target, kernel, states)
        zero, none = jnp.zeros_like(kernel.step_size), jnp.int32(0)
        return started, MEADSAdaptation(none, zero, zero, none, windows)

    def step(
        self, kernel: MEADS, adaptation: MEADSAdaptation, infos: MEADSInfo
    ) -> tuple[MEADS, MEADSAdaptation]:
        tuned, windows = self.metric_windows.step(kernel, adaptation.windows, infos)
        arriving = windows.window < SHORT_WINDOWS
        t, steps = adaptation.t + ~arriving, adaptation.steps + 1
        scores = jax.vmap(kernel.metric.scale_transposed)(infos.standing.gradient)
        step_size = jnp.minimum(0.5 / jnp.sqrt(largest_eigenvalue(scores)), LARGEST_STEP)
        step_size = jnp.where(jnp.isfinite(step_size), step_size, kernel.step_size)
        step_size = jnp.where(arriving, tuned.step_size, step_size)
        z = jax.vmap(kernel.metric.unscale)(infos.standing.position)
        slowest = 1 / jnp.sqrt(largest_eigenvalue(z - jnp.mean(z, axis=0)))
        # In the beginning there is much to forget.
        damping = jnp.maximum(jnp.nan_to_num(slowest, posinf=1.0), 1 / (t * step_size))
        damping = jnp.where(arriving, FULL_REFRESHMENT / step_size, damping)
        kernel = _with(kernel, step_size, damping)
        return kernel, adaptation._replace(
            t=t,
            log_step_size=adaptation.log_step_size + jnp.log(kernel.step_size),
            log_damping=adaptation.log_damping
            + jnp.log(kernel.damping).astype(adaptation.log_damping.dtype),
            steps=steps,
            windows=windows,
        )

    def end_chunk(
        self,
        rng_key: PRNGKeyArray,
        target: Energy,
        kernel: MEADS,
        adaptation: MEADSAdaptation,
        states: Any,
        record: Record,
        count: Int[Array, ""],
        window_ends: Bool[Array, ""],
        is_last: Bool[Array, ""],
    ) -> tuple[MEADS, MEADSAdaptation, Any]:
        tuned, windows, states = self.metric_windows.end_chunk(
            rng_key, target, kernel, adaptation.windows, states, record, count, window_ends, is_last
        )
        fresh = window_ends & (windows.window <= SHORT_WINDOWS)
        number = jnp.maximum(adaptation.steps, 1)
        step_size = jnp.exp(adaptation.log_step_size / number)
        damping = jnp.exp(adaptation.log_damping / number)
        tuned = _with(
            tuned,
            jnp.where(is_last, step_size, jnp.where(fresh, tuned.step_size, kernel.step_size)),
            jnp.where(is_last, damping, kernel.damping),
        )
        return (
            tuned,
            adaptation._replace(
                log_step_size=jnp.where(window_ends, 0, adaptation.log_step_size),
                log_damping=jnp.where(window_ends, 0, adaptation.log_damping),
                steps=jnp.where(window_ends, 0, adaptation.steps),
                windows=windows,
            ),
            states,
        )


def largest_eigenvalue(rows: Float[Array, "n d"]) -> Float[Array, ""]:
    """About the largest eigenvalue of ``E[r r']``: sum of squared eigenvalues over their sum.

    Both sums are estimated without bias from n rows (section 3.2 of [1]); the ratio is at most the
    largest eigenvalue, and near it where few eigenvalues are large.
    """
    n = rows.shape[0]
    products = rows @ rows.T
    diagonal = jnp.diagonal(products)
    squares = (jnp.sum(products**2) - jnp.sum(diagonal**2)) / (n * (n - 1))
    return squares / jnp.mean(diagonal)


def _with(kernel: MEADS, step_size: Array, damping: Array) -> MEADS:
    values = step_size.astype(kernel.step_size.dtype), damping.astype(kernel.damping.dtype)
    return eqx.tree_at(lambda k: (k.step_size, k.damping), kernel, values)
