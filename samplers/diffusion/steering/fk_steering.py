"""Feynman-Kac steering: particles of a reverse chain, resampled by the reward they promise.

    target     p(x_0) exp(r(x_0)) / Z,    r = strength * reward
    weights    prod_t G_t = exp(r(x_0)),  r_t = r(D(x_t)): the reward of the denoised value,
               or a value function of the user's

The potentials G_t decide when a particle pays for its reward, never what it pays in all:

    difference   log G_t = r_t - r_(t+1)
    max          log G_t = max_(s >= t) r_s
    sum          log G_t = sum_(s >= t) r_s

and log G_0 = r(x_0) - sum_(t > 0) log G_t for the last two, which select too early and take it back
at the end. Differences are best where the reward of a denoised value tells that of the draw.
Rewards need no gradient. Weights are carried where nothing is resampled, and Z is unbiased. With a
cheap reward N particles cost 1.06 times N plain draws (1,024 digits in 50 steps).

Asymptotically exact in the number of particles, for what the solver draws: with `ExactReverse` on a
mixture that is the prior, with another solver the prior up to its error.

References
----------
.. [1] Singhal et al., "A general framework for inference-time scaling and steering of diffusion
   models", ICML 2025, arXiv:2501.06848. Section 3 and algorithm 1.
"""

from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from ppl.energy import Energy
from ppl.sampler import Exactness, share, size, where
from samplers.diffusion.rules import Plain, Rule
from samplers.diffusion.sampler import Silent
from samplers.diffusion.schedules import EDMSchedule
from samplers.diffusion.steering.chain import Particle, Plan, ReverseChain, SolverModel, Step
from samplers.diffusion.steering.potentials import Potential, check_potential, potential_of
from samplers.diffusion.steering.sampler import ReverseSDE, Steered
from samplers.diffusion.steering.values import promised

# The model --------------------------------------------------------------------------------------


class FKModel(SolverModel):
    """The reverse chain, weighed by a potential at some of its steps and at the last."""

    chain: ReverseChain
    target: Any
    potentials: Potential
    active: Any  # (T,) whether the potential acts after the step
    value: Any = None
    rule: Rule = eqx.field(default_factory=Plain)

    def begin(self, particle: Particle) -> tuple[PyTree, Float[Array, " n"]]:
        zeros = jnp.zeros(len(particle.x), particle.x.dtype)
        return jax.vmap(self.potentials.init)(zeros), zeros

    def potential(
        self, before: Particle, after: Particle, step: Step
    ) -> tuple[PyTree, Float[Array, " n"]]:
        rewards = promised(self.target, self.chain, self.value, after, step)
        paid = jax.vmap(self.potentials, (0, 0, None))(before.memory, rewards, step.is_last)
        idle = jnp.zeros(len(after.x), after.x.dtype), before.memory
        log_g, memory = where(self.active[step.index], paid, idle)
        return memory, log_g


# The sampler ------------------------------------------------------------------------------------


class FKSteering(Steered):
    """Feynman-Kac steering of a diffusion prior: asymptotically exact, with the evidence.

    Parameters
    ----------
    num_particles
        Size of the population.
    potential
        ``"difference"``, ``"max"``, ``"sum"`` or a `Potential` of your own.
    value
        ``value(y, sigma) -> scalar``, for ``y = x_0 + sigma noise``, in place of the reward of the
        denoised value: an approximation of log E[exp(r(x_0)) | y]; a module, if it has parameters.
    every
        Steps from one potential to the next; there is one after the last step in any case.
    between
        The share of the steps at which the first and the last of the others may act.
    solver
        With noise, such as `DDPM` or ``DPMSolverPP(tau=1.0)``, the default.
    schedule
        See `samplers.diffusion.schedules`.
    num_steps
        Steps of the solver.
    resample_below
        Resample where the effective sample size is at most this share of the particles; 1: always.
    resampling
        ``"stratified"``, ``"systematic"``, ``"multinomial"``, ``"residual"`` or ``"ssp"``.

    Raises
    ------
    TargetError
        For a target that is no reward on a diffusion prior, or a reward that is NaN.
    ValueError
        For a solver without noise, and for potentials that do not multiply to the reward.

    Differences from the paper
    --------------------------
    The published code drops the weights of particles that are not resampled, and lets the last
    potential of max and sum be that of the others: both give another law than the tilted one. Here
    weights are carried, and the last potential settles.
    """

    exactness: ClassVar[Exactness] = "asymptotically exact"

    num_particles: int = size("num_particles", default=1024)
    potential: Any = "difference"
    value: Any = None
    every: int = size("every", default=1)
    between: tuple[float, float] = eqx.field(static=True, default=(0.0, 1.0))
    solver: Silent = eqx.field(static=True, converter=Silent, default_factory=ReverseSDE)
    schedule: Silent = eqx.field(static=True, converter=Silent, default_factory=EDMSchedule)
    num_steps: int = size("num_steps", default=100)
    resample_below: Float[Array, ""] = share("resample_below", default=0.5)
    resampling: str = eqx.field(static=True, default="stratified")
    plan: Plan | None = None

    def __check_init__(self) -> None:
        Steered.__check_init__(self)
        potential_of(self.potential)
        low, high = self.between
        if not 0 <= low <= high <= 1:
            raise ValueError(
                f"between must be two shares of the steps, 0 <= first <= last <= 1; got "
                f"{self.between}"
            )

    def check(self, target: Energy) -> None:
        if isinstance(self.potential, Potential):
            check_potential(self.potential)
        Steered.check(self, target)

    def model(self, target: Any, chain: ReverseChain) -> FKModel:
        active = jnp.asarray(self._active(chain.plan.num_steps))
        return FKModel(  # pyright: ignore[reportCallIssue]
            chain=chain, target=target, potentials=potential_of(self.potential), active=active,
            value=self.value,
        )  # fmt: skip

    def _active(self, num_steps: int) -> np.ndarray:
        done = np.arange(1, num_steps + 1)  # steps behind a particle
        low, high = self.between
        inside = (low * num_steps <= done) & (done <= high * num_steps)
        return (inside & (done % self.every == 0)) | (done == num_steps)
