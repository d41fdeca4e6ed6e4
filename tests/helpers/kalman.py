"""Linear-Gaussian state-space models: the exact filter, smoother and likelihood, in NumPy.

x_0 ~ N(m, P),   x_t ~ N(A x_{t-1}, Q),   y_t ~ N(C x_t, R);   a NaN is missing
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist

import ppl


class Linear(NamedTuple):
    """The model's matrices."""

    m: np.ndarray
    p: np.ndarray
    a: np.ndarray
    q: np.ndarray
    c: np.ndarray
    r: np.ndarray


class Kalman(NamedTuple):
    """Filtered and smoothed means and covariances (leading axis: time), and log p(y)."""

    filtered_mean: np.ndarray
    filtered_cov: np.ndarray
    mean: np.ndarray
    cov: np.ndarray
    log_likelihood: float


def kalman(model: Linear, y: np.ndarray) -> Kalman:
    """Kalman filter and Rauch-Tung-Striebel smoother."""
    filtered, predicted, log_likelihood = [], [], 0.0
    mean, cov = model.m, model.p
    for t, row in enumerate(np.asarray(y, float)):
        if t > 0:
            mean, cov = model.a @ mean, model.a @ cov @ model.a.T + model.q
        predicted.append((mean, cov))
        seen = ~np.isnan(row)
        if seen.any():
            c, residual = model.c[seen], row[seen] - model.c[seen] @ mean
            s = c @ cov @ c.T + model.r[np.ix_(seen, seen)]
            gain = np.linalg.solve(s, c @ cov).T
            log_det = np.linalg.slogdet(2 * np.pi * s)[1]
            log_likelihood -= 0.5 * (log_det + residual @ np.linalg.solve(s, residual))
            mean, cov = mean + gain @ residual, cov - gain @ s @ gain.T
        filtered.append((mean, cov))
    smoothed = [filtered[-1]]
    for (mean, cov), (next_mean, next_cov) in zip(filtered[-2::-1], predicted[:0:-1], strict=True):
        gain = np.linalg.solve(next_cov, model.a @ cov).T
        later_mean, later_cov = smoothed[-1]
        smoothed.append(
            (
                mean + gain @ (later_mean - next_mean),
                cov + gain @ (later_cov - next_cov) @ gain.T,
            )
        )
    filtered_mean, filtered_cov = map(np.stack, zip(*filtered, strict=True))
    mean, cov = map(np.stack, zip(*smoothed[::-1], strict=True))
    return Kalman(filtered_mean, filtered_cov, mean, cov, float(log_likelihood))


# The same as a target ---------------------------------------------------------------------------


def initial(linear):
    return dist.MultivariateNormal(linear.m, linear.p)


def transition(t, x, linear):
    return dist.MultivariateNormal(linear.a @ x, linear.q)


def observation(t, x, linear):
    return dist.MultivariateNormal(linear.c @ x, linear.r)


def state_space(linear: Linear, y: np.ndarray) -> ppl.StateSpaceModel:
    """The model as NumPyro distributions; a row with a NaN in it is missing as a whole."""
    return ppl.StateSpaceModel(initial, transition, observation, y, linear)


def guided(t, x, y, linear):
    """The optimal proposal, p(x_t | x_{t-1}, y_t)."""
    return _given(linear.a @ x, linear.q, y, linear)


def guided_initial(y, linear):
    """p(x_0 | y_0)."""
    return _given(linear.m, linear.p, y, linear)


def _given(mean, cov, y, linear):
    gain = jnp.linalg.solve(linear.c @ cov @ linear.c.T + linear.r, linear.c @ cov).T
    gain = jnp.where(jnp.any(jnp.isnan(y)), 0.0, gain)
    residual = jnp.where(jnp.isnan(y), 0.0, y) - linear.c @ mean
    return dist.MultivariateNormal(mean + gain @ residual, cov - gain @ linear.c @ cov)


def simulated(linear: Linear, num_times: int, seed: int = 0) -> np.ndarray:
    """Data of the model."""
    rng = np.random.default_rng(seed)
    x, rows = rng.multivariate_normal(linear.m, linear.p), []
    for t in range(num_times):
        if t > 0:
            x = rng.multivariate_normal(linear.a @ x, linear.q)
        rows.append(rng.multivariate_normal(linear.c @ x, linear.r))
    return np.array(rows)


# A turning point in the plane, of which one coordinate is seen.
TURNING = Linear(
    m=np.array([1.0, 0.0]),
    p=np.array([[1.0, 0.3], [0.3, 0.5]]),
    a=np.array([[0.9, 0.3], [-0.3, 0.9]]),
    q=np.array([[0.3, 0.1], [0.1, 0.2]]),
    c=np.array([[1.0, 0.5]]),
    r=np.array([[0.25]]),
)
