"""The walk of temperatures with all frozen, as a Feynman-Kac model: for bounds of the evidence.

    x_0 ~ r,  G_0 = exp(b_1 V(x_0));    x_t ~ K_t(x_{t-1}, .),  G_t = exp((b_{t+1} - b_t) V(x_t))

K_t leaves pi_{b_t} invariant and is reversible, G_T = 1. Then Z is unbiased, and the path that ends
in an exact draw of the target is walked backward by the same moves,

    x_T ~ pi_1,   x_{t-1} ~ K_t(x_t, .),   t = T..1

and has the law Q of the model: a run conditional on it estimates log Z from above
(`samplers.smc.conditional`) [1]. Without resampling that is reverse annealed importance sampling.

References
----------
.. [1] R. B. Grosse, Z. Ghahramani, R. P. Adams, "Sandwiching the marginal likelihood using
   bidirectional Monte Carlo", 2015, arXiv:1511.02543. Section 3.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax, random
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from ppl.energy import Position
from samplers.mcmc.gibbs import Gibbs
from samplers.smc import feynman_kac as fk
from samplers.smc.conditional import conditional_run
from samplers.smc.moves import move
from samplers.smc.path import Path, increments


class FrozenWalk(fk.FeynmanKac):
    """The model above; a particle is a position and its V, row t is b_t and b_{t+1} - b_t.

    Parameters
    ----------
    path
        From r to the target.
    kernel
        Moves at all temperatures: reversible, and tuned to no particle.
    num_moves
        Of each temperature.
    temperatures
        b_1 to b_T.
    """

    path: Path
    kernel: Any
    num_moves: int = eqx.field(static=True)
    temperatures: Float[Array, " t"]

    @property
    def rows(self) -> tuple[Float[Array, " t"], Float[Array, " t"]]:
        b = self.temperatures
        return b, jnp.diff(b, append=b[-1:])

    def start(self, rng_key: PRNGKeyArray, n: int) -> tuple[PyTree, Float[Array, " n"]]:
        particles = self._seen(self.path.sample(rng_key, n))
        return particles, self.log_start_potential(particles)

    def advance(
        self, rng_key: PRNGKeyArray, particles: PyTree, row: Any
    ) -> tuple[PyTree, Float[Array, " n"]]:
        after = self._seen(self._moved(rng_key, particles[0], row[0]))
        return after, self.log_potential(particles, after, row)

    def log_start_potential(self, particles: PyTree) -> Float[Array, " n"]:
        return increments(self.temperatures[0], particles[1])

    def log_potential(self, before: PyTree, particles: PyTree, row: Any) -> Float[Array, " n"]:
        return increments(row[1], particles[1])

    def backward(self, rng_key: PRNGKeyArray, exact_draw: Position) -> PyTree:
        """A path of the law Q that ends in an exact draw of the target."""

        def back(positions: Position, at: Any) -> tuple[Position, PyTree]:
            key, b = at
            positions = self._moved(key, positions, b)
            return positions, self._seen(positions)

        last = jax.tree.map(lambda x: x[None], exact_draw)
        keys = random.split(rng_key, len(self.temperatures))
        _, before = lax.scan(back, last, (keys, self.temperatures), reverse=True)
        path = jax.tree.map(
            lambda x, end: jnp.concatenate([x, end[None]]), before, self._seen(last)
        )
        return jax.tree.map(lambda x: x[:, 0], path)

    def _moved(self, rng_key: PRNGKeyArray, positions: Position, b: Array) -> Position:
        equal = jnp.zeros(jax.tree.leaves(positions)[0].shape[0], self.temperatures.dtype)
        num = self.num_moves
        return move(rng_key, self.kernel, self.path.at(b), positions, equal, num, num).positions

    def _seen(self, positions: Position) -> tuple[Position, Float[Array, " n"]]:
        return positions, self.path.log_ratios(positions)


def log_evidence_given(
    rng_key: PRNGKeyArray, walk: FrozenWalk, n: int, exact_draw: Position, threshold: Any
) -> Float[Array, ""]:
    """Log-evidence of one run of ``n`` particles, given an exact draw: from above on average."""
    kernel = walk.kernel
    if isinstance(kernel, Gibbs) or kernel.exactness != "exact":
        raise ValueError(
            f"a path is walked backward by reversible moves; those of {type(kernel).__name__} are "
            "none"
        )
    key_back, key_run = random.split(rng_key)
    reference = walk.backward(key_back, exact_draw)
    _, run = conditional_run(key_run, walk, walk.rows, n, reference, threshold=threshold)
    return run.log_evidence
