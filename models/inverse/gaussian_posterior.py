"""Posterior of a Gaussian prior under a linear observation with Gaussian noise, exactly.

    x ~ N(m, C),   y = A x + noise,   R = Cov[noise],   K = A C A^H + R = L L^H,   W = L^-1 A C
    E[x | y] = m + W^H L^-1 (y - A m),   Cov[x | y] = C - W^H W,   y ~ N(A m, K)

A draw is a draw of the prior, x', moved by what its own noisy observation differs from the true one
(perturb and solve [1]):

    x' + W^H L^-1 (y - A x' - noise')

The factors are computed once, on the host in float64, for as many numbers as were observed: some
thousand. Each draw costs one of the prior and a product with W; new data cost nothing.

References
----------
.. [1] Orieux, Féron and Giovannelli, "Sampling high-dimensional Gaussian distributions for general
   linear inverse problems", IEEE Signal Process. Lett. 19, 2012, doi:10.1109/LSP.2012.2189104.
"""

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import random
from jaxtyping import Array, Float, PRNGKeyArray, PyTree
from scipy import linalg

from models.inverse.posterior import ExactPosterior
from ppl.energy import TargetError
from ppl.linear_gaussian import LinearGaussian

ROWS = 64  # of A C that are computed together


class GaussianPosterior(ExactPosterior):
    """The posterior of a Gaussian prior; made by `gaussian_posterior`.

    ``log_density`` is prior times likelihood as `ppl.posterior` has it, up to the constant of the
    prior, so that ``log_normalizer`` is the log-evidence and that constant.
    """

    prior: Any
    likelihood: LinearGaussian
    whitened: Float[Array, "m n"]  # W, with positions raveled
    inverse: Float[Array, "m m"]  # L^-1
    log_det: Float[Array, ""]  # of K

    @property
    def log_evidence(self) -> Float[Array, ""]:
        white = self.inverse @ as_reals(self.likelihood.residual(self.prior.mean))
        constant = white.size / 2 * math.log(2 * math.pi)
        return -0.5 * jnp.vdot(white, white) - 0.5 * self.log_det - constant

    @property
    def modes(self) -> Float[Array, "1 ..."]:
        """The mean."""
        return self.mean[None]

    @property
    def mean(self) -> Float[Array, "..."]:
        """Posterior mean."""
        return self._moved(self.prior.mean, self.likelihood.residual(self.prior.mean))

    @property
    def sd(self) -> Float[Array, "..."]:
        """Posterior standard deviation of each pixel."""
        explained = jnp.sum(self.whitened**2, axis=0).reshape(self.template.shape)
        return jnp.sqrt(self.prior.variance - explained)

    def given(self, observation: PyTree) -> "GaussianPosterior":
        """The same with another observation: nothing has to be factored again."""
        other = self.likelihood.given(observation)
        return eqx.tree_at(lambda self: self.likelihood, self, other)

    def sample(self, rng_key: PRNGKeyArray, n: int) -> Float[Array, "n ..."]:
        key_prior, key_noise = random.split(rng_key)

        def one(key: PRNGKeyArray, x: Array) -> Array:
            residual, noise = self.likelihood.residual(x), self.likelihood.noise(key)
            return self._moved(x, jax.tree.map(jnp.subtract, residual, noise))

        return jax.vmap(one)(random.split(key_noise, n), self.prior.sample(key_prior, n))

    def _moved(self, x: Array, difference: PyTree) -> Array:
        """``x + C A^H K^-1 difference``."""
        white = jnp.matmul(self.inverse, as_reals(difference), precision="highest")
        return x + jnp.matmul(white, self.whitened, precision="highest").reshape(x.shape)


def gaussian_posterior(prior: Any, likelihood: LinearGaussian) -> GaussianPosterior:
    """Factor the posterior of a Gaussian prior.

    Parameters
    ----------
    prior
        Has ``mean``, ``variance``, ``covariance(x)``, the product of its covariance with an array,
        and ``sample``: a `GaussianField`.
    likelihood
        Of positions that are one real array; its noise is not zero.
    """
    likelihood.require_noise("a Gaussian posterior")
    if not hasattr(prior, "covariance"):
        raise TargetError(
            "the prior must be Gaussian, with mean, variance and covariance(x), such as "
            f"models.inverse.gaussian_field.GaussianField(); got {type(prior).__name__}"
        )
    rows = _rows(prior, likelihood)
    seen = likelihood.num_observed
    cross = np.asarray(rows[0], np.float64).reshape(seen, -1)  # A C
    noise = np.asarray(as_reals(_noise_like(likelihood)), np.float64)
    covariance = np.asarray(rows[1], np.float64)  # A C A^H
    covariance = (covariance + covariance.T) / 2 + np.diag(noise**2)
    factor = linalg.cholesky(covariance, lower=True, overwrite_a=True)
    inverse = linalg.solve_triangular(factor, np.eye(seen), lower=True)
    log_det = 2 * np.log(np.diag(factor)).sum()
    dtype = prior.template.dtype
    whitened = inverse @ cross
    array = lambda factor: jnp.asarray(factor, dtype)
    factors: Any = array(whitened), array(inverse), array(log_det)
    return GaussianPosterior(prior, likelihood, *factors)  # pyright: ignore[reportCallIssue]


@eqx.filter_jit
def _rows(prior: Any, likelihood: LinearGaussian) -> tuple[Array, Array]:
    """``A C`` and ``A C A^H``, row by row."""

    def row(weights: Array) -> tuple[Array, Array]:
        spread = prior.covariance(likelihood.adjoint(from_reals(weights, likelihood.observation)))
        return spread, as_reals(likelihood.forward(spread))

    basis = jnp.eye(likelihood.num_observed, dtype=prior.template.dtype)
    return jax.lax.map(row, basis, batch_size=ROWS)


def _noise_like(likelihood: LinearGaussian) -> PyTree:
    """Standard deviations, one for every real number observed."""
    noise = likelihood.noise_std
    if isinstance(noise, jax.Array):
        noise = jax.tree.map(lambda _: noise, likelihood.observation)
    both = lambda y, sd: sd * (1 + 1j) if jnp.iscomplexobj(y) else sd
    return jax.tree.map(
        lambda y, sd: jnp.broadcast_to(both(y, sd), y.shape), likelihood.observation, noise
    )


def as_reals(observation: PyTree) -> Float[Array, " m"]:
    """An observation as a vector of real numbers."""
    parts = [
        jnp.concatenate([leaf.real.reshape(-1), leaf.imag.reshape(-1)])
        if jnp.iscomplexobj(leaf)
        else leaf.reshape(-1)
        for leaf in jax.tree.leaves(observation)
    ]
    return jnp.concatenate(parts)


def from_reals(vector: Float[Array, " m"], like: PyTree) -> PyTree:
    """The inverse of `as_reals`, for an observation of the shapes of ``like``."""
    leaves, structure = jax.tree.flatten(like)
    taken, parts = 0, []
    for leaf in leaves:
        size = leaf.size * (2 if jnp.iscomplexobj(leaf) else 1)
        piece = vector[taken : taken + size]
        taken += size
        if jnp.iscomplexobj(leaf):
            piece = piece[: leaf.size] + 1j * piece[leaf.size :]
        parts.append(piece.reshape(leaf.shape))
    return jax.tree.unflatten(structure, parts)
