"""The steps of a solver as the moves of a Feynman-Kac model.

    x_T ~ sigma_T eps,    x_{t-1} ~ M_t(x_t, .): a whole step of a solver, with its noise
    D_t = D(x_t): the denoised value that the step from x_t needs, and potentials look at before

A particle carries D_t, so that a potential at t and the move from t share one call of the denoiser,
and N particles cost little more than N plain draws. `Plan` is what a solver and a schedule make of
a path: steps between its levels, and in each the rows of the solver. `ReverseChain` is the prior on
such a plan: its start, its moves and, where they are Gaussian, their density

    M_t(x, .) = N(m, s^2 I),    m = A x + B D + (history),    s^2 = sum of S^2.

To write a method on it, derive from `SolverModel`, which says what a method may define. Most are
one of two kinds: a rule on the denoised value (`samplers.diffusion.rules.Rule`; it may take a
gradient and leave it in its memory), with the chain's own moves and log G = 0; or a potential.
"""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import random
from jax.scipy.stats import norm
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from ppl.energy import Position
from ppl.sampler import where
from samplers.diffusion import integrate
from samplers.diffusion.chain import ReverseModel, Step, at, steps
from samplers.diffusion.integrate import State
from samplers.diffusion.paths import NoisePath
from samplers.diffusion.prior import DiffusionPrior
from samplers.diffusion.rules import Plain, Rule
from samplers.diffusion.solvers.solver import Solver
from samplers.diffusion.steering.mixture import ExactReverse, MixtureDenoiser
from samplers.diffusion.tables import IN_BETWEEN, Rows, Table

# What a solver does -----------------------------------------------------------------------------


class SolverRows(NamedTuple):
    """What a `Step` of a solver holds ``inside``: its rows, K of them.

    Those that are not ``real`` fill up; ``after`` is the first row of the next step, whose denoised
    value the particles take along.
    """

    rows: Rows
    real: Any
    after: Rows

    @property
    def row(self) -> Rows:
        """The first row of one step, which reads the denoised value of the particles."""
        return at(self.rows, 0)


class Plan(eqx.Module):
    """The steps of a run; ``exact`` where moves are those of a known mixture."""

    steps: Step
    exact: bool = eqx.field(static=True, default=False)

    @property
    def num_steps(self) -> int:
        """Number of moves."""
        return len(self.steps.index)

    @property
    def calls_per_step(self) -> int:
        """Calls of the denoiser in a move."""
        return self.steps.inside.real.shape[1]

    @property
    def rows(self) -> Rows:
        """Those of all steps, (T, K, ...)."""
        return self.steps.inside.rows


def plan(path: NoisePath, solver: Solver, schedule: Any, num_steps: int) -> Plan:
    """The plan of a solver, whose last step is to the denoised value itself.

    Raises
    ------
    ValueError
        For too few steps, a schedule that is none on this path, and noise that does not add up.
    """
    table = solver.table(path, schedule, num_steps)
    if table.rows.S.shape[2]:
        path.require_gaussian(solver, "its reverse chain cannot be steered")
    return Plan(_steps(table), isinstance(solver, ExactReverse))


def _steps(table: Table) -> Step:
    grid, rows = table
    ends = np.flatnonzero(rows.arrives != IN_BETWEEN)
    starts = np.concatenate([[0], ends[:-1] + 1])
    width = int(np.max(ends - starts)) + 1
    places = starts[:, None] + np.arange(width)
    real = places <= ends[:, None]
    inside = SolverRows(
        at(rows, np.minimum(places, ends[:, None])),
        real,
        at(rows, np.minimum(ends + 1, len(rows.F) - 1)),
    )
    return steps(grid, inside)


def why_no_density(plan: Plan, solver: Solver) -> str | None:
    """What keeps the moves of a solver from having a density; None: they have one.

    The last of them, to the denoised value, never has.
    """
    if plan.exact:
        return None
    rows = plan.rows
    noise = np.sum(np.asarray(rows.S) ** 2, axis=-1)  # (T, K, registers)
    advice = "take one that does, such as samplers.DDPM() or samplers.DDIM(eta=1.0)"
    if not noise.any():
        return f"{solver} adds no noise; {advice}"
    if plan.calls_per_step > 1 or rows.A.shape[-1] > 1:
        return f"a step of {solver} is no Gaussian; take one of a single stage, samplers.DDPM()"
    silent = np.flatnonzero(noise[:-1, 0, 0] == 0)
    if len(silent):
        return f"{solver} adds no noise in step {silent[0]}; {advice}"
    return None


# The chain --------------------------------------------------------------------------------------


class Particle(NamedTuple):
    """Particles at one level: solver state, D of the next row, memories of rule and potential.

    At the end ``denoised`` is the draw itself. All have a leading axis.
    """

    state: State
    denoised: Float[Array, "n ..."]
    carry: PyTree
    memory: PyTree

    @property
    def x(self) -> Float[Array, "n ..."]:
        """The points, at the particles' level, relative to the path's center."""
        return self.state.x


class ReverseChain(eqx.Module):
    """A diffusion prior on a plan.

    Points are those of the path (`DiffusionPrior.flat`), relative to its center, with a leading
    axis; ``positions`` makes them positions.
    """

    prior: DiffusionPrior
    plan: Plan

    @property
    def steps(self) -> Step:
        """What to run the model with: ``fk.run(key, model, chain.steps, n, resampler)``."""
        return self.plan.steps

    @property
    def first(self) -> Step:
        """The first step."""
        return at(self.steps, 0)

    def start(self, rng_key: PRNGKeyArray, n: int) -> Float[Array, "n ..."]:
        """Points of the highest level: noise, or with exact moves the exact law."""
        level = self.first.start
        key_noise, key_data = random.split(rng_key)
        x = level.sigma * self.prior.noise(key_noise, n)
        if self.plan.exact:
            x = x + level.alpha * self.mixture.sample(key_data, n)
        return x

    def denoise(
        self, state: State, carry: PyTree, row: Rows, rule: Rule
    ) -> tuple[Float[Array, "n ..."], PyTree]:
        """Denoised values at a row, and what the rule remembers."""
        return integrate.denoise(self.prior.denoised, state.x, row, carry, rule)

    def move(
        self, rng_key: PRNGKeyArray, particle: Particle, step: Step, rule: Rule
    ) -> tuple[State, PyTree]:
        """A draw from M_t: the whole step, its further rows calling the denoiser again."""
        if self.plan.exact:
            return self._move_exactly(rng_key, particle, step), particle.carry
        state = integrate.advance(rng_key, particle.state, particle.denoised, step.inside.row)
        carry = particle.carry
        for k in range(1, self.plan.calls_per_step):
            row = at(step.inside.rows, k)
            denoised, remembered = self.denoise(state, carry, row, rule)
            moved = integrate.advance(rng_key, state, denoised, row)
            state, carry = where(step.inside.real[k], (moved, remembered), (state, carry))
        return state, carry

    # Moves of a single row ----------------------------------------------------------------------

    def mean(self, particle: Particle, step: Step) -> State:
        """The state after the step, but for its noise: the mean of M_t and the new history."""
        return integrate.mean(particle.state, particle.denoised, step.inside.row)

    def gain(self, step: Step) -> Float[Array, ""]:
        """How far the mean moves when the denoised value does, and those before it as much.

        A multistep solver extrapolates: by its weight of the last value alone, a move along a
        gradient would overshoot.
        """
        return jnp.sum(step.inside.row.B[0]) * step.inside.row.G[1]

    def sd(self, step: Step) -> Float[Array, ""]:
        """Standard deviation of the noise of a step, 0 in the last one.

        Exact moves are no Gaussian; what comes back is that of the forward noise of the step, which
        is larger than any component's where steps are small.
        """
        if self.plan.exact:
            return step.end.alpha * jnp.sqrt(step.start.kappa**2 - step.end.kappa**2)
        return jnp.sqrt(jnp.sum(step.inside.row.S[0] ** 2))

    def log_move(
        self, particle: Particle, x: Float[Array, "n ..."], step: Step
    ) -> Float[Array, " n"]:
        """Log M_t(x_t, x), which is meaningless in the last step (see `why_no_density`)."""
        if self.plan.exact:
            start, end = step.start, step.end
            fn = jax.vmap(self.mixture.log_reverse, (0, None, 0, None))
            value = fn(particle.x / start.alpha, start.kappa, x / end.alpha, end.kappa)
            return value - self.size * jnp.log(end.alpha)
        return log_normal(x, self.mean(particle, step).x, self.sd(step))

    # Points and positions -----------------------------------------------------------------------

    def positions(self, points: Float[Array, "n ..."]) -> Position:
        """Positions of clean points, denoised values among them."""
        return jax.vmap(lambda point: self.prior.position(self.prior.center + point))(points)

    @property
    def size(self) -> int:
        """Number of coordinates."""
        return self.prior.point.size

    @property
    def mixture(self) -> MixtureDenoiser:
        """The mixture that the prior is, where moves are exact."""
        assert isinstance(self.prior.denoiser, MixtureDenoiser)
        return self.prior.denoiser

    def _move_exactly(self, rng_key: PRNGKeyArray, particle: Particle, step: Step) -> State:
        start, end = step.start, step.end
        keys = random.split(rng_key, len(particle.x))
        fn = jax.vmap(self.mixture.reverse, (0, 0, None, None))
        y = fn(keys, particle.x / start.alpha, start.kappa, end.kappa)
        return State((end.alpha * y,), ())


def log_normal(x: Array, mean: Array, sd: Array) -> Float[Array, " n"]:
    """Log-density of each point under N(mean, sd^2 I)."""
    values = norm.logpdf(x, mean, sd)
    return jnp.sum(values.reshape(len(x), -1), axis=1)


# The model --------------------------------------------------------------------------------------


class SolverModel(ReverseModel):
    """A model whose moves are those of a solver.

    What a method may define; by default it is the chain itself, whose potentials are all one:

    ``rule``
        What is done to each denoised value: ``rule(denoiser, x, row, carry) -> (D, carry)`` of one
        point. The value goes into the move and to the potential. A rule that only looks (a twist
        and its gradient, say) returns D as it is and leaves the rest in ``particle.carry``.
    ``points(rng_key, n)``
        Where particles start: M_T.
    ``begin(particle) -> (memory, log G_T)``
        What the potential remembers of the start, and the first weights.
    ``move(rng_key, before, step) -> (state, carry, log_ratio)``
        x_{t-1} from a proposal q, with log p - log q of the moves: 0 where q is the chain's own.
    ``potential(before, after, step) -> (memory, log G_t)``
        Here ``after.denoised`` is D of the next row, and after the last step the draw.
    """

    chain: eqx.AbstractVar[ReverseChain]
    rule: eqx.AbstractVar[Any]  # a Rule

    @property
    def steps(self) -> Step:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Those of the chain."""
        return self.chain.steps

    def positions(self, particles: Particle) -> Position:
        return self.chain.positions(particles.denoised)

    def points(self, rng_key: PRNGKeyArray, n: int) -> Float[Array, "n ..."]:
        """The chain's own start."""
        return self.chain.start(rng_key, n)

    def begin(self, particle: Particle) -> tuple[PyTree, Float[Array, " n"]]:
        """Nothing to remember, and equal weights."""
        return (), jnp.zeros(len(particle.x), particle.x.dtype)

    def move(
        self, rng_key: PRNGKeyArray, before: Particle, step: Step
    ) -> tuple[State, PyTree, Any]:
        """The chain's own move."""
        return *self.chain.move(rng_key, before, step, self.rule), 0.0

    def potential(
        self, before: Particle, after: Particle, step: Step
    ) -> tuple[PyTree, Float[Array, " n"]]:
        """One."""
        return before.memory, jnp.zeros(len(after.x), after.x.dtype)

    # The contract of the engine -----------------------------------------------------------------

    def start(self, rng_key: PRNGKeyArray, n: int) -> tuple[Particle, Float[Array, " n"]]:
        first = self.chain.first.inside.row
        state = integrate.start(self.points(rng_key, n), first)
        denoised, carry = self.chain.denoise(
            state, jax.vmap(self.rule.init)(state.x), first, self.rule
        )
        particle = Particle(state, denoised, carry, ())
        memory, log_potentials = self.begin(particle)
        return particle._replace(memory=memory), log_potentials

    def advance(
        self, rng_key: PRNGKeyArray, particles: Particle, row: Step
    ) -> tuple[Particle, Float[Array, " n"]]:
        state, carry, log_ratio = self.move(rng_key, particles, row)
        after = self.arrived(state, carry, row)
        memory, log_potentials = self.potential(particles, after, row)
        return after._replace(memory=memory), log_potentials + log_ratio

    def arrived(self, state: State, carry: PyTree, step: Step) -> Particle:
        """Particles at the end of a step: denoised for the next one, or clean."""
        # No cond: with a step for each of several runs, as the driver has it, JAX would copy all
        # that is closed over for each run, the network's weights too, and products get slow.
        clean = state.x / step.end.alpha, carry
        noisy = self.chain.denoise(state, carry, step.inside.after, self.rule)
        denoised, carry = where(step.is_last, clean, noisy)
        return Particle(state, denoised, carry, ())


class PlainModel(SolverModel):
    """The reverse chain under a rule, without weights: log G = 0."""

    chain: ReverseChain
    rule: Rule = eqx.field(default_factory=Plain)
