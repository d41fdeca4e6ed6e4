"""Langevin from the data: a vanilla score, started at the data and stopped early.

    x_0 = a row of the data, drawn at random
    x_{k+1} = x_k + h s(x_k) + sqrt(2 h) xi_k,   k = 0, .., num_steps - 1

A score s that is learned without added noise, by score matching, is good where the data are, and
knows nothing of the weights of modes that lie apart. Both is mended by where chains start: the data
bring the weights along, and a short run, a few times what it takes to mix within one mode, brings
the draws from the rows to the law. A long run forgets the data, and ends at the weights that the
score implies, which are arbitrary. The weights of K modes are off by the sampling error of the n
rows, O(sqrt(K / n)).

References
----------
.. [1] Koehler and Vuong, "Sampling multimodal distributions with the vanilla score: benefits of
   data-based initialization", ICLR 2024, arXiv:2310.01762. Theorem 1.
.. [2] Hyvärinen, "Estimation of non-normalized statistical models by score matching", JMLR 6, 2005,
   https://www.jmlr.org/papers/v6/hyvarinen05a.html.
"""

from collections.abc import Callable
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jax import lax, random
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from ppl.energy import Energy, Position, TargetError
from ppl.sampler import DirectSampler, Exactness, positive, size, where
from ppl.template import describe
from samplers.mcmc.metropolis import all_finite


def _callable(value: Any) -> Any:
    if not callable(value) and type(value) is not object:
        raise ValueError(f"score must be a function of a position; got {value!r}")
    return value


class DataLangevin(DirectSampler):
    """Langevin from the data: biased, independent draws of the law that a data set comes from.

    The target is a data set, `ppl.from_samples`.

    Parameters
    ----------
    score
        ``score(position)``: gradient of the log-density of the data's law, shaped like a position.
        A function, or an Equinox module whose arrays are then traced.
    step_size
        The h above, in squared units of the position: a tenth of the smallest variance of a mode.
    num_steps
        Steps of a draw: ``step_size * num_steps`` is the time at which it stops, a few times the
        largest variance of a mode.

    Raises
    ------
    TargetError
        If the data are not floating, or the score of a row has another shape; before compilation.

    Differences from the paper
    --------------------------
    A draw whose path leaves the finite numbers stays at its last finite position.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"data"})
    exactness: ClassVar[Exactness] = "biased"

    score: Callable[[Position], Position] = eqx.field(converter=_callable)
    step_size: Float[Array, ""] = positive("step_size")
    num_steps: int = size("num_steps", default=100)

    def check(self, target: Energy) -> None:
        leaves = jax.tree.leaves(target.template)
        if not all(jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in leaves):
            raise TargetError(
                "DataLangevin adds Gaussian noise, so the data must be floating; rows of these are "
                f"{describe(target.template)}"
            )
        out = jax.eval_shape(self.score, target.template)
        same = jax.tree.structure(out) == jax.tree.structure(target.template)
        if not same or any(
            a.shape != b.shape for a, b in zip(jax.tree.leaves(out), leaves, strict=True)
        ):
            raise TargetError(
                f"the score of a row must be shaped like the row, {describe(target.template)}; "
                f"got {out}"
            )

    def draw(self, rng_key: PRNGKeyArray, target: Energy, n: int) -> tuple[Position, None]:
        key_rows, key_walk = random.split(rng_key)
        rows = starts(key_rows, target, n)
        return jax.vmap(self._walk)(random.split(key_walk, n), rows), None

    def evaluations(self, n: int) -> tuple[int, int]:
        return (0, n * self.num_steps)

    def _walk(self, rng_key: PRNGKeyArray, position: Position) -> Position:
        h = self.step_size

        def step(position: Position, k: Array) -> tuple[Position, None]:
            noise = optax.tree.random_like(random.fold_in(rng_key, k), position)

            def move(x: Array, s: Array, xi: Array) -> Array:
                return (x + h * s + jnp.sqrt(2 * h) * xi).astype(x.dtype)

            moved = jax.tree.map(move, position, self.score(position), noise)
            return where(all_finite(moved), moved, position), None

        return lax.scan(step, position, jnp.arange(self.num_steps))[0]


def starts(rng_key: PRNGKeyArray, target: Any, n: int) -> PyTree:
    """Rows of the data, drawn with replacement."""
    return target.at(random.randint(rng_key, (n,), 0, target.num_data))
