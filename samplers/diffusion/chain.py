"""Chains from noise to data: what steering and inverse problems have in common.

    x_T at the highest level,    x_(t-1) ~ M_t(x_t, .),    log G_t(x_t, x_(t-1)),    x_0 the draw

Time runs from T to 0. A method is a Feynman-Kac model along the levels of a path, `ReverseModel`:
where particles start, how they go from one level to the next, and what that weighs. There are two
kinds. In `samplers.diffusion.steering.chain` moves are those of a solver and rows of its table; in
`samplers.diffusion.inverse.chain` they are a method's own, and have no weight. `AlongLevels` takes
a population down the levels of any model, one a generation.

References
----------
.. [1] Wu et al., "Practical and asymptotically exact conditional sampling in diffusion models",
   NeurIPS 2023, arXiv:2306.17775. Section 3: the reverse chain as a sequence of targets.
"""

from abc import abstractmethod
from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree

from ppl.energy import Energy, Position, TargetError
from ppl.sampler import Exactness, ParticleSampler
from samplers.diffusion.paths import Level
from samplers.smc import feynman_kac as fk

# Levels -----------------------------------------------------------------------------------------


class Step(NamedTuple):
    """One move, or all of them with a leading axis: the ``row`` of `FeynmanKac.advance`.

    It leads from the level ``start`` to ``end``, the last to no noise at all; ``index`` counts from
    0. ``inside`` is what the moves of a method are told besides.
    """

    start: Level
    end: Level
    index: Any
    is_last: Any
    inside: Any = ()


def steps(grid: Level, inside: Any = ()) -> Step:
    """The moves between these levels, one after the other."""
    index = np.arange(len(grid.t) - 1, dtype=np.int32)
    start, end = (jax.tree.map(lambda x: x[at], grid) for at in (index, index + 1))  # noqa: B023
    return Step(start, end, index, index == index[-1], inside)


def at(tree: PyTree, index: Any) -> PyTree:
    """Entry ``index`` of every array."""
    return jax.tree.map(lambda x: x[index], tree)


def cast(tree: PyTree, dtype: Any) -> PyTree:
    """The same in the number format of the points."""
    floating = lambda x: jnp.issubdtype(x.dtype, jnp.floating)
    return jax.tree.map(lambda x: jnp.asarray(x, dtype) if floating(x) else jnp.asarray(x), tree)


def ancestral(kappa: Any, after: Any) -> tuple[Any, Any]:
    """Weight of the point and sd of the noise in a step of DDPM, of points divided by alpha."""
    ratio = (after / kappa) ** 2
    return ratio, after * jnp.sqrt(1 - ratio)


# The model --------------------------------------------------------------------------------------


class ReverseModel(fk.FeynmanKac):
    """A Feynman-Kac model that goes down the levels of a path, one `Step` a row."""

    steps: eqx.AbstractVar[Step]

    @property
    def first(self) -> Step:
        """The first step."""
        return at(self.steps, 0)

    @abstractmethod
    def positions(self, particles: PyTree) -> Position:
        """Positions of particles that have arrived."""


# The sampler ------------------------------------------------------------------------------------


class LevelState(NamedTuple):
    """A population at one level of noise, and the number of steps it has taken."""

    population: fk.Population
    step: Int[Array, ""]


class LevelInfo(NamedTuple):
    """A step: the weights after it.

    ``resampled`` says whether they were equal before it, ``num_illegal`` counts potentials that are
    NaN or +inf; they weigh nothing.
    """

    ess: Float[Array, ""]
    log_evidence: Float[Array, ""]
    log_evidence_error: Float[Array, ""]
    resampled: Bool[Array, ""]
    num_illegal: Int[Array, ""]
    num_evaluations: Int[Array, "2"]


class AlongLevels(ParticleSampler):
    """A sampler whose population goes down the levels of a path.

    A method defines `on_levels`, `num_moves` and `spent`. Draws of one that is biased have no
    weights, and it gives no evidence.

    Attributes
    ----------
    num_particles
        Size of the population.
    resample_below
        Resample where the effective sample size is at most this share of the particles.
    resampling
        A scheme of `samplers.smc.resampling`.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"denoise", "log_likelihood"})
    exactness: ClassVar[Exactness] = "asymptotically exact"
    weighs: ClassVar[str] = "likelihood"  # what it is called in messages

    num_particles: eqx.AbstractVar[int]
    resample_below: eqx.AbstractVar[Any]
    resampling: eqx.AbstractVar[str]

    def __check_init__(self) -> None:
        fk.check_scheme(self.resampling)

    @abstractmethod
    def on_levels(self, target: Any) -> ReverseModel:
        """The Feynman-Kac model of this method, for a target."""

    @property
    @abstractmethod
    def num_moves(self) -> int:
        """Number of its steps."""

    @abstractmethod
    def spent(self) -> tuple[int, int]:
        """Log-likelihoods and calls of the denoiser in a step of all particles."""

    def init(self, rng_key: PRNGKeyArray, target: Energy) -> LevelState:
        particles, log_potentials = self.on_levels(target).start(rng_key, self.num_particles)
        return LevelState(fk.begin(particles, log_potentials), jnp.zeros((), jnp.int32))

    def step(
        self, rng_key: PRNGKeyArray, target: Energy, state: LevelState
    ) -> tuple[LevelState, LevelInfo]:
        model = self.on_levels(target)
        resampler = fk.Resampler(self.resample_below, self.resampling)
        row = at(model.steps, state.step)
        population, info = fk.step(rng_key, model, state.population, row, resampler)
        # The driver counts steps, so the first one pays for the start.
        spent = jnp.asarray(self.spent(), jnp.int32) * (1 + (state.step == 0))
        return LevelState(population, state.step + 1), LevelInfo(
            info.ess,
            info.log_evidence,
            fk.log_evidence_error(population) if self.num_particles > 1 else info.ess * jnp.nan,
            info.resampled,
            info.num_illegal,
            spent,
        )

    def done(self, state: LevelState) -> Bool[Array, ""]:
        return (state.step >= self.num_moves) | fk.is_dead(state.population)

    def collect(
        self, rng_key: PRNGKeyArray, target: Any, state: LevelState, history: Any
    ) -> tuple[Position, Float[Array, " n"] | None, Float[Array, ""] | None]:
        """Clean particles, weights, log Z; an error where no particle has any weight."""
        if not isinstance(state.step, Tracer) and bool(fk.is_dead(state.population)):
            raise TargetError(
                f"{type(self).__name__}: after {int(state.step)} of {self.num_moves} steps no "
                f"particle has any weight. The {self.weighs} is -inf, NaN or +inf at all denoised "
                "values: make it finite, or take more particles"
            )
        return _collected(self, target, state.population)

    def log_evidence_error(self, history: dict[str, np.ndarray]) -> float | None:
        if self.exactness == "biased" or self.num_particles == 1:
            return None
        return float(history["log_evidence_error"][-1])

    def notes(self, history: dict[str, np.ndarray]) -> list[str]:
        lost = int(np.max(history["num_illegal"], initial=0))
        if not lost:
            return []
        return [
            f"the {self.weighs} of {lost} particles is NaN or infinite at the worst step; they "
            "count as impossible"
        ]


@eqx.filter_jit
def _collected(sampler: AlongLevels, target: Any, population: fk.Population) -> Any:
    positions = sampler.on_levels(target).positions(population.particles)
    if sampler.exactness == "biased":
        return positions, None, None
    return positions, population.log_weights, fk.log_evidence(population)
