"""Filtering posterior sampling (FPS-SMC): a noisy path of the data, and a particle filter on it.

    y_T = y + kappa A eps,    y_t' = y + r (y_t - y) + w A eps            the path, drawn first
    z' ~ p(z' | z) p(y_t' | z'),  p(y_t | z) = N(y_t; A z, noise_std^2 I)
    log G = log N(y_t'; A m, noise_std^2 I + w^2 A A'),  known at z, before the move

with m = (1 - r') z + r' D and w = eta kappa' the step of DDIM, r = sqrt(1 - eta^2) kappa' / kappa.
The path of the data is what they would be under the noise of the chain, so that every step has a
Gaussian likelihood and an optimal proposal. No derivative of the denoiser is needed, and none of
the singular values: the equations are those of `LinearGaussian`.

**The spread of the draws lies between paths, not within one.** A run follows one path and leaves a
cloud of particles that says little of the posterior, so that each draw here is one particle of a
run of its own: draws are independent, and each costs ``num_particles`` chains. A path has no
evidence of the data, so there is none here.

Biased, also with infinitely many particles: the noise of the data is the same at all levels, and
the filter takes it for new in each. It believes the data once a step, and what they say of x comes
out too narrow, the more so the more steps; as noise_std falls to zero the difference vanishes. With
a Gaussian prior of unit size and noise of 0.3 the sd along the data is 0.11 with 50 steps and 0.08
with 1,000, where the posterior has 0.29.

References
----------
.. [1] Dou and Song, "Diffusion posterior sampling for linear inverse problem solving: a filtering
   perspective", ICLR 2024, https://openreview.net/forum?id=tplXNcHZs1. Algorithm 2.
"""

from dataclasses import replace
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax, random
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from ppl.energy import Energy, Position
from ppl.noise import normal
from ppl.sampler import DirectSampler, Exactness, share, size
from samplers.diffusion.chain import ReverseModel, Step, at
from samplers.diffusion.inverse.chain import on_steps, scheduled
from samplers.diffusion.inverse.guided import batch_size, schedule
from samplers.diffusion.inverse.problem import Problem, require_linear, require_prior
from samplers.diffusion.sampler import Silent
from samplers.smc import feynman_kac as fk


class Filtered(NamedTuple):
    """Particles, and the means of the moves that they are about to make."""

    z: Float[Array, "n ..."]
    mean: Float[Array, "n ..."]


class Filter(ReverseModel):
    """The model of the module, on one path of the data: at the start, and after each step."""

    problem: Problem
    steps: Step
    eta: Float[Array, ""]
    at_start: PyTree
    after: PyTree

    def promise(self, z: Array, step: Step) -> tuple[Array, Float[Array, " n"]]:
        """Means of the moves from z, and their weights."""
        likelihood = self.problem.likelihood.given(at(self.after, step.index))
        kept, sd = partly_new(step, self.eta)

        def one(z: Array) -> tuple[Array, Array]:
            mean = kept * z + (1 - kept) * self.problem.denoise(z, step.start)
            return mean, -likelihood.misfit_given(self.problem.position(mean), sd**2) / 2

        return jax.vmap(one)(z)

    def drawn(self, rng_key: PRNGKeyArray, mean: Array, sd: Array, observed: PyTree) -> Array:
        """Draws of ``N(mean, sd^2 I)`` given the data of a level."""
        likelihood, problem = self.problem.likelihood.given(observed), self.problem
        one = lambda key, mean: problem.point(
            likelihood.draw_given(key, problem.position(mean), sd**2)
        )
        return jax.vmap(one)(random.split(rng_key, len(mean)), mean)

    def start(self, rng_key: PRNGKeyArray, n: int) -> tuple[Filtered, Float[Array, " n"]]:
        point = self.problem.prior.point
        zero = jnp.zeros((n, *point.shape), point.dtype)
        z = self.drawn(rng_key, zero, self.first.start.kappa, self.at_start)
        mean, log_potentials = self.promise(z, self.first)
        return Filtered(z, mean), log_potentials

    def advance(
        self, rng_key: PRNGKeyArray, particles: Filtered, row: Step
    ) -> tuple[Filtered, Float[Array, " n"]]:
        _, sd = partly_new(row, self.eta)
        z = self.drawn(rng_key, particles.mean, sd, at(self.after, row.index))
        mean, log_potentials = lax.cond(
            row.is_last,
            lambda: (z, jnp.zeros(len(z), z.dtype)),
            lambda: self.promise(z, at(self.steps, row.index + 1)),
        )
        return Filtered(z, mean), log_potentials

    def positions(self, particles: Filtered) -> Position:
        return jax.vmap(self.problem.position)(particles.z)


def partly_new(step: Step, eta: Array) -> tuple[Array, Array]:
    """Share of the point and sd of the noise in a step of DDIM, with a share of it new."""
    kappa, after = step.start.kappa, step.end.kappa
    eta = eta.astype(after.dtype)
    return jnp.sqrt(1 - eta**2) * after / kappa, eta * after


class FPSSMC(DirectSampler):
    """Filtering posterior sampling: biased, for linear observations.

    Parameters
    ----------
    num_particles
        Particles of the run that each draw comes from.
    eta
        Share of the standard deviation of the noise that is drawn anew in a step.
    schedule, num_steps
        As in `DiffusionSampler`.
    batch_size
        Runs at the same time.

    Raises
    ------
    TargetError
        For a target that is no posterior under a diffusion prior, a likelihood that is not linear,
        and noise of zero.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"denoise", "log_likelihood"})
    exactness: ClassVar[Exactness] = "biased"

    num_particles: int = size("num_particles", minimum=2, default=20)
    eta: Float[Array, ""] = share("eta", default=0.85)
    schedule: Silent = schedule()
    num_steps: int = size("num_steps", default=100)
    batch_size: int = batch_size()  # pyright: ignore[reportIncompatibleVariableOverride]
    steps: Step | None = None

    def check(self, target: Energy) -> None:
        require_prior(target, "FPSSMC")
        require_linear(target, "FPSSMC")

    def resolve(self, target: Any) -> "FPSSMC":
        return replace(self, steps=scheduled(target.prior.path, self.schedule, self.num_steps))

    def draw(self, rng_key: PRNGKeyArray, target: Any, n: int) -> tuple[Position, None]:
        problem, steps = on_steps(target, self.steps)
        one = lambda key: self._one(key, problem, steps)
        return jax.vmap(one)(random.split(rng_key, n)), None

    def _one(self, rng_key: PRNGKeyArray, problem: Problem, steps: Step) -> Position:
        key_path, key_run, key_choice = random.split(rng_key, 3)
        at_start, after = self.path(key_path, problem, steps)
        model = Filter(problem=problem, steps=steps, eta=self.eta, at_start=at_start, after=after)
        population = fk.run(key_run, model, steps, self.num_particles, fk.Resampler(0.5)).population
        chosen = random.categorical(key_choice, population.log_weights, mode="high")
        return at(model.positions(population.particles), chosen)

    def path(self, rng_key: PRNGKeyArray, problem: Problem, steps: Step) -> tuple[PyTree, PyTree]:
        """The data at the first level, and after each step, the last as they are."""
        point, likelihood = problem.prior.point, problem.likelihood
        noise = lambda key: problem.forward(normal(key, point.shape, point.dtype))
        add = lambda a, x, b, y: jax.tree.map(lambda x, y: a * x + b * y, x, y)
        key_start, key_steps = random.split(rng_key)
        kappa = steps.start.kappa[0]
        offset = jax.tree.map(lambda x: kappa * x, noise(key_start))

        def one(offset: PyTree, at: Any) -> tuple[PyTree, PyTree]:
            step, key = at
            kept, sd = partly_new(step, self.eta)
            offset = add(kept, offset, sd, noise(key))
            return offset, add(1, likelihood.observation, 1, offset)

        _, path = lax.scan(one, offset, (steps, random.split(key_steps, self.num_steps)))
        return add(1, likelihood.observation, 1, offset), path

    def evaluations(self, n: int) -> tuple[int, int]:
        return (0, n * self.num_particles * self.num_steps)
