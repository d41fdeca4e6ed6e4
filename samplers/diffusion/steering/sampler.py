"""What all samplers that steer a diffusion prior have in common: fields, checks, the run.

The target is a reward or a likelihood on a `DiffusionPrior`: ``ppl.tilt(prior, reward)`` or
``ppl.posterior(prior, log_likelihood, *data)``. A population goes along the reverse chain, one step
of the solver a generation; its law and its weights are those of a Feynman-Kac model
(`samplers.diffusion.steering.chain`), which is all that a method has to write. Z is that of the
chain: ``E[exp(reward(x_0))]`` over what the solver draws, not over the law it approximates.
"""

from abc import abstractmethod
from functools import partial
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import random
from jax.core import Tracer
from jaxtyping import Array

from ppl import weights
from ppl.energy import Energy, Position, TargetError
from samplers.diffusion.chain import AlongLevels, cast
from samplers.diffusion.prior import DiffusionPrior
from samplers.diffusion.solvers.dpm_pp import DPMSolverPP
from samplers.diffusion.steering.chain import Plan, ReverseChain, SolverModel, plan, why_no_density
from samplers.diffusion.steering.mixture import ExactReverse, MixtureDenoiser

# The reverse equation to second order. With the noise of `DDPM` and half as many steps its Z is off
# by less than the error of a thousand particles, where that of DDPM is off by some percent.
ReverseSDE = partial(DPMSolverPP, tau=1.0)


class Steered(AlongLevels):
    """A sampler whose particles go along the reverse chain of a diffusion prior.

    A method defines `model`; where it evaluates more than one reward and, for each row of the
    solver, one denoiser a particle and step, `spent` too. ``num_evaluations`` of a run counts
    rewards as log-densities and calls of the denoiser as gradients.

    Attributes
    ----------
    solver
        Whose steps the moves are; with noise, wherever particles are to part again after they were
        resampled. For a `MixtureDenoiser` it may be `ExactReverse`.
    schedule
        Where it stops: see `samplers.diffusion.schedules`.
    num_steps
        Steps of the solver.
    plan
        The steps; `resolve` writes them.
    """

    weighs: ClassVar[str] = "reward"
    needs_noise: ClassVar[bool] = True  # particles that were resampled must part
    needs_density: ClassVar[bool] = False  # of the moves
    needs_reward: ClassVar[bool] = True  # or a diffusion prior will do as it is

    solver: eqx.AbstractVar[Any]
    schedule: eqx.AbstractVar[Any]
    num_steps: eqx.AbstractVar[int]
    plan: eqx.AbstractVar[Plan | None]

    @abstractmethod
    def model(self, target: Any, chain: ReverseChain) -> SolverModel:
        """The Feynman-Kac model of this method, for a target."""

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
        if target is not prior:
            check_reward(target, name)

    def prior(self, target: Any) -> DiffusionPrior:
        """The diffusion prior of a target, which may be the target itself."""
        if isinstance(target, DiffusionPrior) and not self.needs_reward:
            return target
        return prior_of(target, type(self).__name__)

    def resolve(self, target: Energy) -> "Steered":
        path = self.prior(target).path
        written = plan(path, self.solver.value, self.schedule.value, self.num_steps)
        self.check_plan(written)
        return eqx.tree_at(lambda s: s.plan, self, written, is_leaf=lambda x: x is None)

    def check_plan(self, written: Plan) -> None:
        """Raise unless the steps of the solver are those that the method needs."""
        name, solver = type(self).__name__, self.solver.value
        lacking = why_no_density(written, solver)
        if self.needs_density and lacking:
            raise ValueError(f"{name} weighs moves by their density: {lacking}")
        if self.needs_noise and not written.exact and not np.any(written.rows.S):
            raise ValueError(
                f"{solver} adds no noise, so that copies of a particle of {name} never part; take "
                "a solver that does, such as samplers.DDPM() or samplers.DDIM(eta=1.0)"
            )

    # A run --------------------------------------------------------------------------------------

    @property
    def written(self) -> Plan:
        """The steps, once they are there."""
        assert self.plan is not None, "resolve(target) first, as ppl.sample does"
        return self.plan

    @property
    def num_moves(self) -> int:
        return self.written.num_steps

    def spent(self) -> tuple[int, int]:
        return self.num_particles, self.num_particles * self.written.calls_per_step

    def on_levels(self, target: Any) -> SolverModel:
        prior = self.prior(target)
        return self.model(target, ReverseChain(prior, cast(self.written, prior.point.dtype)))


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
