"""Bare chains of a kernel, and targets whose law is known to the last moment.

Chains start from exact draws, so that a kernel which leaves the target invariant is right at every
step and no burn-in hides anything; the mean over one chain is one independent observation.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import random

import ppl
from agreement import t_limit, t_scores

NUM_CHECKS = 200  # scalar checks of this kind in the whole suite, which share one rate


@eqx.filter_jit
def run(
    kernel: Any, target: Any, rng_key: Any, positions: Any, num_steps: int, variant: str = "right"
) -> tuple[Any, Any]:
    """Positions and infos of chains that start at ``positions``; leading axes (step, chain).

    A test that patches a kernel names its ``variant``: else it would run the program of the kernel
    that was compiled before.
    """
    num_chains = jax.tree.leaves(positions)[0].shape[0]

    def keys(step: Any) -> Any:
        return random.split(random.fold_in(rng_key, step), num_chains)

    def one_step(states: Any, step: Any) -> tuple[Any, Any]:
        states, infos = jax.vmap(kernel.step, (0, None, 0))(keys(step), target, states)
        return states, (states.position, infos)

    states = jax.vmap(kernel.init, (0, None, 0))(keys(num_steps), target, positions)
    return jax.lax.scan(one_step, states, jnp.arange(num_steps))[1]


class Known(NamedTuple):
    """A target, exact draws from it, functions of a position, and their expectations."""

    target: Any
    sample: Callable[[Any, int], Any]
    functions: Callable[[Any], Any]
    truth: np.ndarray


def quadratic(x: Any, precision: Any) -> Any:
    """One function for all Gaussians: equal shapes share their programs."""
    return -0.5 * x @ precision @ x


def gaussian(scales: Any, correlation: float = 0.0) -> Known:
    """Gaussian on vectors with equal correlations: means, and all products of two coordinates."""
    scales = np.asarray(scales, float)
    covariance = correlation * np.outer(scales, scales)
    np.fill_diagonal(covariance, scales**2)
    factor, d = np.linalg.cholesky(covariance), len(scales)
    target = ppl.from_log_density(quadratic, jnp.zeros(d), np.linalg.inv(covariance))
    upper = np.triu_indices(d)

    def functions(x: Any) -> Any:
        return jnp.concatenate([x, jnp.outer(x, x)[upper]])

    def sample(key: Any, n: int) -> Any:
        return random.normal(key, (n, d)) @ factor.T

    return Known(target, sample, functions, np.concatenate([np.zeros(d), covariance[upper]]))


def banana() -> Known:
    """``x ~ N(0, 1)``, ``y | x ~ N(x^2, 1/4)``, ``z | y ~ N(y, 1)``, as a nested position."""

    def log_density(p: Any, width: Any) -> Any:
        x, (y, z) = p["x"], p["rest"]["yz"]
        return -0.5 * (x**2 + ((y - x**2) / width) ** 2 + (z - y) ** 2)

    template = {"x": jnp.zeros(()), "rest": {"yz": jnp.zeros(2)}}

    def sample(key: Any, n: int) -> Any:
        x, e, f = random.normal(key, (3, n))
        y = x**2 + 0.5 * e
        return {"x": x, "rest": {"yz": jnp.stack([y, y + f], axis=1)}}

    def functions(p: Any) -> Any:
        x, (y, z) = p["x"], p["rest"]["yz"]
        return jnp.stack([x, y, z, x**2, y**2, x**2 * y, (z - y) ** 2])

    truth = np.array([0, 1, 1, 1, 3.25, 3, 1])
    return Known(ppl.from_log_density(log_density, template, 0.5), sample, functions, truth)


def scores(
    kernel: Any,
    known: Known,
    *,
    seed: int = 0,
    num_chains: int = 256,
    num_steps: int = 200,
    variant: str = "right",
) -> np.ndarray:
    """Student scores of the known expectations after ``num_steps`` from exact draws."""
    key_start, key_run = random.split(random.key(seed))
    kernel, starts = kernel.resolve(known.target), known.sample(key_start, num_chains)
    positions, _ = run(kernel, known.target, key_run, starts, num_steps, variant)
    values = jax.vmap(jax.vmap(known.functions))(positions)
    return t_scores(np.mean(np.asarray(values, np.float64), axis=0), known.truth)


def agrees(scores: np.ndarray, num_chains: int = 256) -> bool:
    """Whether no score is beyond the suite's limit; NaN never agrees."""
    return bool(np.all(np.abs(scores) < t_limit(NUM_CHECKS, num_chains - 1)))
