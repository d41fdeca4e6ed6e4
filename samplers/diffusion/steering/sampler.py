"""What all samplers that steer a diffusion prior have in common: fields, checks, the run.

The target is a reward or a likelihood on a `DiffusionPrior`: ``ppl.tilt(prior, reward)`` or
``ppl.posterior(prior, log_likelihood, *data)``. A population goes along the reverse chain, one step
of the solver a generation; its law and its weights are those of a Feynman-Kac model
(`samplers.diffusion.steering.chain`), which is all that a method has to write. Z is that of the
chain: ``E[exp(reward(x_0))]`` over what the solver draws, not over the law it approximates.
"""

from abc import abstractmethod
from functools import partial
from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import random
from jax.core import Tracer
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from ppl import weights
from ppl.energy import Energy, Position, TargetError
from ppl.sampler import Exactness, ParticleSampler
from samplers.diffusion.prior import DiffusionPrior
from samplers.diffusion.solvers.dpm_pp import DPMSolverPP
from samplers.diffusion.steering.chain import Plan, ReverseChain, ReverseModel, plan, why_no_density
from samplers.diffusion.steering.mixture import ExactReverse, MixtureDenoiser
from samplers.smc import feynman_kac as fk

# The reverse equation to second order. With the noise of `DDPM` and half as many steps its Z is off
# by less than the error of a thousand particles, where that of DDPM is off by some percent.
ReverseSDE = partial(DPMSolverPP, tau=1.0)


class SteeredState(NamedTuple):
    """A population at one level of noise, and the number of steps it has taken."""

    population: fk.Population
    step: Int[Array, ""]


class SteeredInfo(NamedTuple):
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


class Steered(ParticleSampler):
    """A sampler whose particles go along the reverse chain of a diffusion prior.

    A method defines `model`; where it evaluates more than one reward and, for each row of the
    solver, one denoiser a particle and step, `spent` too. ``num_evaluations`` of a run counts
    rewards as log-densities and calls of the denoiser as gradients. Draws of a method that is
    biased have no weights, and it gives no evidence.

    Attributes
    ----------
    num_particles
        Size of the population.
    solver
        Whose steps the moves are; with noise, wherever particles are to part again after they were
        resampled. For a `MixtureDenoiser` it may be `ExactReverse`.
    schedule
        Where it stops: see `samplers.diffusion.schedules`.
    num_steps
        Steps of the solver.
    resample_below
        Resample where the effective sample size is at most this share of the particles.
    resampling
        A scheme of `samplers.smc.resampling`.
    plan
        The steps; `resolve` writes them.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"denoise", "log_likelihood"})
    exactness: ClassVar[Exactness] = "asymptotically exact"
    needs_noise: ClassVar[bool] = True  # particles that were resampled must part
    needs_density: ClassVar[bool] = False  # of the moves
    needs_reward: ClassVar[bool] = True  # or a diffusion prior will do as it is

    num_particles: eqx.AbstractVar[int]
    solver: eqx.AbstractVar[Any]
    schedule: eqx.AbstractVar[Any]
    num_steps: eqx.AbstractVar[int]
    resample_below: eqx.AbstractVar[Any]
    resampling: eqx.AbstractVar[str]
    plan: eqx.AbstractVar[Plan | None]

    def __check_init__(self) -> None:
        fk.check_scheme(self.resampling)

    @abstractmethod
    def model(self, target: Any, chain: ReverseChain) -> ReverseModel:
        """The Feynman-Kac model of this method, for a target."""

    def spent(self) -> tuple[int, int]:
        """Rewards and calls of the denoiser in a step of all particles."""
        assert self.plan is not None
        return self.num_particles, self.num_particles * self.plan.calls_per_step

    # Before a run -------------------------------------------------------------------------------

    def check(self, target: Energy) -> None:
        """Raise unless this is a reward on a diffusion prior, finite where one looks first."""
        name, prior = type(self).__name__, self.prior(target)
        solver = self.solver.value
        if isinstance(solver, ExactReverse) and not isinstance(prior.denoiser, MixtureDenoiser):
            raise TargetError(
                "ExactReverse is the reverse chain of a samplers.MixtureDenoiser; the denoiser of "
                f"this prior is a {type(prior.denoiser).__name__}. Take a solver with noise, such "
                "as samplers.DDPM()"
            )
        written = self.on(target).plan
        assert written is not None
        lacking = why_no_density(written, solver)
        if self.needs_density and lacking:
            raise ValueError(f"{name} weighs moves by their density: {lacking}")
        if self.needs_noise and not written.exact and not np.any(written.steps.rows.S):
            raise ValueError(
                f"{solver} adds no noise, so that copies of a particle of {name} never part; take "
                "a solver that does, such as samplers.DDPM() or samplers.DDIM(eta=1.0)"
            )
        if target is not prior:
            check_reward(target, name)

    def prior(self, target: Any) -> DiffusionPrior:
        """The diffusion prior of a target, which may be the target itself."""
        if isinstance(target, DiffusionPrior) and not self.needs_reward:
            return target
        return prior_of(target, type(self).__name__)

    def on(self, target: Any) -> "Steered":
        """The same with its steps written."""
        path = self.prior(target).path
        steps = plan(path, self.solver.value, self.schedule.value, self.num_steps)
        return eqx.tree_at(lambda s: s.plan, self, steps, is_leaf=lambda x: x is None)

    def resolve(self, target: Energy) -> "Steered":
        return self.on(target)

    # A run --------------------------------------------------------------------------------------

    def at(self, target: Any) -> ReverseModel:
        """The model, on the steps of this sampler."""
        assert self.plan is not None, "resolve(target) first, as ppl.sample does"
        prior = self.prior(target)
        return self.model(target, ReverseChain(prior, self.plan.cast(prior.point.dtype)))

    @property
    def resampler(self) -> fk.Resampler:
        """When and how particles are resampled."""
        return fk.Resampler(self.resample_below, self.resampling)

    def init(self, rng_key: PRNGKeyArray, target: Energy) -> SteeredState:
        particles, log_potentials = self.at(target).start(rng_key, self.num_particles)
        return SteeredState(fk.begin(particles, log_potentials), jnp.zeros((), jnp.int32))

    def step(
        self, rng_key: PRNGKeyArray, target: Energy, state: SteeredState
    ) -> tuple[SteeredState, SteeredInfo]:
        model = self.at(target)
        row = jax.tree.map(lambda x: x[state.step], model.chain.steps)
        population, info = fk.step(rng_key, model, state.population, row, self.resampler)
        # The driver counts steps, so the first one pays for the start.
        spent = jnp.asarray(self.spent(), jnp.int32) * (1 + (state.step == 0))
        return SteeredState(population, state.step + 1), SteeredInfo(
            info.ess,
            info.log_evidence,
            fk.log_evidence_error(population) if self.num_particles > 1 else info.ess * jnp.nan,
            info.resampled,
            info.num_illegal,
            spent,
        )

    def done(self, state: SteeredState) -> Bool[Array, ""]:
        assert self.plan is not None
        return (state.step >= self.plan.num_steps) | fk.is_dead(state.population)

    def collect(
        self, rng_key: PRNGKeyArray, target: Any, state: SteeredState, history: Any
    ) -> tuple[Position, Float[Array, " n"] | None, Float[Array, ""] | None]:
        """Clean particles, weights, log Z; an error where no particle has any weight."""
        population = state.population
        if not isinstance(state.step, Tracer) and bool(fk.is_dead(population)):
            raise TargetError(
                f"{type(self).__name__}: after {int(state.step)} of {self.num_steps} steps no "
                "particle has any weight. The reward is -inf, NaN or +inf at all denoised values: "
                "make it finite, or take more particles"
            )
        positions = self.at(target).chain.positions(population.particles.denoised)
        if self.exactness == "biased":
            return positions, None, None
        return positions, population.log_weights, fk.log_evidence(population)

    def log_evidence_error(self, history: dict[str, np.ndarray]) -> float | None:
        if self.exactness == "biased" or self.num_particles == 1:
            return None
        return float(history["log_evidence_error"][-1])

    def notes(self, history: dict[str, np.ndarray]) -> list[str]:
        lost = int(np.max(history["num_illegal"], initial=0))
        if not lost:
            return []
        return [
            f"the reward of {lost} particles is NaN or infinite at the worst step; they count as "
            "impossible"
        ]


# The door ---------------------------------------------------------------------------------------


def prior_of(target: Any, name: str) -> DiffusionPrior:
    """The diffusion prior of a target; raise where it has none."""
    prior = getattr(target, "prior", None)
    if isinstance(prior, DiffusionPrior):
        return prior
    raise TargetError(
        f"{name} steers the draws of a samplers.DiffusionPrior, as in ppl.tilt(prior, reward) or "
        "ppl.posterior(prior, log_likelihood, *data); the prior of this target is a "
        f"{type(prior).__name__}"
    )


@eqx.filter_jit
def _first_reward(target: Any) -> tuple[Array, Position]:
    """Reward of the first denoised value of one start."""
    prior = target.prior
    level = prior.path.level(jnp.asarray(prior.path.t_max, prior.point.dtype))
    x = level.sigma * prior.noise(random.key(0), 1)[0]
    position = prior.position(prior.center + prior.denoised(x, level))
    return target.log_likelihood(position), position


def check_reward(target: Any, name: str) -> None:
    """Raise where the first reward that is met is no number."""
    leaves = jax.tree.leaves(eqx.filter(target, eqx.is_array))
    if any(isinstance(leaf, Tracer) for leaf in leaves):
        return
    value, position = _first_reward(target)
    if weights.is_illegal(np.asarray(value)):
        finite = all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(position))
        what = "a finite position" if finite else "a denoised value that is not finite itself"
        raise TargetError(
            f"{name}: the reward is {float(value)} at {what}, the first denoised value of the "
            "chain; expected a number, or -inf for what is impossible"
        )
