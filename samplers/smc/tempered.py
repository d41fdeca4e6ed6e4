"""Tempered sequential Monte Carlo: particles that walk from the prior to the posterior.

    pi_b(x) = prior(x) L(x)^b,   0 = b_0 < b_1 < ... < b_T = 1

    x_i ~ prior;  for each t:  w_i *= L(x_i)^(b_t - b_{t-1});  log Z += log sum_i W_i w_i
                               resample where the ESS is low;  x_i ~ K_t(x_i, .)

K_t leaves pi_{b_t} invariant, any Markov kernel: the particles that come out have been moved at
b = 1. Temperatures fall as fast as the weights allow: each step keeps a given share of the
effective sample size [1, 2]. Between temperatures the kernel is tuned to the particles (metric,
step size) [3] and moves go on as long as they pay (`samplers.smc.moves`). Nothing compiles
anew.

Modes are found by the prior draws, while the surface is flat, and keep their share by their
weights, where no chain would cross. A mode that no particle is near when the modes part is lost,
and nothing tells: several runs with fewer particles do not show it, one with more may.

References
----------
.. [1] P. Del Moral, A. Doucet, A. Jasra, "Sequential Monte Carlo samplers", J. R. Stat. Soc. B 68,
   2006, doi:10.1111/j.1467-9868.2006.00553.x. Section 3.3.2.3: MCMC moves, equations 30 and 31.
.. [2] Y. Zhou, A. M. Johansen, J. A. D. Aston, "Toward automatic model comparison: an adaptive
   sequential Monte Carlo approach", JCGS 25, 2016, arXiv:1303.3123. Section 3.3 (CESS).
.. [3] A. Buchholz, N. Chopin, P. E. Jacob, "Adaptive tuning of Hamiltonian Monte Carlo within
   sequential Monte Carlo", Bayesian Analysis 16, 2021, arXiv:1808.07730.
"""

from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax import random
from jax.core import Tracer
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from ppl import weights
from ppl.energy import Energy, Position, TargetError
from ppl.sampler import Exactness, MarkovKernel, ParticleSampler, fraction, size
from samplers.mcmc.hmc import HMC
from samplers.mcmc.windows import optional
from samplers.smc import feynman_kac as fk
from samplers.smc.moves import move, retuned
from samplers.smc.path import (
    Path,
    as_reference,
    as_schedule,
    increments,
    next_inverse_temperature,
    why_dead,
)


class TemperedState(NamedTuple):
    """A population at one temperature; the particles carry V, the log-likelihood, with them.

    ``kernel`` holds the arrays of the kernel as it is tuned by now.
    """

    population: fk.Population
    inverse_temperature: Float[Array, ""]
    step: Int[Array, ""]
    kernel: Any


class TemperedInfo(NamedTuple):
    """A temperature: what the weights lost there and what the moves did.

    ``ess`` is that of the weights before resampling. ``num_illegal`` counts particles whose
    likelihood is NaN or infinite; they have no weight. ``jump`` is the squared distance of the
    moves in units of twice the variance.
    """

    inverse_temperature: Float[Array, ""]
    ess: Float[Array, ""]
    resampled: Bool[Array, ""]
    log_evidence: Float[Array, ""]
    log_evidence_error: Float[Array, ""]
    acceptance_rate: Float[Array, ""]
    num_moves: Int[Array, ""]
    jump: Float[Array, ""]
    num_diverging: Int[Array, ""]
    num_illegal: Int[Array, ""]
    num_evaluations: Int[Array, "2"]


class TemperedSMC(ParticleSampler):
    """Tempered sequential Monte Carlo: asymptotically exact, with the evidence.

    Parameters
    ----------
    num_particles
        At least two; thousands where there are modes to keep.
    move
        Any Markov kernel, exact if the draws are to be. None: `HMC`. Its metric and step size
        are tuned to the particles at each temperature.
    reference
        Where to start, if not from the prior of the target: a NumPyro distribution or a target
        that can be sampled, on the unconstrained space, wider than the target.
    schedule
        Inverse temperatures that rise to 1, in place of those found by the weights.
    ess_kept
        Share of the effective sample size that a temperature keeps; nearer to 1, more
        temperatures.
    rule
        ``"ess"``: that of the weights; ``"cess"``: the conditional one of the increments, for
        weights that are carried over several temperatures.
    resample_below
        Resample where the effective sample size is at most this share of the particles.
    resampling
        ``"stratified"``, ``"systematic"``, ``"multinomial"``, ``"residual"`` or ``"ssp"``.
    num_moves
        Moves at each temperature. None: as many as pay.
    max_num_moves
        Most moves at a temperature where their number is open.
    tune
        Whether the move is tuned to the particles.

    Raises
    ------
    TargetError
        If the target says no prior and there is no reference, if that cannot be sampled, if the
        move needs a gradient that the target lacks; and if no particle of the start has any
        likelihood, with the observations that kill them.

    Notes
    -----
    The evidence is unbiased with a given ``schedule``, ``num_moves`` and ``tune=False``; learnt
    temperatures, moves and tuning leave it consistent. The error of one run is that of common
    ancestors (`samplers.smc.feynman_kac.log_evidence_error`), on the large side; that of several
    runs (``num_chains=``) is their spread. A particle whose likelihood is NaN dies and is counted.

    Differences from the paper
    --------------------------
    Reference [1] moves first and weighs then; weights here do not depend on the moves either, so
    weighing first costs nothing and leaves particles that are moved at the last temperature.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"log_density"})
    exactness: ClassVar[Exactness] = "asymptotically exact"

    num_particles: int = size("num_particles", minimum=2, default=4096)
    move: Any = None  # a MarkovKernel
    reference: Any = eqx.field(default=None, converter=as_reference)
    schedule: Any = eqx.field(default=None, converter=as_schedule)
    ess_kept: Float[Array, ""] = fraction("ess_kept", default=0.5)
    rule: str = eqx.field(static=True, default="ess")
    resample_below: Float[Array, ""] = fraction("resample_below", default=0.5)
    resampling: str = eqx.field(static=True, default="stratified")
    num_moves: int | None = optional(size("num_moves"))
    max_num_moves: int = size("max_num_moves", default=50)
    tune: bool = eqx.field(static=True, default=True)

    def __check_init__(self) -> None:
        check_move(self.move)
        fk.check_scheme(self.resampling)
        if self.rule not in ("ess", "cess"):
            raise ValueError(f"rule must be 'ess' or 'cess'; got {self.rule!r}")

    def check(self, target: Energy) -> None:
        check_annealing(self, target)

    def resolve(self, target: Energy) -> "TemperedSMC":
        return with_move(self, target)

    def init(self, rng_key: PRNGKeyArray, target: Energy) -> TemperedState:
        return start(rng_key, Path(target, self.reference), self.move, self.num_particles)

    def step(
        self, rng_key: PRNGKeyArray, target: Energy, state: TemperedState
    ) -> tuple[TemperedState, TemperedInfo]:
        b, (_, log_ratios) = state.inverse_temperature, state.population.particles
        if self.schedule is not None:
            next_b = self.schedule[state.step].astype(b.dtype)
        else:
            next_b = next_inverse_temperature(
                log_ratios, state.population.log_weights, b, self.ess_kept, self.rule
            )
        resampler = fk.Resampler(self.resample_below, self.resampling)
        return advance(
            rng_key, Path(target, self.reference), state, next_b, resampler,
            self.move, self.num_moves, self.max_num_moves, tune=self.tune,
        )  # fmt: skip

    def done(self, state: TemperedState) -> Bool[Array, ""]:
        return arrived(state)

    def collect(
        self, rng_key: PRNGKeyArray, target: Energy, state: TemperedState, history: Any
    ) -> tuple[Position, Float[Array, " n"], Float[Array, ""]]:
        return collected(Path(target, self.reference), state, type(self).__name__)

    def log_evidence_error(self, history: dict[str, np.ndarray]) -> float | None:
        return float(history["log_evidence_error"][-1])

    def notes(self, history: dict[str, np.ndarray]) -> list[str]:
        return notes_of(history)


# Annealing, for all who walk the path -------------------------------------------------------------


def start(rng_key: PRNGKeyArray, path: Path, kernel: MarkovKernel | None, n: int) -> TemperedState:
    """Exact draws at b = 0; those without likelihood have no weight from the start."""
    positions = path.sample(rng_key, n)
    log_ratios = path.log_ratios(positions)
    population = fk.begin((positions, log_ratios), increments(0.0, log_ratios))
    zero = jnp.zeros((), log_ratios.dtype)
    return TemperedState(
        population, zero, jnp.zeros((), jnp.int32), eqx.filter(kernel, eqx.is_array)
    )


def advance(
    rng_key: PRNGKeyArray,
    path: Path,
    state: TemperedState,
    next_b: Float[Array, ""],
    resampler: fk.Resampler,
    kernel: MarkovKernel | None,
    num_moves: int | None,
    max_num_moves: int,
    *,
    tune: bool,
) -> tuple[TemperedState, TemperedInfo]:
    """Weigh for the next temperature, resample where needed, tune, move."""
    key_resample, key_move = random.split(rng_key)
    population, b = state.population, state.inverse_temperature
    _, log_ratios = population.particles
    n = len(log_ratios)

    population = fk.weigh(population, increments(next_b - b, log_ratios))
    ess, found = weights.ess(population.log_weights), fk.log_evidence(population)
    error = fk.log_evidence_error(population)
    population, _, resampled = fk.resample(key_resample, population, resampler)

    positions, log_ratios = population.particles
    _, rest = eqx.partition(kernel, eqx.is_array)
    kernel = eqx.combine(state.kernel, rest)
    assert kernel is not None, "resolve(target) first, as ppl.sample does"
    if tune:
        arrays = retuned(kernel, positions, population.log_weights, None)
        kernel = eqx.combine(arrays, rest)
    fewest, most = (1, max_num_moves) if num_moves is None else (num_moves, num_moves)
    moved = move(
        key_move, kernel, path.at(next_b), positions, population.log_weights, fewest, most,
        tune=tune,
    )  # fmt: skip
    log_ratios = path.log_ratios(moved.positions)
    # The driver counts steps, so the first one pays for the start.
    spent = moved.num_evaluations + jnp.array([n, 0], jnp.int32) * (1 + (state.step == 0))
    particles = (moved.positions, log_ratios)
    after = TemperedState(
        population._replace(particles=particles),
        jnp.where(fk.is_dead(population), jnp.ones_like(b), next_b),
        state.step + 1,
        eqx.filter(moved.kernel, eqx.is_array),
    )
    return after, TemperedInfo(
        inverse_temperature=next_b,
        ess=ess,
        resampled=resampled,
        log_evidence=found,
        log_evidence_error=error,
        acceptance_rate=moved.acceptance_rate,
        num_moves=moved.num_moves,
        jump=moved.jump,
        num_diverging=moved.num_diverging,
        num_illegal=weights.count_illegal(state.population.particles[1]).astype(jnp.int32),
        num_evaluations=spent.astype(jnp.int32),
    )


def arrived(state: TemperedState) -> Bool[Array, ""]:
    """At b = 1, or nowhere to go."""
    return (state.inverse_temperature >= 1) | fk.is_dead(state.population)


def collected(
    path: Path, state: TemperedState, name: str
) -> tuple[Position, Float[Array, " n"], Float[Array, ""]]:
    """What a run leaves; an error that says why, where no particle has any weight."""
    (positions, log_ratios), log_weights = state.population.particles, state.population.log_weights
    if not isinstance(log_weights, Tracer) and bool(fk.is_dead(state.population)):
        raise TargetError(why_dead(path, positions, log_ratios, name))
    return positions, log_weights, fk.log_evidence(state.population)


def notes_of(history: dict[str, np.ndarray]) -> list[str]:
    """What a reader should hear of a run along the path."""
    notes = []
    lost = int(np.max(history["num_illegal"], initial=0))
    if lost:
        notes.append(
            f"the likelihood of {lost} particles is NaN or infinite at the worst temperature; they "
            "count as impossible"
        )
    return notes


# The door -----------------------------------------------------------------------------------------


def check_move(move: Any) -> None:
    """Raise unless this is a Markov kernel, or None."""
    if move is not None and type(move) is not object and not isinstance(move, MarkovKernel):
        raise ValueError(
            f"move must be a Markov kernel such as samplers.MALA() or samplers.HMC(); got {move!r}"
        )


def check_annealing(sampler: Any, target: Energy) -> None:
    """Raise unless the path has a start and the move can move."""
    name = type(sampler).__name__
    path = Path(target, sampler.reference)
    path.check(name)
    move = HMC() if sampler.move is None else sampler.move
    rung = path.at(jnp.ones(()))
    for capability in sorted(move.needs - rung.offers):
        raise TargetError(
            f"{name} moves particles by {type(move).__name__}, which needs {capability!r}: "
            f"{rung.refuse(capability)}. Another kernel can be given as "
            f"samplers.{name}(move=samplers.RandomWalk())"
        )
    move.check(target)


def with_move[S: eqx.Module](sampler: S, target: Energy) -> S:
    """Sampler whose move is laid out for the dimension of this target."""
    given: Any = sampler.move  # pyright: ignore[reportAttributeAccessIssue]
    kernel = (HMC() if given is None else given).resolve(target)
    return eqx.tree_at(lambda s: s.move, sampler, kernel, is_leaf=lambda x: x is None or x is given)
