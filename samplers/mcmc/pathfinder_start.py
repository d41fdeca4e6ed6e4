"""Starts for chains by Pathfinder: one draw each from the best Gaussian along an L-BFGS path.

    from a jittered start, minimize -log pi by L-BFGS; at each iterate a Gaussian with the inverse
    Hessian estimate; keep the one of highest ELBO; draw from it               (algorithm 3 of [1])

Where jittered starts are far out in the tails, warm-up begins in the bulk instead. The paths are
those of `samplers.variational.pathfinder.Pathfinder`. A start biases nothing that an exact kernel
does not forget, but Pathfinder's Gaussian sits in one mode: chains that agree after such a start
may agree on too little. The density of a centered hierarchy grows without bound where its scale is
zero: a path ends there, and chains that start there are worse off than jittered ones.

References
----------
.. [1] Zhang, Carpenter, Gelman and Vehtari, "Pathfinder: parallel quasi-Newton variational
   inference", JMLR 23, 2022, arXiv:2108.03782. Algorithm 3.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax, random
from jaxtyping import Array, PRNGKeyArray

from ppl.energy import Energy, Position
from ppl.sampler import size, where
from samplers.variational import lbfgs
from samplers.variational.pathfinder import Pathfinder, PathfinderState


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
    that the starts stay independent. A path whose Gaussian gives no finite draw starts its chain
    where it ended.
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
    key_begin, key_path, key_draw = random.split(rng_key, 3)
    sampler = Pathfinder(num_chains, options.num_draws, options.max_iterations)

    def unfinished(carry: tuple[Array, PathfinderState]) -> Array:
        i, state = carry
        return (i < options.max_iterations) & ~sampler.done(state)

    def follow(carry: tuple[Array, PathfinderState]) -> tuple[Array, PathfinderState]:
        i, state = carry
        return i + 1, sampler.step(random.fold_in(key_path, i), target, state)[0]

    start = (jnp.int32(0), sampler.init(key_begin, target))
    _, (paths,) = lax.while_loop(unfinished, follow, start)

    unravel, objective = lbfgs.flat(target)
    ends = paths.descent.position
    drawn = jax.vmap(lambda law, noise: law.move(noise))(
        paths.best, random.normal(key_draw, ends.shape, ends.dtype)
    )
    usable = jnp.isfinite(paths.elbo) & jnp.isfinite(jax.vmap(objective)(drawn))
    return jax.vmap(unravel)(jax.vmap(where)(usable, drawn, ends))
