"""Persistent sampling: tempered SMC that throws no particle away.

    p_s = r exp(b_s V) / Z_s,   b_0 = 0, Z_0 = 1;   at temperature t the pool is all particles of
                                                    temperatures 0 .. t-1, N of each
    w_i = exp(b_t V_i) / (1/t sum_{s<t} exp(b_s V_i) / Z_s)                 (eq. 14, 15)
    Z_t = 1/(t N) sum_i w_i                                                  (eq. 16)
    N of the pool are drawn by their weights and moved by K_t, invariant for p_t; they join it

The pool is taken for draws of the mixture of all p_s so far: what earlier temperatures know of the
present one is not lost, and averages over the target are taken over all particles of the run. It
asks no more of the likelihood than `TemperedSMC` does, and keeps (T + 1) N particles in memory.

Each Z_t stands on those before it. To first order, with a_ts the mean over the pool of w_i times
the share of p_s in the mixture at x_i,

    d log Z_t = 1/(t N) sum_i (w_i / Z_t - 1) + sum_{s<t} a_ts d log Z_s

which gives the weight of each particle in log Z_T, and so the error of one run: rows of the pool
are N draws each, independent as far as moves forget.

References
----------
.. [1] M. Karamanis, U. Seljak, "Persistent sampling: enhancing the efficiency of sequential Monte
   Carlo", Statistics and Computing 35, 2025, arXiv:2407.20722. Equations 14 to 17.
"""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax, random
from jax.core import Tracer
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree

from ppl import weights
from ppl.energy import Energy, Position, TargetError
from ppl.sampler import positive, size
from samplers.mcmc.windows import optional
from samplers.smc import feynman_kac as fk
from samplers.smc.along_path import AlongPath
from samplers.smc.moves import move
from samplers.smc.path import (
    Path,
    as_reference,
    as_schedule,
    next_inverse_temperature,
    why_dead,
)
from samplers.smc.resampling import SCHEMES

OF_A_POOL = 0.5  # share of the pool that the effective size is at most, while the pool is small


class PersistentState(NamedTuple):
    """All particles, one row a temperature (S in all, of which ``step + 1`` are there), their V.

    V is -inf where the likelihood is zero, NaN, or not there yet. ``kernel`` holds the arrays of
    the kernel as it is tuned by now.
    """

    positions: PyTree
    log_ratios: Float[Array, "s n"]
    inverse_temperatures: Float[Array, " s"]
    log_evidences: Float[Array, " s"]
    step: Int[Array, ""]
    num_illegal: Int[Array, ""]
    kernel: Any


class PersistentInfo(NamedTuple):
    """A temperature. ``ess`` is that of the pool, ``log_ratios`` the V of its latest row.

    ``num_illegal`` counts particles of that row whose likelihood is NaN or +inf.
    """

    inverse_temperature: Float[Array, ""]
    ess: Float[Array, ""]
    log_evidence: Float[Array, ""]
    log_ratios: Float[Array, " n"]
    acceptance_rate: Float[Array, ""]
    num_moves: Int[Array, ""]
    jump: Float[Array, ""]
    num_diverging: Int[Array, ""]
    num_illegal: Int[Array, ""]
    num_evaluations: Int[Array, "2"]


class PersistentSMC(AlongPath):
    """Persistent sampling: asymptotically exact, with weights and the evidence.

    Parameters
    ----------
    num_particles
        The N above: those that are new at each temperature.
    move
        Any Markov kernel, exact if the draws are to be. None: `HMC`.
    reference
        Where to start, if not from the prior; see `TemperedSMC`.
    schedule
        Inverse temperatures that rise to 1, in place of those found by the weights.
    ess
        Effective size of the pool at a new temperature, in units of ``num_particles``; at most half
        of the pool.
    max_temperatures
        Most temperatures of a run, all of whose particles are kept; the last one is 1 in any case.
    resampling
        As in `TemperedSMC`.
    num_moves
        Moves at each temperature. None: as many as pay.
    max_num_moves
        Most moves at a temperature where their number is open.
    tune
        Whether the move is tuned to the particles.

    Raises
    ------
    TargetError
        As `TemperedSMC`.

    Notes
    -----
    The draws are all particles of the run, with the weights of the mixture at b = 1. The evidence
    is consistent; it is not unbiased, as the mixture holds its earlier estimates.

    Differences from the paper
    --------------------------
    While there are few temperatures the effective size asked for is half of the pool: of N
    particles no size above N can be asked. Copies of a particle, and of its descendants, stay in
    one half of the population, for the kernels of `samplers.smc.moves`. The error of one run is
    ours. BlackJAX's version multiplies a log-likelihood of -inf by b_0 = 0: with a hard constraint
    its evidence is NaN.
    """

    num_particles: int = size("num_particles", minimum=2, default=1024)
    move: Any = None  # a MarkovKernel
    reference: Any = eqx.field(default=None, converter=as_reference)
    schedule: Any = eqx.field(default=None, converter=as_schedule)
    ess: Float[Array, ""] = positive("ess", default=2.0)
    max_temperatures: int = size("max_temperatures", default=100)
    resampling: str = eqx.field(static=True, default="stratified")
    num_moves: int | None = optional(size("num_moves"))
    max_num_moves: int = size("max_num_moves", default=50)
    tune: bool = eqx.field(static=True, default=True)

    def __check_init__(self) -> None:
        fk.check_scheme(self.resampling)

    # Its states are `PersistentState`, where the others have `PathState`.

    def init(self, rng_key: PRNGKeyArray, target: Energy) -> Any:
        path, n = Path(target, self.reference), self.num_particles
        positions = path.sample(rng_key, n)
        log_ratios = path.log_ratios(positions)
        rows = 1 + (self.max_temperatures if self.schedule is None else len(self.schedule))
        zeros = jnp.zeros(rows, log_ratios.dtype)
        return PersistentState(
            jax.tree.map(lambda x: jnp.zeros((rows, *x.shape), x.dtype).at[0].set(x), positions),
            jnp.full((rows, n), -jnp.inf, zeros.dtype).at[0].set(weights.clean(log_ratios)),
            zeros,
            zeros,
            jnp.zeros((), jnp.int32),
            weights.count_illegal(log_ratios).astype(jnp.int32),
            eqx.filter(self.move, eqx.is_array),
        )

    def step(
        self, rng_key: PRNGKeyArray, target: Energy, state: PersistentState
    ) -> tuple[PersistentState, PersistentInfo]:
        key_resample, key_move = random.split(rng_key)
        path, n, t = Path(target, self.reference), self.num_particles, state.step + 1
        b = self._next(state)
        log_weights = log_mixture_weights(state, b)
        log_evidence = weights.log_sum_exp(log_weights.ravel()) - jnp.log(t * n)

        # Particle by particle and then by row, so that halves are halves of every row.
        rows = state.log_ratios.shape[0]
        drawn = SCHEMES[self.resampling](key_resample, log_weights.T.ravel(), n)
        particle, row = drawn // rows, drawn % rows
        fewest, most = (1, self.max_num_moves) if self.num_moves is None else (self.num_moves,) * 2
        moved = move(
            key_move, self.kernel(state.kernel), path.at(b),
            jax.tree.map(lambda x: x[row, particle], state.positions),
            jnp.zeros(n, log_weights.dtype), fewest, most, tune=self.tune,
        )  # fmt: skip
        log_ratios = path.log_ratios(moved.positions)
        after = PersistentState(
            jax.tree.map(lambda x, new: x.at[t].set(new), state.positions, moved.positions),
            state.log_ratios.at[t].set(weights.clean(log_ratios)),
            state.inverse_temperatures.at[t].set(b),
            state.log_evidences.at[t].set(log_evidence),
            t,
            weights.count_illegal(log_ratios).astype(jnp.int32),
            eqx.filter(moved.kernel, eqx.is_array),
        )
        likelihoods = jnp.array([n, 0], jnp.int32) * (1 + (state.step == 0))
        return after, PersistentInfo(
            inverse_temperature=b,
            ess=weights.ess(log_weights.ravel()),
            log_evidence=log_evidence,
            log_ratios=state.log_ratios[state.step],
            acceptance_rate=moved.acceptance_rate,
            num_moves=moved.num_moves,
            jump=moved.jump,
            num_diverging=moved.num_diverging,
            num_illegal=state.num_illegal,
            num_evaluations=(moved.num_evaluations + likelihoods).astype(jnp.int32),
        )

    def done(self, state: Any) -> Bool[Array, ""]:
        nowhere = ~jnp.any(jnp.isfinite(state.log_ratios))
        return (state.inverse_temperatures[state.step] >= 1) | nowhere

    def collect(
        self, rng_key: PRNGKeyArray, target: Energy, state: Any, history: Any
    ) -> tuple[Position, Float[Array, " n"], Float[Array, ""]]:
        path, found = Path(target, self.reference), state.log_ratios
        if not isinstance(found, Tracer) and not np.isfinite(np.asarray(found)).any():
            start = jax.tree.map(lambda x: x[0], state.positions)
            raise TargetError(why_dead(path, start, found[0], "PersistentSMC"))
        # Inside a compiled function the rows that are not there stay, without weight.
        num = len(found) if isinstance(found, Tracer) else int(state.step) + 1
        log_weights = log_mixture_weights(state, jnp.ones((), found.dtype))[:num].ravel()
        positions = jax.tree.map(lambda x: x[:num].reshape(-1, *x.shape[2:]), state.positions)
        return positions, log_weights, state.log_evidences[state.step]

    def log_evidence_error(self, history: dict[str, np.ndarray]) -> float | None:
        return _error(
            np.asarray(history["log_ratios"], np.float64),
            np.asarray(history["inverse_temperature"], np.float64),
            np.asarray(history["log_evidence"], np.float64),
        )

    def notes(self, history: dict[str, np.ndarray]) -> list[str]:
        notes, ess = super().notes(history), float(np.append(np.inf, history["ess"])[-1])
        if self.schedule is None and ess < OF_A_POOL / 2 * self.num_particles:
            notes.append(
                f"after {self.max_temperatures} temperatures the run went to the target at once, "
                f"with an effective size of {ess:.3g}: raise max_temperatures"
            )
        return notes

    def _next(self, state: PersistentState) -> Float[Array, ""]:
        """The temperature of the schedule, or the one that leaves the effective size asked for."""
        b = state.inverse_temperatures[state.step]
        if self.schedule is not None:
            return self.schedule[state.step].astype(b.dtype)
        now = log_mixture_weights(state, b).ravel()
        asked = jnp.minimum(self.ess.astype(b.dtype), OF_A_POOL * (state.step + 1))
        kept = asked * self.num_particles / jnp.maximum(weights.ess(now), 1)
        found = next_inverse_temperature(state.log_ratios.ravel(), now, b, kept)
        return jnp.where(state.step + 1 >= self.max_temperatures, jnp.ones_like(b), found)


def log_mixture_weights(state: PersistentState, b: Float[Array, ""]) -> Float[Array, "s n"]:
    """Log w of all particles at this temperature; rows that are not there have none."""
    alive = jnp.isfinite(state.log_ratios)
    v = jnp.where(alive, state.log_ratios, 0)

    def add(s: Any, total: Array) -> Array:
        one = state.inverse_temperatures[s] * v - state.log_evidences[s]
        return jnp.logaddexp(total, one)

    total = lax.fori_loop(0, state.step + 1, add, jnp.full_like(v, -jnp.inf))
    log_mixture = total - jnp.log(state.step + 1)
    return jnp.where(alive, b * v - log_mixture, -jnp.inf)


def _error(v: np.ndarray, temperatures: np.ndarray, log_evidences: np.ndarray) -> float:
    """Standard error of the last of them, by the expansion above; rows of V: those before it."""
    num, n = v.shape
    alive = np.isfinite(v)
    v = np.where(alive, v, 0)
    b, log_z = np.append(0, temperatures), np.append(0, log_evidences)
    if not np.isfinite(log_z).all():
        return np.inf
    densities = np.exp(b[:, None, None] * v - log_z[:, None, None]) * alive
    influence = np.zeros((num + 1, num, n))  # of each particle on each log Z
    for t in range(1, num + 1):
        # A draw without likelihood counts among the t N all the same, with a weight of zero.
        mixture = densities[:t, :t].sum(axis=0)
        weight = densities[t, :t] * t / np.where(mixture > 0, mixture, 1)
        share = densities[:t, :t] / np.where(mixture > 0, mixture, 1)
        influence[t, :t] = weight / (t * n)
        a = (weight * share).sum(axis=(1, 2)) / (t * n)
        influence[t] += np.tensordot(a, influence[:t], axes=1)
    last = influence[num]
    centered = last - last.mean(axis=1, keepdims=True)
    return float(np.sqrt(np.sum(centered**2) * n / (n - 1)))
