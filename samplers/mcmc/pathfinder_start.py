"""Starts for chains by Pathfinder: one draw each from the best Gaussian along an L-BFGS path.

    from a jittered start, minimise -log pi by L-BFGS; at each iterate a Gaussian with the inverse
    Hessian estimate; keep the one of highest ELBO; draw from it               (algorithm 3 of [1])

Where jittered starts are far out in the tails, warm-up begins in the bulk instead. The algorithm
is BlackJAX's. A start biases nothing that an exact kernel does not forget, but Pathfinder's
Gaussian sits in one mode: chains that agree after such a start may agree on too little.

References
----------
.. [1] Zhang, Carpenter, Gelman and Vehtari, "Pathfinder: parallel quasi-Newton variational
   inference", JMLR 23, 2022, arXiv:2108.03782. Algorithm 3.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from blackjax.vi import pathfinder
from jax import random
from jaxtyping import PRNGKeyArray

from ppl.energy import Energy, Position
from ppl.keys import chain_keys
from ppl.sampler import size
from ppl.start import jittered


class PathfinderStart(eqx.Module):
    """``init=PathfinderStart()`` of `ppl.sample`: one independent path a chain.

    Parameters
    ----------
    num_draws
        Draws that estimate the ELBO of each Gaussian along a path.
    max_iterations
        Of L-BFGS.

    Differences from the paper
    --------------------------
    Single-path Pathfinder for each chain; no importance resampling over paths (algorithm 4), so
    that the starts stay independent. A path that ends in no finite draw falls back on its jittered
    start.
    """

    num_draws: int = size("num_draws", default=25)
    max_iterations: int = size("max_iterations", default=30)

    def __call__(self, rng_key: PRNGKeyArray, target: Energy, num_chains: int) -> Position:
        """One position a chain (leading axis)."""
        return _starts(self, rng_key, target, num_chains)


@eqx.filter_jit
def _starts(
    options: PathfinderStart, rng_key: PRNGKeyArray, target: Energy, num_chains: int
) -> Position:
    keys = chain_keys(rng_key, num_chains)
    begun, _, _ = jittered(keys, target, with_gradient=True)

    def one(key: PRNGKeyArray, position: Position) -> Position:
        key_path, key_draw = random.split(key)
        best, _ = pathfinder.approximate(
            key_path,
            target.log_density,
            position,
            options.num_draws,
            maxiter=options.max_iterations,
        )
        drawn, _ = pathfinder.sample(key_draw, best, 1)
        drawn = jax.tree.map(lambda x: x[0], drawn)
        finite = jnp.isfinite(target.log_density(drawn))
        return jax.tree.map(lambda new, old: jnp.where(finite, new, old), drawn, position)

    # lax.map: vmapped optimisers would all run as long as the slowest.
    return jax.lax.map(lambda pair: one(*pair), (keys, begun))
