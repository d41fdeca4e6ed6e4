"""Methods that move between levels in a way of their own, for one point at a time.

    x_(t-1) ~ M_t(x_t, .; y),     log G_t = 0

The data are in the moves, and no weight says how wrong these are: each draw is the end of a chain
of its own, and biased. The model is one of `samplers.diffusion.chain`; a method writes its start
and its move for a single chain, in the coordinates of `samplers.diffusion.inverse.problem`. Loops
inside a move (an inner ordinary differential equation, Langevin steps) are the method's own.
"""

from abc import abstractmethod
from dataclasses import replace
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import random
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from ppl.energy import Energy, Position
from ppl.noise import normal
from ppl.sampler import DirectSampler, Exactness
from samplers.diffusion.chain import ReverseModel, Step, ancestral, cast, steps
from samplers.diffusion.inverse.problem import Problem, require_prior
from samplers.diffusion.paths import Level, NoisePath
from samplers.diffusion.sampler import Silent
from samplers.diffusion.schedules import grid
from samplers.diffusion.solvers.solver import CLEAN
from samplers.smc import feynman_kac as fk


class PointModel(ReverseModel):
    """A method's chains of single points as a Feynman-Kac model without potentials."""

    sampler: Any
    problem: Problem
    steps: Step

    def start(self, rng_key: PRNGKeyArray, n: int) -> tuple[PyTree, Float[Array, " n"]]:
        begin = lambda key: self.sampler.begin(key, self.problem, self.first)
        return jax.vmap(begin)(random.split(rng_key, n)), self._equal(n)

    def advance(
        self, rng_key: PRNGKeyArray, particles: PyTree, row: Step
    ) -> tuple[PyTree, Float[Array, " n"]]:
        n = len(jax.tree.leaves(particles)[0])
        move = lambda key, state: self.sampler.move(key, self.problem, state, row)
        return jax.vmap(move)(random.split(rng_key, n), particles), self._equal(n)

    def positions(self, particles: PyTree) -> Position:
        return jax.vmap(lambda x: self.problem.position(self.sampler.result(x)))(particles)

    def _equal(self, n: int) -> Float[Array, " n"]:
        return jnp.zeros(n, self.problem.prior.point.dtype)


class Chain(DirectSampler):
    """Base of the methods that are a move; each draw is a chain of its own."""

    needs: ClassVar[frozenset[str]] = frozenset({"denoise", "log_likelihood"})
    exactness: ClassVar[Exactness] = "biased"

    num_steps: eqx.AbstractVar[int]
    steps: eqx.AbstractVar[Step | None]

    @abstractmethod
    def write(self, path: NoisePath) -> Step:
        """All moves, on the host in float64."""

    @abstractmethod
    def begin(self, rng_key: PRNGKeyArray, problem: Problem, first: Step) -> PyTree:
        """State of a chain before the first move."""

    @abstractmethod
    def move(self, rng_key: PRNGKeyArray, problem: Problem, state: PyTree, step: Step) -> PyTree:
        """State after one move."""

    def result(self, state: PyTree) -> Array:
        """The draw, of a chain that has arrived; by default its state."""
        return state

    @property
    @abstractmethod
    def evaluations_per_step(self) -> int:
        """Calls of the denoiser and of its derivatives in a move, at most."""

    def check(self, target: Energy) -> None:
        require_prior(target, type(self).__name__)

    def resolve(self, target: Any) -> "Chain":
        path = target.prior.path
        path.require_gaussian(type(self).__name__, "take a Gaussian path such as samplers.EDM()")
        return replace(self, steps=self.write(path))

    def draw(self, rng_key: PRNGKeyArray, target: Any, n: int) -> tuple[Position, None]:
        problem, steps = on_steps(target, self.steps)
        model = PointModel(sampler=self, problem=problem, steps=steps)
        run = fk.run(rng_key, model, steps, n, fk.Resampler(None))
        return model.positions(run.population.particles), None

    def evaluations(self, n: int) -> tuple[int, int]:
        return (0, n * self.num_steps * self.evaluations_per_step)


# Steps ----------------------------------------------------------------------------------------


def on_steps(target: Any, written: Step | None) -> tuple[Problem, Step]:
    """The problem, and the steps in the number format of its points."""
    assert written is not None, "resolve(target) first, as ppl.sample does"
    problem = Problem(target)  # pyright: ignore[reportCallIssue]
    return problem, cast(written, problem.prior.point.dtype)


def levels(path: NoisePath, kappas: Any) -> Level:
    """Levels of a path by their noise in units of the data."""
    return path.level(np.asarray(path.time(-np.log(kappas))))


def down_from(path: NoisePath, kappas: np.ndarray, num_inner: int, rho: float = 7.0) -> Level:
    """From each level ``num_inner`` levels toward the end of the path, the first its own."""
    low = np.minimum(path.level(np.asarray(path.t_min)).kappa, kappas)[:, None] ** (1 / rho)
    high, share = kappas[:, None] ** (1 / rho), np.linspace(0.0, 1.0, num_inner)
    return levels(path, (high + share * (low - high)) ** rho)


def moves(path: NoisePath, kappas: np.ndarray, num_inner: int = 1) -> Step:
    """Moves from each level to the next and from the last to no noise.

    ``inside`` are levels from their start toward the data, for methods that walk them in a move.
    """
    grid = jax.tree.map(np.append, levels(path, kappas), CLEAN)
    return steps(grid, inside=down_from(path, kappas, num_inner))


def scheduled(path: NoisePath, schedule: Silent, num_steps: int, num_inner: int = 1) -> Step:
    """The moves of a schedule, as `DiffusionSampler` takes one."""
    if num_steps < 2:
        raise ValueError(f"num_steps must be an integer, at least 2; got {num_steps}")
    return moves(path, grid(path, schedule.value, num_steps - 1).kappa, num_inner)


# Steps within a move ----------------------------------------------------------------------------


def walk(rng_key: PRNGKeyArray, problem: Problem, z: Array, inner: Level, *, noise: bool) -> Array:
    """From a point at the first of these levels to the data: the reverse equation, first order.

    With noise its steps are those of DDPM, a draw of the data given the point as they get small;
    without it those of the probability flow.
    """
    after = jnp.append(inner.kappa[1:], 0.0)
    keys = random.split(rng_key, len(after))

    def step(z: Array, at: Any) -> tuple[Array, None]:
        level, kappa, key = at
        kept, sd = ancestral(level.kappa, kappa) if noise else (kappa / level.kappa, 0.0)
        eps = normal(key, z.shape, z.dtype)
        return kept * z + (1 - kept) * problem.denoise(z, level) + sd * eps, None

    return jax.lax.scan(step, z, (inner, after, keys))[0]


def langevin(
    rng_key: PRNGKeyArray,
    log_likelihood: Any,
    center: Array,
    variance: Array,
    step_size: Array,
    num_steps: int,
) -> Array:
    """Langevin steps on ``N(center, variance I)`` times a likelihood, from its center."""
    score = lambda x: jax.grad(log_likelihood)(x) - (x - center) / variance

    def step(x: Array, key: PRNGKeyArray) -> tuple[Array, None]:
        eps = normal(key, x.shape, x.dtype)
        return x + step_size * score(x) + jnp.sqrt(2 * step_size) * eps, None

    return jax.lax.scan(step, center, random.split(rng_key, num_steps))[0]
