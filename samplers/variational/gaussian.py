"""Gaussian variational inference by reparametrized gradients, with importance weights.

    q(x) = N(m, L L'),   x = m + L xi,   xi ~ N(0, I)
    maximize  ELBO = E_q[log pi(x) - log q(x)]

``step`` is one Adam update of m and L. The gradient is the path derivative of [2]: the score of q,
which has mean zero, is left out, so the noise of the gradient vanishes where q fits. Draws come
from q with log-weights ``log pi - log q``: weighted, they are asymptotically exact, and their mean
weight is an unbiased estimate of Z; without the weights they are as biased as the fit.

References
----------
.. [1] Kucukelbir et al., "Automatic differentiation variational inference", JMLR 18, 2017,
   arXiv:1603.00788.
.. [2] Roeder, Wu and Duvenaud, "Sticking the landing: simple, lower-variance gradient estimators
   for variational inference", NeurIPS 2017, arXiv:1703.09194.
"""

from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jax import lax, random
from jax.flatten_util import ravel_pytree
from jax.scipy.linalg import solve_triangular
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from ppl.energy import Energy, Position
from ppl.sampler import Exactness, LearnedSampler, positive, size, where
from ppl.template import dimension, float_dtype
from samplers.mcmc.metropolis import all_finite, illegal


class Gaussian(NamedTuple):
    """N(m, L L') on flat positions: m, the log of L's diagonal, and B below it or None.

    ``L = D (I + B / sqrt(d))`` with D diagonal and B strictly lower triangular. Adam moves every
    number by about the learning rate: relative to D and with the root, a row of L then moves by as
    much as its diagonal does. On L itself the first updates of a narrow start would make entries
    below the diagonal larger than those on it, and L^-1 explode, exponentially in d.
    """

    mean: Float[Array, " d"]
    log_diagonal: Float[Array, " d"]
    below: Float[Array, "d d"] | None

    @property
    def factor(self) -> Float[Array, "d d"]:
        """The lower triangular L."""
        return jnp.exp(self.log_diagonal)[:, None] * self._unit

    @property
    def _unit(self) -> Float[Array, "d d"]:
        """L with its rows scaled to a diagonal of ones."""
        d = self.mean.size
        ones = jnp.eye(d, dtype=self.mean.dtype)
        return ones if self.below is None else ones + jnp.tril(self.below, -1) / d**0.5

    def noise(self, rng_key: PRNGKeyArray, n: int) -> Float[Array, "n d"]:
        """Standard normal rows."""
        return random.normal(rng_key, (n, self.mean.size), self.mean.dtype)

    def move(self, noise: Float[Array, "n d"]) -> Float[Array, "n d"]:
        """From standard normal rows to rows of this law."""
        if self.below is None:
            return self.mean + noise * jnp.exp(self.log_diagonal)
        return self.mean + noise @ self.factor.T

    def log_density(self, x: Float[Array, "n d"]) -> Float[Array, " n"]:
        """Normalized log-density of each row, in nats."""
        noise = (x - self.mean) * jnp.exp(-self.log_diagonal)
        if self.below is not None:
            noise = solve_triangular(self._unit, noise.T, lower=True, unit_diagonal=True).T
        log_det = jnp.sum(self.log_diagonal)
        return -0.5 * jnp.sum(noise**2 + jnp.log(2 * jnp.pi), axis=1) - log_det


class GaussianVIState(NamedTuple):
    """The fitted law and Adam's moments."""

    law: Gaussian
    optimizer: Any


class GaussianVIInfo(NamedTuple):
    """The ELBO (nats) before the update; ``diverging`` where it was not finite, and no update."""

    loss: Float[Array, ""]
    elbo: Float[Array, ""]
    diverging: Bool[Array, ""]
    num_evaluations: Int[Array, "2"]


class GaussianVI(LearnedSampler):
    """Gaussian variational inference: asymptotically exact through its weights.

    Parameters
    ----------
    num_updates
        Adam updates; the learning rate falls to zero along a half cosine over them.
    num_draws
        Draws from q for one update.
    learning_rate
        Of the first update, in units of the (unconstrained) position.
    full_rank
        Whether L is lower triangular or diagonal (mean field).

    Differences from the paper
    --------------------------
    [1] steps by an AdaGrad-like rule and differentiates the entropy in closed form; here it is
    Adam and the path derivative of [2]. An update whose ELBO or gradient is not finite is left out.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"log_density", "gradient"})
    exactness: ClassVar[Exactness] = "asymptotically exact"

    num_updates: int = size("num_updates", default=2000)
    num_draws: int = size("num_draws", default=16)
    learning_rate: Float[Array, ""] = positive("learning_rate", default=0.02)
    full_rank: bool = eqx.field(static=True, default=True)

    def init(self, rng_key: PRNGKeyArray, target: Energy) -> GaussianVIState:
        d, dtype = dimension(target.template), float_dtype(target.template)
        below = jnp.zeros((d, d), dtype) if self.full_rank else None
        # A narrow start, as its first draws should not leave the region where pi is finite.
        law = Gaussian(jnp.zeros(d, dtype), jnp.full(d, jnp.log(0.1), dtype), below)
        return GaussianVIState(law, self._optimizer.init(law))

    def step(
        self, rng_key: PRNGKeyArray, target: Energy, state: GaussianVIState
    ) -> tuple[GaussianVIState, GaussianVIInfo]:
        noise = state.law.noise(rng_key, self.num_draws)

        def negative_elbo(law: Gaussian) -> Float[Array, ""]:
            x = law.move(noise)
            # q moves the draws but is held fixed where they are scored: the path derivative.
            log_q = lax.stop_gradient(law).log_density(x)
            return jnp.mean(log_q - _log_density(target, x))

        loss, gradient = jax.value_and_grad(negative_elbo)(state.law)
        updates, optimizer = self._optimizer.update(gradient, state.optimizer)
        updated = GaussianVIState(jax.tree.map(jnp.add, state.law, updates), optimizer)
        finite = all_finite((loss, gradient))
        evaluations = jnp.full(2, self.num_draws, jnp.int32)
        return where(finite, updated, state), GaussianVIInfo(loss, -loss, ~finite, evaluations)

    def draw(
        self, rng_key: PRNGKeyArray, target: Energy, state: GaussianVIState, n: int
    ) -> tuple[Position, Float[Array, " n"]]:
        x = state.law.move(state.law.noise(rng_key, n))
        return jax.vmap(_unravel(target))(x), _log_weights(target, state.law, x)

    def log_weights(
        self, rng_key: PRNGKeyArray, target: Energy, state: GaussianVIState, positions: Position
    ) -> Float[Array, " n"]:
        flat = jax.vmap(lambda position: ravel_pytree(position)[0])(positions)
        return _log_weights(target, state.law, flat)

    def evaluations(self, n: int) -> tuple[int, int]:
        return (n, 0)

    @property
    def _optimizer(self) -> Any:
        return optax.adam(optax.cosine_decay_schedule(self.learning_rate, self.num_updates))


def _log_weights(target: Energy, law: Gaussian, x: Float[Array, "n d"]) -> Float[Array, " n"]:
    log_density = _log_density(target, x)
    log_density = jnp.where(jax.vmap(illegal)(log_density), -jnp.inf, log_density)
    return log_density - law.log_density(x)


def _log_density(target: Energy, x: Float[Array, "n d"]) -> Float[Array, " n"]:
    unravel = _unravel(target)
    return jax.vmap(lambda row: target.log_density(unravel(row)))(x)


def _unravel(target: Energy) -> Callable[[Array], Position]:
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), target.template)
    return ravel_pytree(zeros)[1]
