"""RED-diff: a descent by Adam on its two terms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import random

import gaussian_inverse as g
import ppl
import samplers
from ppl.noise import normal
from samplers.diffusion.inverse.problem import Problem

# Compiling takes longer than running here.
pytestmark = pytest.mark.usefixtures("unoptimized")


@pytest.fixture(scope="module")
def target():
    return g.problem()


def test_it_is_adam_on_its_two_terms(target):
    """Three moves, in NumPy; the twin has another weight."""
    sampler = samplers.REDDiff(strength=0.4, num_steps=5).resolve(target)
    problem = Problem(target)
    rows = jax.tree.map(lambda x: jnp.asarray(x, float), sampler.steps)
    state = sampler.begin(random.key(0), problem, jax.tree.map(lambda x: x[0], rows))
    ridge = g.A.T @ np.linalg.solve(g.A @ g.A.T + g.NOISE**2 * np.eye(2), g.Y)
    np.testing.assert_allclose(state.mu, ridge, rtol=1e-4)

    def descend(strength):
        mu, first, second = ridge, 0.0, 0.0
        for t in range(1, 4):
            kappa = sampler.steps.start.kappa[t - 1]
            z = mu + kappa * np.asarray(normal(random.key(t), (g.D,)))
            denoiser = g.denoiser(kappa)
            gradient = strength * (mu - denoiser.matrix @ z - denoiser.offset)
            gradient = gradient - g.A.T @ (g.Y - g.A @ mu) / g.NOISE**2
            first, second = 0.9 * first + 0.1 * gradient, 0.99 * second + 0.01 * gradient**2
            mean, square = first / (1 - 0.9**t), second / (1 - 0.99**t)
            mu = mu - 0.1 * mean / (np.sqrt(square) + 1e-8)
        return mu

    for t in range(1, 4):
        row = jax.tree.map(lambda x: x[t - 1], rows)  # noqa: B023
        state = sampler.move(random.key(t), problem, state, row)
    np.testing.assert_allclose(state.mu, descend(0.4), atol=1e-4)
    assert np.max(np.abs(state.mu - descend(0.5))) > 1e-3


def test_it_has_no_spread_to_speak_of(target):
    draws = ppl.sample(samplers.REDDiff(), target, num_samples=64, progress=False)["x"][0]
    sds = np.sqrt(np.diag(g.posterior().covariance))
    assert np.mean(draws.std(0) / sds) < 0.8
