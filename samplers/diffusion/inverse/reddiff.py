"""Regularization by denoising diffusion (RED-diff): a descent whose regularizer is the prior.

    z = mu + kappa eps,    grad = -grad log p(y | mu) + strength (mu - D(z))
    mu := mu - Adam(grad)

along all levels, from noise to data. It minimizes the divergence from a point mass at mu to the
posterior, with the levels weighted by ``strength kappa``: what comes out is near a mode, and that
draws differ at all is the noise of the descent. **This is no sampler of the posterior**: its spread
says nothing of uncertainty. Take it as an estimate, or as a start for others. No derivative of the
denoiser is needed. Biased.

Differences from the paper
--------------------------
The paper's code averages both terms over pixels, so that its weight depends on their numbers; here
the likelihood is the likelihood, and ``strength`` is in nats. Under a linear observation a descent
starts from the mean given data of variance one.

References
----------
.. [1] Mardani, Song, Kautz and Vahdat, "A variational perspective on solving inverse problems with
   diffusion models", ICLR 2024, arXiv:2305.04391. Algorithm 1.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PRNGKeyArray

from ppl.linear_gaussian import LinearGaussian
from ppl.noise import normal
from ppl.sampler import positive, size
from samplers.diffusion.chain import Step
from samplers.diffusion.inverse.chain import Chain, scheduled
from samplers.diffusion.inverse.guided import batch_size, schedule
from samplers.diffusion.inverse.problem import Problem, require_linear
from samplers.diffusion.paths import NoisePath
from samplers.diffusion.sampler import Silent

MOMENTS = (0.9, 0.99)  # of Adam, as in the paper


class Descent(NamedTuple):
    """The point and the state of its optimizer."""

    mu: Array
    optimizer: Any


class REDDiff(Chain):
    """RED-diff: biased; a point near a mode of the posterior, for any likelihood.

    Parameters
    ----------
    strength
        Weight of the prior against the likelihood.
    learning_rate
        Of Adam, in units of the data.
    schedule, num_steps
        As in `DiffusionSampler`: one step of the descent at each level.
    batch_size
        Descents that run at the same time.

    Raises
    ------
    TargetError
        For a target that is no posterior under a diffusion prior, and a linear observation without
        noise.
    """

    strength: Float[Array, ""] = positive("strength", default=0.25)
    learning_rate: Float[Array, ""] = positive("learning_rate", default=0.1)
    schedule: Silent = schedule()
    num_steps: int = size("num_steps", default=1000)
    batch_size: int = batch_size()  # pyright: ignore[reportIncompatibleVariableOverride]
    steps: Step | None = None

    def check(self, target: Any) -> None:
        super().check(target)
        if isinstance(target.log_likelihood_fn, LinearGaussian):
            require_linear(target, "REDDiff")

    def write(self, path: NoisePath) -> Step:
        return scheduled(path, self.schedule, self.num_steps)

    def begin(self, rng_key: PRNGKeyArray, problem: Problem, first: Step) -> Descent:
        point = problem.prior.point
        mu = jnp.zeros(point.shape, point.dtype)
        if isinstance(problem.target.log_likelihood_fn, LinearGaussian):
            mu = problem.point(problem.likelihood.mean_given(problem.position(mu), 1.0))
        return Descent(mu, self._optimizer(mu).init(mu))

    def move(self, rng_key: PRNGKeyArray, problem: Problem, state: Descent, step: Step) -> Descent:
        mu, level = state.mu, step.start
        z = mu + level.kappa * normal(rng_key, mu.shape, mu.dtype)
        pull = self.strength.astype(mu.dtype) * (mu - problem.denoise(z, level))
        gradient = pull - jax.grad(problem.log_likelihood)(mu)
        downhill, optimizer = self._optimizer(mu).update(gradient, state.optimizer)
        return Descent(mu + downhill, optimizer)

    def result(self, state: Descent) -> Array:
        return state.mu

    def _optimizer(self, mu: Array) -> Any:
        # Built where it is used: an optimizer in a field would compile anew in every sampler.
        return optax.adam(self.learning_rate.astype(mu.dtype), *MOMENTS)

    @property
    def evaluations_per_step(self) -> int:
        return 1
