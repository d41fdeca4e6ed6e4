"""Methods that move between levels in a way of their own: chains on the Feynman-Kac engine.

    x_t ~ M_t(x_(t-1), .; y),     log G_t = 0

The data are in the moves, and no weight says how wrong these are: each draw is the end of a chain
of its own, and biased. The loop over levels is that of `samplers.smc.feynman_kac`; a method writes
its start and its move for a single chain, in the coordinates of
`samplers.diffusion.inverse.problem`. Loops inside a move (an inner ordinary differential equation,
Langevin steps) are the method's own.
"""

from abc import abstractmethod
from dataclasses import replace
from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import random
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from ppl.energy import Energy, Position
from ppl.sampler import DirectSampler, Exactness
from samplers.diffusion.inverse.problem import Problem, require_prior
from samplers.diffusion.paths import Level, NoisePath
from samplers.diffusion.sampler import Silent
from samplers.diffusion.schedules import grid
from samplers.smc import feynman_kac as fk


class Rows(NamedTuple):
    """One move, or all of them with a leading axis.

    ``level`` is where it starts and ``next_kappa`` where it arrives, zero in the last; ``inner``
    are levels from there toward the data, for methods that walk them within a move; ``progress``
    goes from 0 to 1.
    """

    level: Level
    next_kappa: Any
    inner: Level
    progress: Any


class ChainModel(fk.FeynmanKac):
    """A method's chains as a Feynman-Kac model without potentials."""

    sampler: Any
    problem: Problem
    first: Rows

    def start(self, rng_key: PRNGKeyArray, n: int) -> tuple[PyTree, Float[Array, " n"]]:
        begin = lambda key: self.sampler.begin(key, self.problem, self.first)
        return jax.vmap(begin)(random.split(rng_key, n)), self._equal(n)

    def advance(
        self, rng_key: PRNGKeyArray, particles: PyTree, row: Rows
    ) -> tuple[PyTree, Float[Array, " n"]]:
        n = len(jax.tree.leaves(particles)[0])
        move = lambda key, state: self.sampler.move(key, self.problem, state, row)
        return jax.vmap(move)(random.split(rng_key, n), particles), self._equal(n)

    def _equal(self, n: int) -> Float[Array, " n"]:
        return jnp.zeros(n, self.problem.prior.point.dtype)


class Chain(DirectSampler):
    """Base of the methods that are a move; each draw is a chain of its own."""

    needs: ClassVar[frozenset[str]] = frozenset({"denoise", "log_likelihood"})
    exactness: ClassVar[Exactness] = "biased"

    num_steps: eqx.AbstractVar[int]
    rows: eqx.AbstractVar[Rows | None]

    @abstractmethod
    def write(self, path: NoisePath) -> Rows:
        """All moves, on the host in float64."""

    @abstractmethod
    def begin(self, rng_key: PRNGKeyArray, problem: Problem, first: Rows) -> PyTree:
        """State of a chain before the first move."""

    @abstractmethod
    def move(self, rng_key: PRNGKeyArray, problem: Problem, state: PyTree, row: Rows) -> PyTree:
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
        if not path.gaussian:
            raise ValueError(
                f"{type(self).__name__} adds noise, and the noises of two levels of "
                f"{type(path).__name__} do not add up: take a Gaussian path such as samplers.EDM()"
            )
        return replace(self, rows=self.write(path))

    def draw(self, rng_key: PRNGKeyArray, target: Any, n: int) -> tuple[Position, None]:
        assert self.rows is not None, "resolve(target) first, as ppl.sample does"
        problem = Problem(target)  # pyright: ignore[reportCallIssue]
        dtype = problem.prior.point.dtype
        rows = jax.tree.map(lambda x: jnp.asarray(x, dtype), self.rows)
        first = jax.tree.map(lambda x: x[0], rows)
        model = ChainModel(self, problem, first)  # pyright: ignore[reportCallIssue]
        never = fk.Resampler(-1.0)
        states = fk.run(rng_key, model, rows, n, never).population.particles
        return jax.vmap(lambda state: problem.position(self.result(state)))(states), None

    def evaluations(self, n: int) -> tuple[int, int]:
        return (0, n * self.num_steps * self.evaluations_per_step)


# Rows -----------------------------------------------------------------------------------------


def levels(path: NoisePath, kappas: Any) -> Level:
    """Levels of a path by their noise in units of the data."""
    return path.level(np.asarray(path.time(-np.log(kappas))))


def down_from(path: NoisePath, kappas: np.ndarray, num_inner: int, rho: float = 7.0) -> Level:
    """From each level ``num_inner`` levels toward the end of the path, the first its own."""
    low = np.minimum(path.level(np.asarray(path.t_min)).kappa, kappas)[:, None] ** (1 / rho)
    high, share = kappas[:, None] ** (1 / rho), np.linspace(0.0, 1.0, num_inner)
    return levels(path, (high + share * (low - high)) ** rho)


def moves(path: NoisePath, kappas: np.ndarray, num_inner: int = 1) -> Rows:
    """Moves from each level to the next and from the last to no noise."""
    return Rows(
        levels(path, kappas),
        np.append(kappas[1:], 0.0),
        down_from(path, kappas, num_inner),
        np.linspace(0.0, 1.0, len(kappas)),
    )


def scheduled(path: NoisePath, schedule: Silent, num_steps: int, num_inner: int = 1) -> Rows:
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
        ratio = kappa / level.kappa
        kept, sd = (ratio**2, kappa * jnp.sqrt(1 - ratio**2)) if noise else (ratio, 0.0)
        eps = random.normal(key, z.shape, z.dtype)
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
        eps = random.normal(key, x.shape, x.dtype)
        return x + step_size * score(x) + jnp.sqrt(2 * step_size) * eps, None

    return jax.lax.scan(step, center, random.split(rng_key, num_steps))[0]
