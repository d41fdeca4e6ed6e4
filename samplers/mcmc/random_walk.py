"""Random-walk Metropolis (RWM) with Gaussian proposals.

    y = x + s xi,  xi ~ N(0, I),  accepted with probability min(1, pi(y) / pi(x))

It needs nothing but the density, up to a constant, and leaves it invariant for any s. Warm-up
tunes s so that the mean acceptance is 0.234, the optimum as the dimension grows [2], or 0.44 in
one dimension [3]. The cost of an independent draw grows linearly with the dimension and with the
square of the ratio of the largest to the smallest scale: with a gradient, `MALA` or `NUTS` do
better from a handful of dimensions on.

References
----------
.. [1] Metropolis et al., "Equation of state calculations by fast computing machines", J. Chem.
   Phys. 21, 1953, doi:10.1063/1.1699114.
.. [2] Roberts, Gelman and Gilks, "Weak convergence and optimal scaling of random walk Metropolis
   algorithms", Ann. Appl. Probab. 7, 1997, doi:10.1214/aoap/1034625254. Corollary 1.2.
.. [3] Gelman, Roberts and Gilks, "Efficient Metropolis jumping rules", Bayesian Statistics 5,
   1996. Table 1.
"""

from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PRNGKeyArray

from ppl.energy import Energy, Position, TargetError
from ppl.sampler import Exactness, MarkovKernel, positive
from ppl.template import describe, dimension
from samplers.mcmc.metropolis import MetropolisInfo, MetropolisState, accept, illegal
from samplers.mcmc.step_size import StepSizeWarmUp, adjusted


class RandomWalk(MarkovKernel):
    """Random-walk Metropolis: exact, gradient-free.

    Parameters
    ----------
    step_size
        Standard deviation s of a proposal's components, in units of the position; where warm-up
        starts from.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"log_density"})
    exactness: ClassVar[Exactness] = "exact"
    plain_state: ClassVar[Any] = MetropolisState

    step_size: Float[Array, ""] = positive("step_size", default=0.1)

    def check(self, target: Energy) -> None:
        leaves = jax.tree.leaves(target.template)
        if not all(jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in leaves):
            raise TargetError(
                "RandomWalk adds Gaussian noise, so every part of a position must be floating; "
                f"this target's positions are {describe(target.template)}"
            )

    def warmup(self, target: Energy) -> StepSizeWarmUp:
        return StepSizeWarmUp(target_acceptance=optimum(dimension(target.template)))

    def init(self, rng_key: PRNGKeyArray, target: Energy, position: Position) -> MetropolisState:
        return MetropolisState(position, target.log_density(position))

    def step(
        self, rng_key: PRNGKeyArray, target: Energy, state: MetropolisState
    ) -> tuple[MetropolisState, MetropolisInfo]:
        key_noise, key_accept = jax.random.split(rng_key)
        noise = optax.tree.random_like(key_noise, state.position)
        position = jax.tree.map(
            lambda x, xi: (x + self.step_size * xi).astype(x.dtype), state.position, noise
        )
        proposed = MetropolisState(position, target.log_density(position))

        diverging = illegal(proposed.log_density)
        log_ratio = jnp.where(diverging, -jnp.inf, proposed.log_density - state.log_density)
        state, acceptance_rate, is_accepted = accept(key_accept, log_ratio, proposed, state)
        return state, MetropolisInfo(
            acceptance_rate, is_accepted, diverging, jnp.array([1, 0], jnp.int32)
        )

    def retune(
        self,
        particles: Position,
        log_weights: Float[Array, " n"],
        info: MetropolisInfo | None,
        watched: Any = (),
    ) -> "RandomWalk":
        one = jax.eval_shape(lambda tree: jax.tree.map(lambda x: x[0], tree), particles)
        step_size = adjusted(self.step_size, info, optimum(dimension(one)))
        return eqx.tree_at(lambda k: k.step_size, self, step_size)


def optimum(dimension: int) -> Float[Array, ""]:
    """Acceptance rate that is best where the target is round."""
    return jnp.asarray(0.44 if dimension == 1 else 0.234)
