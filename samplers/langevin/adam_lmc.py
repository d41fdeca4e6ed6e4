"""Adam Langevin Monte Carlo (Adam LMC): a heuristic, Langevin steps with Adam's direction added.

    m' = b1 m + (1 - b1) g,   v' = b2 v + (1 - b2) g^2,   g = grad log pi(x)
    x' = x + h (g + a m' / (sqrt(v') + eps)) + sqrt(2 h) xi,   xi ~ N(0, I)

Where gradients differ by orders of magnitude between coordinates, as those of networks do, the
second drift moves all of them at one speed; it comes on top of the plain one, and nothing makes up
for it. So the law is wrong however short the steps are: too narrow, near an optimum. With a = 0
this is `ULA`. On N(0, 1) with b2 near one, the stationary variance s is that of a linear recursion,
with ``k = a / sqrt(s)``,

    S = F S F^T + diag(2 h, 0),   F = [[1 - h (1 + k (1 - b1)), -h k b1], [1 - b1, b1]],   s = S_11

which as h goes to zero becomes ``s + a sqrt(s) = 1``: 0.905 with a = 0.1, 0.382 with a = 1, where
it should be 1. For exploring a loss, or Thompson sampling [1]; not for error bars.

References
----------
.. [1] Ishfaq et al., "Provable and practical: efficient exploration in reinforcement learning via
   Langevin Monte Carlo", ICLR 2024, arXiv:2305.18246. Algorithm 2.
.. [2] Kim, Song and Liang, "Stochastic gradient Langevin dynamics algorithms with adaptive drifts",
   J. Stat. Comput. Simul. 92, 2022, arXiv:2009.09535. The drift.
"""

from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree

from ppl.energy import Energy, Position
from ppl.sampler import Exactness, MarkovKernel, fraction, nonnegative, positive, where
from samplers.mcmc.metropolis import all_finite


class AdamLMCState(NamedTuple):
    """A position, log-density (nats) and gradient there; Adam's means of gradient and square."""

    position: PyTree
    log_density: Float[Array, ""]
    gradient: PyTree
    mean: PyTree
    square: PyTree


class AdamLMCInfo(NamedTuple):
    """Whether the step led to no finite density, and was not taken."""

    diverging: Bool[Array, ""]
    num_evaluations: Int[Array, "2"]


class AdamLMC(MarkovKernel):
    """Adam Langevin Monte Carlo: biased, whatever the step size.

    Parameters
    ----------
    step_size
        The h above, in squared units of the position. There is no default and no warm-up.
    weight
        The a above, the weight of Adam's drift, in inverse units of the position.
    decay, square_decay
        The b1 and b2 above.
    epsilon
        The eps above, in units of the gradient.

    Differences from the paper
    --------------------------
    The paper minimizes a loss L at inverse temperature beta, with minibatches; here the target is
    ``exp(-beta L)``, its own gradient is used, and its temperature is that of `ppl.tempered`. A
    step to a density or gradient that is not finite is not taken, and is counted as a divergence.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"log_density", "gradient"})
    exactness: ClassVar[Exactness] = "biased"

    step_size: Float[Array, ""] = positive("step_size")
    weight: Float[Array, ""] = nonnegative("weight", default=0.1)
    decay: Float[Array, ""] = fraction("decay", default=0.9)
    square_decay: Float[Array, ""] = fraction("square_decay", default=0.999)
    epsilon: Float[Array, ""] = positive("epsilon", default=1e-8)

    def init(self, rng_key: PRNGKeyArray, target: Energy, position: Position) -> AdamLMCState:
        nothing = optax.tree.zeros_like(position)
        value, gradient = jax.value_and_grad(target.log_density)(position)
        return AdamLMCState(position, value, gradient, nothing, nothing)

    def step(
        self, rng_key: PRNGKeyArray, target: Energy, state: AdamLMCState
    ) -> tuple[AdamLMCState, AdamLMCInfo]:
        h, a = self.step_size, self.weight
        noise = optax.tree.random_like(rng_key, state.position)

        def average(old: Array, new: Array, decay: Array) -> Array:
            return (decay * old + (1 - decay) * new).astype(old.dtype)

        g, b1, b2 = state.gradient, self.decay, self.square_decay
        mean = jax.tree.map(lambda m, g: average(m, g, b1), state.mean, g)
        square = jax.tree.map(lambda v, g: average(v, g**2, b2), state.square, g)

        def move(x: Array, g: Array, m: Array, v: Array, xi: Array) -> Array:
            drift = g + a * m / (jnp.sqrt(v) + self.epsilon)
            return (x + h * drift + jnp.sqrt(2 * h) * xi).astype(x.dtype)

        position = jax.tree.map(move, state.position, g, mean, square, noise)
        value, gradient = jax.value_and_grad(target.log_density)(position)
        proposed = AdamLMCState(position, value, gradient, mean, square)
        finite = all_finite(proposed)
        return where(finite, proposed, state), AdamLMCInfo(~finite, jnp.array([1, 1], jnp.int32))
