"""Stochastic gradient Langevin dynamics (SGLD).

    x' = x + h g(x) + sqrt(2 h) xi,   xi ~ N(0, I)
    g(x) = grad log p(x) + N / n sum_{i in B} grad log p(y_i | x),   B: n rows of the N

`ULA` with the gradient of a minibatch: a step costs n rows instead of N. What is gained in cost is
paid in bias, of two kinds: that of the step, and the noise of g, which heats the chain. Where the
posterior has variance 1 / A and g the variance V, the stationary variance is

    (2 + h V) / (A (2 - h A))

so that h V, which grows like N^2 h / n, must stay below one: smaller steps, or larger batches. With
all the data in each batch it is ULA. The target says how to leave rows out: a NumPyro model needs
one plate around its observed sites, and indexes its data by it.

References
----------
.. [1] Welling and Teh, "Bayesian learning via stochastic gradient Langevin dynamics", ICML 2011,
   https://dl.acm.org/doi/10.5555/3104482.3104568. Equation 4.
.. [2] Vollmer, Zygalakis and Teh, "Exploration of the (non-)asymptotic bias and variance of
   stochastic gradient Langevin dynamics", JMLR 17, 2016, arXiv:1501.00438. Section 3: the bias at
   a fixed step size.
"""

from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import random
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from ppl.energy import Energy, Position
from ppl.sampler import Exactness, MarkovKernel, positive, size, where
from samplers.langevin import minibatch
from samplers.mcmc.metropolis import all_finite


class SGLDState(NamedTuple):
    """A position, a minibatch's gradient there, and the rows used since the last whole pass."""

    position: PyTree
    gradient: PyTree
    rows: Int[Array, ""]


class SGLD(MarkovKernel):
    """Stochastic gradient Langevin dynamics: biased, by the step and by the minibatch.

    Parameters
    ----------
    step_size
        The h above, in squared units of the position. There is no default and no warm-up: the
        step size decides the bias.
    batch_size
        Rows n of a minibatch, drawn with replacement; all rows of the data, once each, where it is
        their number.

    Raises
    ------
    TargetError
        If the batch is larger than the data; before compilation.

    Differences from the paper
    --------------------------
    The step size is fixed, and twice the paper's half: its steps shrink to zero, and with them the
    bias and the speed. A step to a gradient that is not finite is not taken, and is counted as a
    divergence.
    """

    needs: ClassVar[frozenset[str]] = minibatch.NEEDS
    exactness: ClassVar[Exactness] = "biased"

    step_size: Float[Array, ""] = positive("step_size")
    batch_size: int = size("batch_size")

    def check(self, target: Energy) -> None:
        minibatch.check_batch("SGLD", self.batch_size, target)

    def init(self, rng_key: PRNGKeyArray, target: Energy, position: Position) -> SGLDState:
        gradient = minibatch.estimated_gradient(rng_key, target, position, self.batch_size)
        return SGLDState(position, gradient, jnp.int32(0))

    def step(
        self, rng_key: PRNGKeyArray, target: Energy, state: SGLDState
    ) -> tuple[SGLDState, minibatch.MinibatchInfo]:
        h, (key_noise, key_rows) = self.step_size, random.split(rng_key)
        noise = optax.tree.random_like(key_noise, state.position)

        def move(x: Array, gradient: Array, xi: Array) -> Array:
            return (x + h * gradient + jnp.sqrt(2 * h) * xi).astype(x.dtype)

        position = jax.tree.map(move, state.position, state.gradient, noise)
        gradient = minibatch.estimated_gradient(key_rows, target, position, self.batch_size)
        rows, passes = minibatch.count_passes(state.rows, self.batch_size, target)
        finite = all_finite((position, gradient))
        moved = where(finite, SGLDState(position, gradient, rows), state._replace(rows=rows))
        return moved, minibatch.MinibatchInfo(~finite, passes)
