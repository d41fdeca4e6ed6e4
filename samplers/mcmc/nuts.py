"""No-U-Turn sampler (NUTS), through BlackJAX.

    H(x, p) = -log pi(x) + p . M^-1 p / 2,   p ~ N(0, M)

A trajectory of the dynamics of H doubles, forward or backward at random, until its ends turn
toward each other; the next draw is one of its states, with probabilities proportional to
``exp(-H)``, in favor of the later halves [2]. Exact: the target is left invariant for any step
size, metric and depth. It needs a gradient, and no trajectory length.

The tree is BlackJAX's (iterative, multinomial); integrator and metric are those of
`samplers.mcmc.hmc`.

References
----------
.. [1] Hoffman and Gelman, "The No-U-Turn Sampler: adaptively setting path lengths in Hamiltonian
   Monte Carlo", JMLR 15, 2014, arXiv:1111.4246. Algorithm 6.
.. [2] Betancourt, "A conceptual introduction to Hamiltonian Monte Carlo", 2017,
   arXiv:1701.02434. Appendix A.
.. [3] Phan, Pradhan and Jankowiak, "Composable effects for flexible and accelerated probabilistic
   programming in NumPyro", 2019, arXiv:1912.11554. Appendix A: the iterative tree.
"""

from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from blackjax.mcmc import proposal, termination, trajectory
from jax import random
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree

from ppl.energy import Energy, Position
from ppl.sampler import Exactness, MarkovKernel, fraction, positive, size
from samplers.mcmc.hmc import (
    DIVERGENCE_THRESHOLD,
    HMCState,
    IntegratorState,
    energy,
    is_turning,
    kinetic_energy,
    whitened,
)
from samplers.mcmc.metrics import as_metric
from samplers.mcmc.windows import WindowWarmUp, flag, optional, resolved, retuned

BRIEF_DEPTH = 5


class NUTSInfo(NamedTuple):
    """What the tree did; ``acceptance_rate`` is its mean over the tree, ``energy`` in nats."""

    acceptance_rate: Float[Array, ""]
    diverging: Bool[Array, ""]
    energy: Float[Array, ""]
    tree_depth: Int[Array, ""]
    n_steps: Int[Array, ""]
    reached_max_treedepth: Bool[Array, ""]
    step_size: Float[Array, ""]
    num_evaluations: Int[Array, "2"]


class NUTS(MarkovKernel):
    """No-U-Turn sampler.

    Parameters
    ----------
    step_size
        Leapfrog step in units of the metric (1 is a standard deviation of a target that the
        metric makes round); where warm-up starts from. None: ``d^(-1/4)``.
    metric
        `Identity`, `Diagonal`, `Dense` or `LowRank` of `samplers.mcmc.metrics`. None: dense up
        to 200 dimensions, low rank beyond.
    target_acceptance
        Mean acceptance rate that warm-up tunes the step size to.
    max_tree_depth
        Most doublings of a trajectory: at most ``2^max_tree_depth - 1`` steps.
    brief
        Whether trees are held to depth 5; set by warm-up while the metric is unknown.

    Differences from the paper
    --------------------------
    Multinomial draws from the trajectory in place of a slice [2]; extra checks for U-turns are
    not made across the two halves of a doubling.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"log_density", "gradient"})
    exactness: ClassVar[Exactness] = "exact"
    plain_state: ClassVar[Any] = HMCState
    fixed_length: ClassVar[bool] = False

    step_size: Any = optional(positive("step_size"))
    metric: Any = eqx.field(default=None, converter=as_metric)
    target_acceptance: Float[Array, ""] = fraction("target_acceptance", default=0.8)
    max_tree_depth: int = size("max_tree_depth", default=10)
    brief: Bool[Array, ""] = eqx.field(default=False, converter=flag)

    def resolve(self, target: Energy) -> "NUTS":
        return resolved(self, target)

    def warmup(self, target: Energy) -> WindowWarmUp:
        return WindowWarmUp(target_acceptance=self.target_acceptance)

    def watch(self, state: HMCState) -> PyTree:
        return state.gradient

    def init(self, rng_key: PRNGKeyArray, target: Energy, position: Position) -> HMCState:
        return HMCState(position, *jax.value_and_grad(target.log_density)(position))

    def step(
        self, rng_key: PRNGKeyArray, target: Energy, state: HMCState
    ) -> tuple[HMCState, NUTSInfo]:
        flat, leapfrog, restore = whitened(target, self.metric, state)
        step_size = self.step_size.astype(flat.logdensity.dtype)
        key_momentum, key_tree = random.split(rng_key)
        momentum = random.normal(key_momentum, flat.position.shape, flat.position.dtype)
        start = IntegratorState(flat.position, momentum, flat.logdensity, flat.logdensity_grad)
        deepest = jnp.where(self.brief, min(BRIEF_DEPTH, self.max_tree_depth), self.max_tree_depth)
        tree, (diverging, turning) = grow(
            key_tree, start, leapfrog, step_size, self.max_tree_depth, deepest
        )
        chosen, n_steps = tree.proposal, jnp.asarray(tree.trajectory.num_states, jnp.int32)
        return restore(chosen.state), NUTSInfo(
            acceptance_rate=jnp.exp(chosen.sum_log_p_accept) / n_steps,
            diverging=diverging,
            energy=chosen.energy,
            tree_depth=tree.step,
            n_steps=n_steps,
            reached_max_treedepth=~(diverging | turning),
            step_size=step_size,
            num_evaluations=jnp.stack([n_steps, n_steps]),
        )

    def retune(
        self, particles: Position, log_weights: Float[Array, " n"], info: Any, watched: Any = ()
    ) -> "NUTS":
        return retuned(self, particles, log_weights, info, watched)


# BlackJAX's parts; their types say float where arrays pass.
_Tree: Any = trajectory.DynamicExpansionState
_Trajectory: Any = trajectory.Trajectory
_Proposal: Any = proposal.Proposal
_uturn: Any = termination.iterative_uturn_numpyro
_expansion: Any = trajectory.dynamic_multiplicative_expansion


def grow(
    rng_key: PRNGKeyArray,
    start: Any,
    leapfrog: Callable[[Any, Array], Any],
    step_size: Float[Array, ""],
    capacity: int,
    deepest: Int[Array, ""],
) -> tuple[Any, tuple[Bool[Array, ""], Bool[Array, ""]]]:
    """Double a trajectory until it turns, diverges or has depth ``deepest``.

    This is BlackJAX's ``iterative_nuts_proposal``, part by part, with a traced depth: there the
    depth also sizes the memory of the U-turn check (``capacity`` here), hence is fixed. Returns
    the tree, and whether it diverged or turned.
    """
    new_termination, update_termination, has_turned = _uturn(is_turning)
    integrate = trajectory.dynamic_progressive_integration(
        leapfrog, kinetic_energy, update_termination, has_turned, DIVERGENCE_THRESHOLD
    )
    initial_energy = energy(start, start.momentum)
    tree = _Tree(
        0,
        _Proposal(start, initial_energy, 0.0, -jnp.inf),
        _Trajectory(start, start, start.momentum, 0),
        new_termination(start, capacity),
    )
    expand = _expansion(integrate, is_turning, deepest)
    return expand(rng_key, tree, initial_energy, step_size)
