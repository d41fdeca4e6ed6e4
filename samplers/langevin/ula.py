"""Unadjusted Langevin algorithm (ULA), also called Langevin Monte Carlo (LMC).

    x' = x + h grad log pi(x) + sqrt(2 h) xi,   xi ~ N(0, I)

One Euler-Maruyama step of the Langevin diffusion, kept without a Metropolis test: cheap, never
stuck, and biased. On N(0, s^2) the stationary variance is s^2 / (1 - h / (2 s^2)), so the bias is
of first order in h, and the chain explodes when h exceeds twice the smallest variance. `MALA`
removes the bias.

References
----------
.. [1] Parisi, "Correlation functions and computer simulations", Nuclear Physics B 180, 1981,
   doi:10.1016/0550-3213(81)90056-0.
.. [2] Roberts and Tweedie, "Exponential convergence of Langevin distributions and their discrete
   approximations", Bernoulli 2, 1996, doi:10.2307/3318418. Section 1.4.1.
"""

from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree

from ppl.energy import Energy, Position
from ppl.sampler import Exactness, MarkovKernel, positive, where
from samplers.mcmc.metropolis import all_finite


class ULAState(NamedTuple):
    """A position, with the log-density (nats) and its gradient there."""

    position: PyTree
    log_density: Float[Array, ""]
    gradient: PyTree


class ULAInfo(NamedTuple):
    """Whether the step led to no finite density, and was not taken."""

    diverging: Bool[Array, ""]
    num_evaluations: Int[Array, "2"]


class ULA(MarkovKernel):
    """Unadjusted Langevin algorithm: biased, of first order in the step size.

    Parameters
    ----------
    step_size
        The h above, in squared units of the position. There is no default and no warm-up: the
        step size decides the bias. A step size that `MALA` has tuned is a fair choice.

    Differences from the paper
    --------------------------
    The papers step by h / 2 of the gradient with noise sqrt(h); our h is half of theirs. A step to
    a density or gradient that is not finite is not taken, and is counted as a divergence.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"log_density", "gradient"})
    exactness: ClassVar[Exactness] = "biased"

    step_size: Float[Array, ""] = positive("step_size")

    def init(self, rng_key: PRNGKeyArray, target: Energy, position: Position) -> ULAState:
        return ULAState(position, *jax.value_and_grad(target.log_density)(position))

    def step(
        self, rng_key: PRNGKeyArray, target: Energy, state: ULAState
    ) -> tuple[ULAState, ULAInfo]:
        h = self.step_size
        noise = optax.tree.random_like(rng_key, state.position)

        def move(x: Array, gradient: Array, xi: Array) -> Array:
            return (x + h * gradient + jnp.sqrt(2 * h) * xi).astype(x.dtype)

        position = jax.tree.map(move, state.position, state.gradient, noise)
        proposed = ULAState(position, *jax.value_and_grad(target.log_density)(position))
        finite = all_finite((proposed.log_density, proposed.gradient))
        return where(finite, proposed, state), ULAInfo(~finite, jnp.array([1, 1], jnp.int32))
