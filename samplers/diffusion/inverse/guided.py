"""Methods that replace the denoised value by one that knows the data: rules on any solver.

    D' = D'(z, y),     x' = one step of a solver with D' in place of D

The data are in the moves, and log G = 0: a Feynman-Kac model whose moves are the rows of the
solver's table (`samplers.diffusion.integrate`). A method is its `Guide`, written for a single point
in the coordinates of `samplers.diffusion.inverse.problem`. Where a method moves the point after the
step instead, the move is one of the denoised value, divided by its weight in the step: that takes a
solver whose step uses one value only.
"""

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from ppl.energy import Energy, Position
from ppl.sampler import DirectSampler, Exactness, size
from samplers.diffusion import integrate
from samplers.diffusion.inverse.problem import Problem, require_prior
from samplers.diffusion.paths import Level
from samplers.diffusion.rules import Rule
from samplers.diffusion.sampler import Silent
from samplers.diffusion.schedules import EDMSchedule
from samplers.diffusion.solvers.ddim import DDPM, contract
from samplers.diffusion.solvers.solver import Solver
from samplers.diffusion.tables import DENOISED, Grid, Rows, Table, Writer
from samplers.smc import feynman_kac as fk


class Step(NamedTuple):
    """One step: ``z' = (1 - weight) z + weight D + noise``, from kappa to kappa'."""

    kappa: Array
    next_kappa: Array
    weight: Array


class Guide(Rule):
    """A rule in the coordinates of points: ``guided(denoise, z, step) -> D'``."""

    problem: Problem

    @abstractmethod
    def guided(self, denoise: Callable[[Array], Array], z: Array, step: Step) -> Array:
        """The denoised value that knows the data."""

    def __call__(self, denoiser: Any, x: Array, row: Any, carry: PyTree) -> tuple[Array, PyTree]:
        level = row.level
        # Every table carries a point of data and pure noise exactly: that tells where it arrives.
        kept, taken = row.A[0, 0] * level.alpha, row.B[0, 0]
        alpha = kept + taken
        variance = (row.A[0, 0] * level.sigma) ** 2 + jnp.sum(row.S[0] ** 2)
        step = Step(level.kappa, jnp.sqrt(variance) / alpha, taken / alpha)
        denoise = lambda z: denoiser(level.alpha * z, level)
        return self.guided(denoise, x / level.alpha, step), carry


class GuidedModel(fk.FeynmanKac):
    """The rows of a table under a rule, without potentials: each particle is a chain of its own."""

    guide: Guide
    grid: Level
    rows: Rows

    def start(self, rng_key: PRNGKeyArray, n: int) -> tuple[PyTree, Float[Array, " n"]]:
        noise = self.guide.problem.prior.noise(rng_key, n)
        x = jnp.asarray(self.grid.sigma[0], noise.dtype) * noise
        state = integrate.start(x, self.rows)
        return (state, jax.vmap(self.guide.init)(x)), jnp.zeros(n, x.dtype)

    def advance(
        self, rng_key: PRNGKeyArray, particles: PyTree, row: Rows
    ) -> tuple[PyTree, Float[Array, " n"]]:
        state, carry = particles
        denoiser = self.guide.problem.prior.denoised
        denoised, carry = integrate.denoise(denoiser, state.x, row, carry, self.guide)
        state = integrate.advance(rng_key, state, denoised, row)
        return (state, carry), jnp.zeros(len(state.x), state.x.dtype)

    def positions(self, particles: PyTree) -> Position:
        """Positions of particles that have arrived."""
        z = particles[0].x / jnp.asarray(self.grid.alpha[-1], particles[0].x.dtype)
        return jax.vmap(self.guide.problem.position)(z)


class Guided(DirectSampler):
    """Base of the methods that are a rule; each draw is a chain of its own."""

    needs: ClassVar[frozenset[str]] = frozenset({"denoise", "log_likelihood"})
    exactness: ClassVar[Exactness] = "biased"
    any_solver: ClassVar[bool] = True

    solver: eqx.AbstractVar[Silent]
    num_steps: eqx.AbstractVar[int]
    schedule: eqx.AbstractVar[Silent]
    table: eqx.AbstractVar[Table | None]

    @abstractmethod
    def guide(self, problem: Problem) -> Guide:
        """The rule."""

    @property
    @abstractmethod
    def evaluations_per_step(self) -> int:
        """Calls of the denoiser and of its transposed derivative in a step, at most."""

    def check(self, target: Energy) -> None:
        require_prior(target, type(self).__name__)

    def resolve(self, target: Any) -> "Guided":
        path = target.prior.path
        table = self.solver.value.table(path, self.schedule.value, self.num_steps)
        rows, name = table.rows, type(self).__name__
        if rows.S.shape[2]:
            path.require_gaussian(self.solver, "take a deterministic solver")
        single = rows.B.shape[1:] == (1, 1) and np.all(rows.G == DENOISED)
        if not (self.any_solver or single):
            raise ValueError(
                f"{name} moves the point after each step, so that it takes a solver whose step "
                f"uses one denoised value: samplers.DDPM() or samplers.DDIM(); got {self.solver}"
            )
        return replace(self, table=table)

    def draw(self, rng_key: PRNGKeyArray, target: Any, n: int) -> tuple[Position, None]:
        assert self.table is not None, "resolve(target) first, as ppl.sample does"
        problem, (grid, rows) = Problem(target), self.table  # pyright: ignore[reportCallIssue]
        rows = integrate.cast(rows, problem.prior.point.dtype)
        model = GuidedModel(guide=self.guide(problem), grid=grid, rows=rows)
        run = fk.run(rng_key, model, rows, n, fk.Resampler(None))
        return model.positions(run.population.particles), None

    def evaluations(self, n: int) -> tuple[int, int]:
        assert self.table is not None, "resolve(target) first, as ppl.sample does"
        return (0, n * len(self.table.rows.F) * self.evaluations_per_step)


@dataclass(frozen=True)
class Renoise(Solver):
    """Data under new noise, for the share ``share`` of its variance: ``r^2 = 1 - share`` of DDIM's.

    x' = alpha' (D + kappa' (sqrt(share) z + sqrt(1 - share) (x / alpha - D) / kappa))
    """

    share: float = 1.0

    def write(self, writer: Writer, grid: Grid) -> None:
        contract(writer, grid, np.sqrt(1 - self.share) * grid.kappa[1:] / grid.kappa[:-1])


def solver(default: Callable[[], Any] = DDPM) -> Any:
    """Field: a solver, whose table is data."""
    return eqx.field(static=True, converter=Silent, default_factory=default)


def schedule() -> Any:
    """Field: where the solver stops."""
    return eqx.field(static=True, converter=Silent, default_factory=EDMSchedule)


def batch_size(default: int = 64) -> Any:
    """Field: chains that run at the same time."""
    return size("batch_size", default=default, kw_only=True)
