"""What all who walk the path have in common: the population, its state, checks, messages.

A step weighs the particles for the next temperature, resamples where the weights are uneven, tunes
the kernel to them and moves them (`AlongPath.advance`). Tempered SMC and AIS differ in temperatures
and in when they resample; waste-free SMC in what it makes of the moves.
"""

from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax import lax, random
from jax.core import Tracer
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree

from ppl import weights
from ppl.energy import Energy, Position, TargetError
from ppl.sampler import Exactness, MarkovKernel, ParticleSampler
from ppl.template import dimension
from samplers.mcmc.hmc import HMC
from samplers.mcmc.metrics import Diagonal
from samplers.smc import feynman_kac as fk
from samplers.smc.moves import Moved, enough, move
from samplers.smc.path import Known, Path, increments, next_inverse_temperature, why_dead

# Fewer particles than this times d, of which each half of the population has half and resampling
# leaves half again, span too little for a dense metric.
PARTICLES_A_DIMENSION = 8
# Beside the other costs of a temperature a few more leapfrog steps are cheap, and a particle that
# stays where it is remembers everything.
TARGET_ACCEPTANCE = 0.9
RECOUNT = 4.0  # times the inverse temperature at which moves were counted


class PathState(NamedTuple):
    """A population at one temperature; the particles carry `Known` with them: V and its like.

    ``kernel`` holds the arrays of the kernel as it is tuned by now, ``error`` the standard error
    of log Z up to here. ``enough`` moves are, since they were last counted at ``counted_at``.
    """

    population: fk.Population
    inverse_temperature: Float[Array, ""]
    step: Int[Array, ""]
    kernel: Any
    error: Float[Array, ""]
    enough: Int[Array, ""]
    counted_at: Float[Array, ""]


class PathInfo(NamedTuple):
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


class AlongPath(ParticleSampler):
    """A sampler that carries a population along the path of `samplers.smc.path`.

    Attributes
    ----------
    num_particles
        Size of the population.
    move
        The Markov kernel that moves particles, or None for the default.
    reference
        Where the path starts, or None for the prior.
    schedule
        Inverse temperatures, or None.
    tune
        Whether the move is tuned to the particles.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"log_density"})
    exactness: ClassVar[Exactness] = "asymptotically exact"

    num_particles: eqx.AbstractVar[int]
    move: eqx.AbstractVar[Any]
    reference: eqx.AbstractVar[Any]
    schedule: eqx.AbstractVar[Any]
    tune: eqx.AbstractVar[bool]

    def __check_init__(self) -> None:
        check_move(self.move)

    def check(self, target: Energy) -> None:
        """Raise unless the path has a start and the move can move."""
        check_path(type(self).__name__, self.path(target), self.move)

    def path(self, target: Energy) -> Path:
        """From the prior or the reference to this target."""
        return Path(target, self.reference)

    @property
    def drawn_by(self) -> str | None:
        """The sampler of the first population, where that is not drawn at the start of the path."""
        return None

    def resolve(self, target: Energy) -> "AlongPath":
        """Lay out the move for the dimension of this target."""
        given = self.move
        kernel = HMC(target_acceptance=jnp.asarray(TARGET_ACCEPTANCE)) if given is None else given
        few = self.num_particles < PARTICLES_A_DIMENSION * dimension(target.template)
        if self.tune and few and getattr(kernel, "metric", self) is None:
            kernel = eqx.tree_at(
                lambda k: k.metric, kernel, Diagonal(), is_leaf=lambda x: x is None
            )
        return eqx.tree_at(
            lambda s: s.move,
            self,
            kernel.resolve(target),
            is_leaf=lambda x: x is None or x is given,
        )

    def init(self, rng_key: PRNGKeyArray, target: Energy) -> PathState:
        """Exact draws at b = 0; those without likelihood have no weight from the start."""
        path = self.path(target)
        positions = path.sample(rng_key, self.num_particles)
        known = path.known(positions, self.move)
        return self.begun(positions, known, jnp.zeros((), known.log_ratio.dtype), 0.0)

    def begun(
        self,
        positions: Position,
        known: Known,
        inverse_temperature: Float[Array, ""],
        log_weights: Any,
    ) -> PathState:
        """A first population at this temperature; without a likelihood there is no weight."""
        log_weights = log_weights + increments(0.0, known.log_ratio)
        return PathState(
            fk.begin((positions, known), log_weights),
            inverse_temperature,
            jnp.zeros((), jnp.int32),
            eqx.filter(self.move, eqx.is_array),
            jnp.zeros((), log_weights.dtype),
            jnp.ones((), jnp.int32),
            jnp.zeros_like(inverse_temperature),
        )

    def next_temperature(
        self, state: PathState, kept: Float[Array, ""], rule: str = "ess"
    ) -> Float[Array, ""]:
        """That of the schedule, or the one at which this share of the effective size is left."""
        b, population = state.inverse_temperature, state.population
        if self.schedule is not None:
            return self.schedule[state.step].astype(b.dtype)
        _, known = population.particles
        return next_inverse_temperature(known.log_ratio, population.log_weights, b, kept, rule)

    def weighed(self, state: PathState, next_b: Float[Array, ""]) -> fk.Population:
        """The population with the weights of the next temperature."""
        _, known = state.population.particles
        step = next_b - state.inverse_temperature
        return fk.weigh(state.population, increments(step, known.log_ratio))

    def kernel(self, arrays: Any) -> MarkovKernel:
        """Move with these arrays."""
        _, rest = eqx.partition(self.move, eqx.is_array)
        kernel = eqx.combine(arrays, rest)
        assert kernel is not None, "resolve(target) first, as ppl.sample does"
        return kernel

    def advance(
        self,
        rng_key: PRNGKeyArray,
        target: Energy,
        state: PathState,
        next_b: Float[Array, ""],
        resampler: fk.Resampler,
        num_moves: int | None,
        most: int | None = None,
    ) -> tuple[PathState, PathInfo]:
        """Weigh for the next temperature, resample where needed, tune, move.

        Without ``num_moves`` they are counted, up to ``most``: anew whenever the inverse
        temperature is `RECOUNT` times that of the last count, by going on while they pay; in
        between, those that paid are made.
        """
        counts = (num_moves is None) & (next_b >= RECOUNT * state.counted_at)
        fewest = jnp.where(counts, 1, state.enough) if num_moves is None else num_moves
        key_resample, key_move = random.split(rng_key)
        cloud = self.weighed(state, next_b)
        population, _, resampled = fk.resample(key_resample, cloud, resampler)
        positions, known = population.particles
        moved = move(
            key_move, self.kernel(state.kernel), self.path(target).at(next_b), positions,
            population.log_weights, fewest, fewest if most is None else most,
            tune=self.tune, count=counts, densities=self.densities(known, next_b),
        )  # fmt: skip
        error = fk.log_evidence_error(cloud)
        state = state._replace(
            enough=jnp.where(counts, enough(moved), state.enough),
            counted_at=jnp.where(counts, next_b, state.counted_at),
        )
        return self.arrived(target, state, next_b, cloud, population, moved, resampled, error)

    def densities(self, known: Known, b: Float[Array, ""]) -> tuple[Array, PyTree] | None:
        """Log pi_b of each particle and its gradient, for moves that can start from these."""
        return None if self.move.plain_state is None else known.at(b)

    def arrived(
        self,
        target: Energy,
        state: PathState,
        next_b: Float[Array, ""],
        cloud: fk.Population,
        population: fk.Population,
        moved: Moved,
        resampled: Any,
        error: Float[Array, ""],
    ) -> tuple[PathState, PathInfo]:
        """State and info of the next temperature.

        ``cloud`` has its weights, ``population`` those after resampling, ``moved`` the positions.
        """
        path, likelihoods = self.path(target), self.num_particles
        if moved.densities is None:
            known = path.known(moved.positions, self.move)
        else:
            known, likelihoods = path.known_from(moved.positions, next_b, *moved.densities), 0
        after = PathState(
            population._replace(particles=(moved.positions, known)),
            jnp.where(fk.is_dead(population), jnp.ones_like(next_b), next_b),
            state.step + 1,
            eqx.filter(moved.kernel, eqx.is_array),
            error,
            state.enough,
            state.counted_at,
        )
        _, before = state.population.particles
        # The driver counts steps, so the first one pays for the start.
        gradients = 0 if before.slopes is None else self.num_particles
        start = jnp.array([self.num_particles, gradients], jnp.int32) * (state.step == 0)
        return after, PathInfo(
            inverse_temperature=next_b,
            ess=weights.ess(cloud.log_weights),
            resampled=jnp.asarray(resampled),
            log_evidence=fk.log_evidence(cloud),
            log_evidence_error=error,
            acceptance_rate=moved.acceptance_rate,
            num_moves=moved.num_moves,
            jump=moved.jump,
            num_diverging=moved.num_diverging,
            num_illegal=weights.count_illegal(before.log_ratio).astype(jnp.int32),
            num_evaluations=(
                moved.num_evaluations + start + jnp.array([likelihoods, 0], jnp.int32)
            ).astype(jnp.int32),
        )

    def walk(self, rng_key: PRNGKeyArray, target: Energy, num_steps: int) -> fk.Population:
        """The last population of a run whose number of temperatures is known."""
        key_start, key_steps = random.split(rng_key)

        def one(state: PathState, t: Array) -> tuple[PathState, None]:
            return self.step(random.fold_in(key_steps, t), target, state)[0], None

        start = self.init(key_start, target)
        return lax.scan(one, start, jnp.arange(num_steps))[0].population

    def done(self, state: PathState) -> Bool[Array, ""]:
        """At b = 1, or nowhere to go."""
        return (state.inverse_temperature >= 1) | fk.is_dead(state.population)

    def collect(
        self, rng_key: PRNGKeyArray, target: Energy, state: PathState, history: Any
    ) -> tuple[Position, Float[Array, " n"], Float[Array, ""]]:
        """Particles, weights, log Z; an error that says why, where no particle has any weight."""
        population, log_weights = state.population, state.population.log_weights
        positions, known = population.particles
        if not isinstance(log_weights, Tracer) and bool(fk.is_dead(population)):
            path, name = self.path(target), type(self).__name__
            raise TargetError(why_dead(path, positions, known.log_ratio, name, self.drawn_by))
        return positions, log_weights, fk.log_evidence(population)

    def log_evidence_error(self, history: dict[str, np.ndarray]) -> float | None:
        return float(history["log_evidence_error"][-1])

    def notes(self, history: dict[str, np.ndarray]) -> list[str]:
        lost = int(np.max(history["num_illegal"], initial=0))
        if not lost:
            return []
        return [
            f"the likelihood of {lost} particles is NaN or infinite at the worst temperature; they "
            "count as impossible"
        ]


# The door -----------------------------------------------------------------------------------------


def check_move(move: Any) -> None:
    """Raise unless this is a Markov kernel, or None."""
    if move is None or type(move) is object or isinstance(move, MarkovKernel):
        return
    raise ValueError(
        f"move must be a Markov kernel such as samplers.MALA() or samplers.HMC(); got {move!r}"
    )


def check_path(name: str, path: Path, move: MarkovKernel | None) -> None:
    """Raise unless the path has a start and the move can move along it."""
    path.check(name)
    check_can_move(name, path, move)


def check_can_move(name: str, path: Path, move: MarkovKernel | None) -> None:
    """Raise unless the move can move along the path."""
    kernel = HMC() if move is None else move
    rung = path.at(jnp.ones(()))
    for capability in sorted(kernel.needs - rung.offers):
        raise TargetError(
            f"{name} moves particles by {type(kernel).__name__}, which needs {capability!r}: "
            f"{rung.refuse(capability)}. Another kernel can be given as "
            f"samplers.{name}(move=samplers.RandomWalk())"
        )
    kernel.check(path.target)


def _is_none(x: Any) -> bool:
    return x is None
