"""Barker's proposal: Langevin without its fragility, with a metric.

    z ~ N(0, s^2 I),   g = A^T grad log pi(x),   M^-1 = A A^T
    b_i = +1 with probability 1 / (1 + exp(-z_i g_i)), else -1;     y = x + A (b * z)
    accept with probability min(1, pi(y) / pi(x) prod_i (1 + exp(-w_i g_i)) / (1 + exp(w_i g'_i)))
    where w = b * z and g' = A^T grad log pi(y)

The gradient says which way a coordinate goes, never how far: where it is huge, `MALA` leaps out of
sight and is rejected for good, and this proposal still moves by s. It is exact for any s and any
metric, scales with the dimension as d^(-1/3) like `MALA`, with a smaller constant, and forgives a
step size or a start that is off by orders of magnitude.

References
----------
.. [1] Livingstone and Zanella, "The Barker proposal: combining robustness and efficiency in
   gradient-based MCMC", J. R. Stat. Soc. B 84, 2022, arXiv:1908.11812. Algorithms 1 and 2; the
   metric, Appendix G.
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


class BarkerState(NamedTuple):
    """A position, with the log-density (nats) and its gradient there."""

    position: PyTree
    log_density: Float[Array, ""]
    gradient: PyTree


class BarkerInfo(NamedTuple):
    """What the Metropolis test said; ``diverging`` where the proposal has no density."""

    acceptance_rate: Float[Array, ""]
    is_accepted: Bool[Array, ""]
    diverging: Bool[Array, ""]
    num_evaluations: Int[Array, "2"]


class Barker(MarkovKernel):
    """Barker's proposal with a Metropolis test: exact.

    Parameters
    ----------
    step_size
        The s above, in units of the metric; where warm-up starts from.
    metric
        The A above: `Identity`, `Diagonal`, `Dense` or `LowRank` of `samplers.mcmc.metrics`. None:
        dense up to 200 dimensions, low rank beyond. Tuned in warm-up.
    target_acceptance
        Mean acceptance rate that warm-up tunes the step size to; the paper's experiments took 0.4.

    Differences from the paper
    --------------------------
    A proposal whose density or gradient is not a number is rejected and counted as a divergence.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"log_density", "gradient"})
    exactness: ClassVar[Exactness] = "exact"
    plain_state: ClassVar[Any] = BarkerState

    step_size: Float[Array, ""] = positive("step_size", default=0.3)
    metric: Metric | None = None
    target_acceptance: Float[Array, ""] = fraction("target_acceptance", default=0.4)

    def resolve(self, target: Energy) -> "Barker":
        return resolved(self, target)

    def warmup(self, target: Energy) -> WindowWarmUp:
        return WindowWarmUp(self.target_acceptance, ONE_GRADIENT)

    def watch(self, state: BarkerState) -> PyTree:
        return state.gradient

    def init(self, rng_key: PRNGKeyArray, target: Energy, position: Position) -> BarkerState:
        return BarkerState(position, *jax.value_and_grad(target.log_density)(position))

    def step(
        self, rng_key: PRNGKeyArray, target: Energy, state: BarkerState
    ) -> tuple[BarkerState, BarkerInfo]:
        assert self.metric is not None, "resolve(target) first, as ppl.sample does"
        metric, (key_length, key_way, key_accept) = self.metric, random.split(rng_key, 3)
        x, unravel = ravel_pytree(state.position)

        def whitened(gradient: PyTree) -> Float[Array, " d"]:
            """Gradient in coordinates where the metric is the identity."""
            return metric.scale_transposed(ravel_pytree(gradient)[0])

        slope = whitened(state.gradient)
        z = self.step_size.astype(x.dtype) * random.normal(key_length, x.shape, x.dtype)
        forward = random.uniform(key_way, x.shape, x.dtype) < jax.nn.sigmoid(z * slope)
        move = jnp.where(forward, z, -z)
        position = unravel(x + metric.scale(move))
        proposed = BarkerState(position, *jax.value_and_grad(target.log_density)(position))

        # The lengths are as likely either way; the ways are not. log(1 + e^a) must not overflow.
        log_q_ratio = log_ways(move, slope) - log_ways(-move, whitened(proposed.gradient))
        log_ratio = proposed.log_density - state.log_density + log_q_ratio

        diverging = illegal(proposed.log_density, proposed.gradient)
        log_ratio = jnp.where(diverging, -jnp.inf, log_ratio)
        state, acceptance_rate, is_accepted = accept(key_accept, log_ratio, proposed, state)
        evaluations = jnp.array([1, 1], jnp.int32)
        return state, BarkerInfo(acceptance_rate, is_accepted, diverging, evaluations)

    def retune(
        self,
        particles: Position,
        log_weights: Float[Array, " n"],
        info: BarkerInfo | None,
        watched: Any = (),
    ) -> "Barker":
        return retuned(self, particles, log_weights, info, watched)


def log_ways(move: Float[Array, " d"], slope: Float[Array, " d"]) -> Float[Array, ""]:
    """Minus the log-probability of the ways that ``move`` goes, given its lengths."""
    return jnp.sum(jax.nn.softplus(-move * slope))
