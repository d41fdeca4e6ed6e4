"""Metropolis-adjusted microcanonical sampling (MAMS), here `AdjustedMCLMC`.

    u ~ uniform on the unit sphere,  n ~ uniform,  (y, W) = n steps of the isokinetic dynamics
    accept y with probability min(1, pi(y) exp(-W) / pi(x))

From a fresh unit momentum the integrator of `MCLMC` runs for a random number of steps without
noise; W is the kinetic energy it gathers, the logarithm of the change of volume. The Metropolis
test makes it exact for any step size, length and metric.

The proposal and the Metropolis test are BlackJAX's.

References
----------
.. [1] Robnik, Cohn-Gordon and Seljak, "Metropolis adjusted microcanonical Hamiltonian Monte
   Carlo", 2025, arXiv:2503.01707.
"""

from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from blackjax.mcmc.adjusted_mclmc import adjusted_mclmc_proposal, rescale
from blackjax.util import generate_unit_vector
from jax import random
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree

from ppl.energy import Energy, Position
from ppl.sampler import Exactness, MarkovKernel, fraction, positive, size, where
from samplers.mcmc.isokinetic import GRADIENTS, flatten, integrator, require_two_dimensions
from samplers.mcmc.metrics import Metric
from samplers.mcmc.metropolis import all_finite
from samplers.mcmc.windows import WindowWarmUp, flag, optional, resolved, retuned

DIVERGENCE_THRESHOLD = 1000.0  # nats of energy error, as Stan's


class AdjustedMCLMCState(NamedTuple):
    """A position, the log-density (nats) and its gradient there."""

    position: PyTree
    log_density: Float[Array, ""]
    gradient: PyTree


class AdjustedMCLMCInfo(NamedTuple):
    """What the trajectory did and what the Metropolis test said."""

    acceptance_rate: Float[Array, ""]
    is_accepted: Bool[Array, ""]
    diverging: Bool[Array, ""]
    n_steps: Int[Array, ""]
    step_size: Float[Array, ""]
    num_evaluations: Int[Array, "2"]


class AdjustedMCLMC(MarkovKernel):
    """Metropolis-adjusted microcanonical sampling: exact.

    Parameters
    ----------
    step_size
        Distance of a step, in units of ``sqrt(d)`` standard deviations; where warm-up starts
        from. None: ``d^(-1/4)``.
    metric
        `Identity`, `Diagonal`, `Dense` or `LowRank` of `samplers.mcmc.metrics`. None: dense up
        to 200 dimensions, low rank beyond. Tuned in warm-up.
    trajectory_length
        Mean length of a trajectory, in the same units as the step.
    max_num_steps
        Most steps of a trajectory.
    target_acceptance
        Mean acceptance rate that warm-up tunes the step size to.
    brief
        Whether trajectories are held to 15 steps; set by warm-up while the metric is unknown.

    Raises
    ------
    TargetError
        In one dimension, where a unit momentum cannot turn.

    Differences from the paper
    --------------------------
    The metric is that of the library's Hamiltonian samplers and the length is fixed in its units.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"log_density", "gradient"})
    exactness: ClassVar[Exactness] = "exact"
    plain_state: ClassVar[Any] = AdjustedMCLMCState
    fixed_length: ClassVar[bool] = False

    step_size: Float[Array, ""] | None = optional(positive("step_size"))
    metric: Metric | None = None
    trajectory_length: Float[Array, ""] = positive("trajectory_length", default=2.5)
    max_num_steps: int = size("max_num_steps", default=511)
    target_acceptance: Float[Array, ""] = fraction("target_acceptance", default=0.9)
    brief: Bool[Array, ""] = eqx.field(default=False, converter=flag)

    def check(self, target: Energy) -> None:
        require_two_dimensions(self, target)

    def resolve(self, target: Energy) -> "AdjustedMCLMC":
        return resolved(self, target)

    def warmup(self, target: Energy) -> WindowWarmUp:
        return WindowWarmUp(target_acceptance=self.target_acceptance)

    def watch(self, state: AdjustedMCLMCState) -> PyTree:
        return state.gradient

    def init(self, rng_key: PRNGKeyArray, target: Energy, position: Position) -> AdjustedMCLMCState:
        return AdjustedMCLMCState(position, *jax.value_and_grad(target.log_density)(position))

    def step(
        self, rng_key: PRNGKeyArray, target: Energy, state: AdjustedMCLMCState
    ) -> tuple[AdjustedMCLMCState, AdjustedMCLMCInfo]:
        assert self.metric is not None, "resolve(target) first, as ppl.sample does"
        assert self.step_size is not None, "resolve(target) first, as ppl.sample does"
        key_momentum, key_length, key_proposal = random.split(rng_key, 3)
        step_size = self.step_size.astype(state.log_density.dtype)
        n_steps = self._num_steps(key_length, step_size)
        one_step = integrator(target, self.metric, state)
        propose = adjusted_mclmc_proposal(
            lambda state, step_size, *_: one_step(state, step_size),  # no noise on the way
            step_size,
            jnp.inf,
            n_steps,  # pyright: ignore[reportArgumentType]
            DIVERGENCE_THRESHOLD,
        )
        x, unravel = ravel_pytree(state.position)
        start = flatten(self.metric, state, generate_unit_vector(key_momentum, x))
        end, info, _ = propose(key_proposal, start)
        # Far out in a tail, energies are larger than the precision of the test: while warm-up is
        # still on its way in, uphill is enough.
        uphill = self.brief & (info.proposal.logdensity > state.log_density)
        end = where(uphill, info.proposal, end)
        chosen = AdjustedMCLMCState(
            unravel(end.position), end.logdensity, unravel(end.logdensity_grad[1])
        )
        # BlackJAX rejects where the energy is not finite; a gradient must be, to go on from.
        finite = all_finite(chosen)
        return where(finite, chosen, state), AdjustedMCLMCInfo(
            acceptance_rate=jnp.where(finite, jnp.maximum(info.acceptance_rate, uphill), 0.0),
            is_accepted=(info.is_accepted | uphill) & finite,
            diverging=info.is_divergent | ~finite,
            n_steps=n_steps,
            step_size=step_size,
            num_evaluations=jnp.full(2, GRADIENTS * n_steps, jnp.int32),
        )

    def retune(
        self,
        particles: Position,
        log_weights: Float[Array, " n"],
        info: AdjustedMCLMCInfo | None,
        watched: Any = (),
    ) -> "AdjustedMCLMC":
        return retuned(self, particles, log_weights, info, watched)

    def _num_steps(self, rng_key: PRNGKeyArray, step_size: Float[Array, ""]) -> Int[Array, ""]:
        # Uniform on 1, 2, ... with the mean that makes the length.
        mean = jnp.maximum(self.trajectory_length / step_size, 1.0)
        steps = jnp.ceil(random.uniform(rng_key) * rescale(mean))
        most = jnp.where(self.brief, min(15, self.max_num_steps), self.max_num_steps)
        return jnp.clip(steps, 1, most).astype(jnp.int32)
