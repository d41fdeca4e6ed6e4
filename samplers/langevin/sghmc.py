"""Stochastic gradient Hamiltonian Monte Carlo (SGHMC).

    v' = (1 - a) v + h g(x) + sqrt(2 a h) xi,   xi ~ N(0, I)
    x' = x + v'

with g the gradient of a minibatch, as in `SGLD`: Langevin dynamics with a momentum, whose friction
a carries off the heat that the noise of g brings in. It wanders less than `SGLD`, which it becomes
at a = 1. The velocity v is in units of the position; its variance is h. On a Gaussian the bias is
known: with precision A and the variance V of g, the covariance S of (x, v) solves

    S = M S M^T + q [[1, 1], [1, 1]],   M = [[1 - h A, 1 - a], [-h A, 1 - a]],   q = 2 a h + h^2 V

References
----------
.. [1] Chen, Fox and Guestrin, "Stochastic gradient Hamiltonian Monte Carlo", ICML 2014,
   arXiv:1402.4102. Equation 15.
"""

from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import random
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from ppl.energy import Energy, Position
from ppl.sampler import Exactness, MarkovKernel, fraction, positive, size, where
from samplers.langevin import minibatch
from samplers.mcmc.metropolis import all_finite


class SGHMCState(NamedTuple):
    """Position and velocity, a minibatch's gradient, rows used since the last whole pass."""

    position: PyTree
    velocity: PyTree
    gradient: PyTree
    rows: Int[Array, ""]


class SGHMC(MarkovKernel):
    """Stochastic gradient Hamiltonian Monte Carlo: biased, by the step and by the minibatch.

    Parameters
    ----------
    step_size
        The h above, in squared units of the position: the square of a leapfrog step. There is no
        default and no warm-up: the step size decides the bias.
    batch_size
        Rows n of a minibatch, drawn with replacement; all rows of the data, once each, where it is
        their number.
    friction
        The a above, the share of the velocity lost in a step.

    Raises
    ------
    TargetError
        If the batch is larger than the data; before compilation.

    Differences from the paper
    --------------------------
    The estimate of the noise of g, which the paper subtracts from the friction, is zero, and the
    velocity is not drawn anew every so many steps. A step to a gradient that is not finite is not
    taken, stops the chain's motion, and is counted as a divergence.
    """

    needs: ClassVar[frozenset[str]] = minibatch.NEEDS
    exactness: ClassVar[Exactness] = "biased"

    step_size: Float[Array, ""] = positive("step_size")
    batch_size: int = size("batch_size")
    friction: Float[Array, ""] = fraction("friction", default=0.1)

    def check(self, target: Energy) -> None:
        minibatch.check_batch("SGHMC", self.batch_size, target)

    def init(self, rng_key: PRNGKeyArray, target: Energy, position: Position) -> SGHMCState:
        key_velocity, key_rows = random.split(rng_key)
        velocity = jax.tree.map(
            lambda xi: (jnp.sqrt(self.step_size) * xi).astype(xi.dtype),
            optax.tree.random_like(key_velocity, position),
        )
        gradient = minibatch.estimated_gradient(key_rows, target, position, self.batch_size)
        return SGHMCState(position, velocity, gradient, jnp.int32(0))

    def step(
        self, rng_key: PRNGKeyArray, target: Energy, state: SGHMCState
    ) -> tuple[SGHMCState, minibatch.MinibatchInfo]:
        h, a, (key_noise, key_rows) = self.step_size, self.friction, random.split(rng_key)
        noise = optax.tree.random_like(key_noise, state.position)

        def push(v: Array, gradient: Array, xi: Array) -> Array:
            return ((1 - a) * v + h * gradient + jnp.sqrt(2 * a * h) * xi).astype(v.dtype)

        velocity = jax.tree.map(push, state.velocity, state.gradient, noise)
        position = jax.tree.map(jnp.add, state.position, velocity)
        gradient = minibatch.estimated_gradient(key_rows, target, position, self.batch_size)
        rows, passes = minibatch.count_passes(state.rows, self.batch_size, target)
        finite = all_finite((position, gradient))
        still = jax.tree.map(jnp.zeros_like, velocity)
        moved = where(
            finite,
            SGHMCState(position, velocity, gradient, rows),
            state._replace(velocity=still, rows=rows),
        )
        return moved, minibatch.MinibatchInfo(~finite, passes)
