"""Moreau-Yosida unadjusted Langevin algorithm (MYULA), for densities with kinks and walls.

    log pi(x) = log p(x) - g(x),   p smooth, g convex
    x' = x + h grad log p(x) - h / lam (x - prox(x, lam)) + sqrt(2 h) xi,   xi ~ N(0, I)

``grad g`` need not exist, so its Moreau envelope ``g_lam(x) = min_y g(y) + |y - x|^2 / (2 lam)``
stands in for g: smooth, with gradient ``(x - prox(x, lam)) / lam``. Biased twice: the chain follows
``exp(log p - g_lam)``, which is wider than pi, and follows it in steps, as `ULA` does. Both biases
vanish with h and lam. With a constraint for g, draws may lie outside it, by about ``sqrt(lam)``.
`ProximalMALA` removes both; `SKROCK` takes steps some ten times as long for the same gradients.

On the Laplace density ``exp(-|x|)``, of variance 2, the envelope has the variance 2.07006 with
lam = 0.5, 2.00321 with 0.1, and 2.00003 with 0.01.

References
----------
.. [1] Durmus, Moulines and Pereyra, "Efficient Bayesian computation by proximal Markov chain Monte
   Carlo: when Langevin meets Moreau", SIAM J. Imaging Sci. 11, 2018, arXiv:1612.07471. Section 3.2.
"""

from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree

from ppl.energy import Energy, Position
from ppl.proximal import Composite
from ppl.sampler import Exactness, MarkovKernel, positive, where
from samplers.mcmc.metropolis import all_finite
from samplers.mcmc.windows import optional

SMOOTHING = 4.0  # of the step size: with lam = 1 / L the paper's h = 1 / (2 (L + 1 / lam))


class MYULAState(NamedTuple):
    """A position, the target's log-density (nats), and the gradient that drives the chain.

    The log-density is that of the target itself, g included; the gradient is that of the smoothed
    density.
    """

    position: PyTree
    log_density: Float[Array, ""]
    gradient: PyTree


class MYULAInfo(NamedTuple):
    """Whether the step led to no finite density, and was not taken."""

    diverging: Bool[Array, ""]
    num_evaluations: Int[Array, "2"]


class MYULA(MarkovKernel):
    """Moreau-Yosida unadjusted Langevin algorithm: biased, in the step size and the smoothing.

    The target is made by `ppl.composite`, which says what p and g are. A draw costs one gradient
    and one proximal map.

    Parameters
    ----------
    step_size
        The h above, in squared units of the position. There is no default and no warm-up: it
        decides the bias. With a Lipschitz constant L of ``grad log p``, ``1 / (4 L)`` is the
        paper's choice, and ``2 / (L + 1 / smoothing)`` is where the chain explodes.
    smoothing
        The lam above, in the same units. None: ``4 step_size``, which is ``1 / L`` for the paper's
        step size.

    Differences from the paper
    --------------------------
    A step to a density or gradient of p that is not finite is not taken, and is counted as a
    divergence.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"log_density", "gradient", "proximal_map"})
    exactness: ClassVar[Exactness] = "biased"

    step_size: Float[Array, ""] = positive("step_size")
    smoothing: Any = optional(positive("smoothing"))

    def init(self, rng_key: PRNGKeyArray, target: Energy, position: Position) -> MYULAState:
        smoothing = SMOOTHING * self.step_size if self.smoothing is None else self.smoothing
        return MYULAState(position, *smoothed(target, position, smoothing))

    def step(
        self, rng_key: PRNGKeyArray, target: Energy, state: MYULAState
    ) -> tuple[MYULAState, MYULAInfo]:
        h = self.step_size
        noise = optax.tree.random_like(rng_key, state.position)

        def move(x: Array, gradient: Array, xi: Array) -> Array:
            return (x + h * gradient + jnp.sqrt(2 * h) * xi).astype(x.dtype)

        position = jax.tree.map(move, state.position, state.gradient, noise)
        proposed = self.init(rng_key, target, position)
        finite = is_usable(proposed)
        return where(finite, proposed, state), MYULAInfo(~finite, jnp.array([1, 1], jnp.int32))


def smoothed(
    target: Energy, position: Position, smoothing: Float[Array, ""]
) -> tuple[Float[Array, ""], PyTree]:
    """Log-density of the target, and the gradient of ``log p - g_lam``.

    A target without a proximal map is smooth: its own gradient.
    """
    if not isinstance(target, Composite):
        return jax.value_and_grad(target.log_density)(position)
    log_p, gradient = jax.value_and_grad(target.smooth.log_density)(position)

    def pulled(gradient: Array, x: Array, prox: Array) -> Array:
        return gradient - ((x - prox) / smoothing).astype(x.dtype)

    pull = jax.tree.map(pulled, gradient, position, target.prox(position, smoothing))
    return log_p - target.regularization(position), pull


def is_usable(state: Any) -> Bool[Array, ""]:
    """Whether a chain may stand here: also outside a constraint, where the log-density is -inf."""
    legal = state.log_density < jnp.inf  # and no NaN
    return legal & all_finite(state.gradient)
