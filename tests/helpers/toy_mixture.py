"""A mixture of three tilted Gaussians in the plane, its denoiser and its exact flow.

The truth that solvers are measured against: 64 starts at kappa = 10, the probability-flow equation
``dy / dlog(kappa) = y - D(y, kappa)`` solved to 1e-12, down to kappa = 0.05, where no error of the
end of the path mixes with that of the solver.
"""

from functools import cache

import jax.numpy as jnp
import numpy as np
import scipy.integrate
from jax.scipy.special import logsumexp

WEIGHTS = np.array([0.3, 0.5, 0.2])
MEANS = np.array([[-1.2, 0.4], [1.0, -0.6], [0.3, 1.3]])
COVARIANCES = np.array(
    [[[0.10, 0.03], [0.03, 0.06]], [[0.05, -0.02], [-0.02, 0.12]], [[0.08, 0.0], [0.0, 0.04]]]
)
FIRST, LAST = 10.0, 0.05  # kappa


def denoise(y, kappa):
    """E[x_0 | x_0 + kappa eps = y] of one point."""
    data, means, shares = (jnp.asarray(x, y.dtype) for x in (COVARIANCES, MEANS, WEIGHTS))
    covariances = data + kappa**2 * jnp.eye(2, dtype=y.dtype)
    inverses = jnp.linalg.inv(covariances)
    offsets = y - means
    pulls = jnp.einsum("kij,kj->ki", inverses, offsets)
    log_shares = jnp.log(shares) - jnp.log(jnp.linalg.det(covariances)) / 2
    log_shares = log_shares - jnp.sum(offsets * pulls, axis=1) / 2
    shares = jnp.exp(log_shares - logsumexp(log_shares))
    return shares @ (means + jnp.einsum("kij,kj->ki", data, pulls))


def denoise_many(y, kappa):
    """The same of points in the rows, written apart, in NumPy."""
    total = np.zeros_like(y)
    weight = np.zeros(len(y))
    for share, mean, covariance in zip(WEIGHTS, MEANS, COVARIANCES, strict=True):
        full = covariance + kappa**2 * np.eye(2)
        pull = np.linalg.solve(full, (y - mean).T).T
        part = share / np.sqrt(np.linalg.det(full)) * np.exp(-np.sum((y - mean) * pull, 1) / 2)
        total += part[:, None] * (mean + pull @ covariance)
        weight += part
    return total / weight[:, None]


def log_density(y, kappa=0.0):
    """Log-density of points in the rows, with noise of standard deviation kappa."""
    parts = []
    for share, mean, covariance in zip(WEIGHTS, MEANS, COVARIANCES, strict=True):
        full = covariance + kappa**2 * np.eye(2)
        square = np.sum((y - mean) * np.linalg.solve(full, (y - mean).T).T, 1)
        parts.append(np.log(share) - (square + np.log(np.linalg.det(2 * np.pi * full))) / 2)
    return np.logaddexp.reduce(parts)


def sample(rng, n):
    """``n`` exact draws."""
    component = rng.choice(3, n, p=WEIGHTS)
    factors = np.linalg.cholesky(COVARIANCES)[component]
    return MEANS[component] + np.einsum("nij,nj->ni", factors, rng.normal(size=(n, 2)))


@cache
def starts():
    """64 points at the highest level, in units of the data."""
    return FIRST * np.random.default_rng(0).normal(size=(64, 2))


@cache
def ends():
    """Where the exact flow takes them."""
    right = lambda s, y: (y.reshape(-1, 2) - denoise_many(y.reshape(-1, 2), np.exp(s))).ravel()
    span = (np.log(FIRST), np.log(LAST))
    solved = scipy.integrate.solve_ivp(
        right, span, starts().ravel(), method="DOP853", rtol=1e-12, atol=1e-12
    )
    return solved.y[:, -1].reshape(-1, 2)
