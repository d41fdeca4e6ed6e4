"""Metropolis-adjusted Langevin algorithm (MALA), with a metric.

    y = x + h M^-1 grad log pi(x) + sqrt(2 h) A xi,   xi ~ N(0, I),   M^-1 = A A'
    accept with probability min(1, pi(y) q(y, x) / (pi(x) q(x, y)))

A step of the Langevin diffusion proposes, a Metropolis test corrects: the target is left invariant
for any step size and any metric. It needs one gradient a step. Step sizes scale with d^(-1/3),
where those of a random walk scale with 1/d; tuned to accept 0.574 of the proposals, as [2] found
optimal, it suits targets of moderate dimension and moves inside other samplers. A chain that starts
far out, where curvatures are others, may stand still: `PathfinderStart` brings chains in.

References
----------
.. [1] Roberts and Tweedie, "Exponential convergence of Langevin distributions and their discrete
   approximations", Bernoulli 2, 1996, doi:10.2307/3318418. Section 1.4.2.
.. [2] Roberts and Rosenthal, "Optimal scaling of discrete approximations to Langevin diffusions",
   J. R. Stat. Soc. B 60, 1998, doi:10.1111/1467-9868.00123.
.. [3] Roberts and Stramer, "Langevin diffusions and Metropolis-Hastings algorithms", Methodol.
   Comput. Appl. Probab. 4, 2002, doi:10.1023/A:1023562417138. The metric, for a constant matrix.
"""

from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jax import random
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree

from ppl.energy import Energy, Position
from ppl.sampler import Exactness, MarkovKernel, fraction, positive
from samplers.mcmc.metrics import Metric
from samplers.mcmc.metropolis import accept, illegal
from samplers.mcmc.windows import ONE_GRADIENT, WindowWarmUp, resolved, retuned


class MALAState(NamedTuple):
    """A position, with the log-density (nats) and its gradient there."""

    position: PyTree
    log_density: Float[Array, ""]
    gradient: PyTree


class MALAInfo(NamedTuple):
    """What the Metropolis test said; ``diverging`` where the proposal has no density."""

    acceptance_rate: Float[Array, ""]
    is_accepted: Bool[Array, ""]
    diverging: Bool[Array, ""]
    num_evaluations: Int[Array, "2"]


class MALA(MarkovKernel):
    """Metropolis-adjusted Langevin algorithm: exact.

    Parameters
    ----------
    step_size
        The h above, in squared units of the metric; where warm-up starts from.
    metric
        The A above: `Identity`, `Diagonal`, `Dense` or `LowRank` of `samplers.mcmc.metrics`. None:
        dense up to 200 dimensions, low rank beyond. Tuned in warm-up.
    target_acceptance
        Mean acceptance rate that warm-up tunes the step size to.

    Differences from the paper
    --------------------------
    The papers step by h / 2 of the gradient with noise sqrt(h); our h is half of theirs. A
    proposal whose density or gradient is not a number is rejected and counted as a divergence.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"log_density", "gradient"})
    exactness: ClassVar[Exactness] = "exact"
    plain_state: ClassVar[Any] = MALAState

    step_size: Float[Array, ""] = positive("step_size", default=0.1)
    metric: Metric | None = None
    target_acceptance: Float[Array, ""] = fraction("target_acceptance", default=0.574)

    def resolve(self, target: Energy) -> "MALA":
        return resolved(self, target)

    def warmup(self, target: Energy) -> WindowWarmUp:
        return WindowWarmUp(self.target_acceptance, ONE_GRADIENT)

    def watch(self, state: MALAState) -> PyTree:
        return state.gradient

    def init(self, rng_key: PRNGKeyArray, target: Energy, position: Position) -> MALAState:
        return MALAState(position, *jax.value_and_grad(target.log_density)(position))

    def step(
        self, rng_key: PRNGKeyArray, target: Energy, state: MALAState
    ) -> tuple[MALAState, MALAInfo]:
        assert self.metric is not None, "resolve(target) first, as ppl.sample does"
        metric, key_noise, key_accept = self.metric, *random.split(rng_key)
        x, unravel = ravel_pytree(state.position)
        h = self.step_size.astype(x.dtype)

        def whitened(gradient: PyTree) -> Float[Array, " d"]:
            """Gradient in z, x = A z, where the metric is the identity."""
            return metric.scale_transposed(ravel_pytree(gradient)[0])

        drift = whitened(state.gradient)
        noise = random.normal(key_noise, x.shape, x.dtype)
        position = unravel(x + metric.scale(h * drift + jnp.sqrt(2 * h) * noise))
        proposed = MALAState(position, *jax.value_and_grad(target.log_density)(position))

        log_q_ratio = log_way_back(noise, drift, whitened(proposed.gradient), h)
        log_ratio = proposed.log_density - state.log_density + log_q_ratio

        diverging = illegal(proposed.log_density, proposed.gradient)
        log_ratio = jnp.where(diverging, -jnp.inf, log_ratio)
        state, acceptance_rate, is_accepted = accept(key_accept, log_ratio, proposed, state)
        evaluations = jnp.array([1, 1], jnp.int32)
        return state, MALAInfo(acceptance_rate, is_accepted, diverging, evaluations)

    def retune(
        self,
        particles: Position,
        log_weights: Float[Array, " n"],
        info: MALAInfo | None,
        watched: Any = (),
    ) -> "MALA":
        return retuned(self, particles, log_weights, info, watched)


def log_way_back(
    noise: Float[Array, " d"],
    drift: Float[Array, " d"],
    drift_back: Float[Array, " d"],
    step_size: Float[Array, ""],
) -> Float[Array, ""]:
    """``log q(y, x) / q(x, y)`` of a Langevin step in coordinates where the metric is the identity.

    The noise that leads back is -(noise + shift), and -log q is half the square of the noise:
    neither the inverse of A nor a difference of large numbers is needed.
    """
    shift = jnp.sqrt(step_size / 2) * (drift + drift_back)
    return -jnp.vdot(shift, noise + shift / 2)
