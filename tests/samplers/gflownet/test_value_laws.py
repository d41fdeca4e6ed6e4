"""Laws of the numbers of moves are normalized, drawn as they say, and learned on a box."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import random

import ppl
import samplers
from models.environments.box import Box
from samplers.gflownet import value_laws


@pytest.mark.parametrize("said", [np.zeros(12), np.random.default_rng(0).normal(size=12)])
def test_laws_of_values_integrate_to_one_and_draw_what_they_say(said, unoptimized):
    said = jnp.asarray(said, float)
    u = (jnp.arange(20_000) + 0.5) / 20_000
    p = jnp.exp(jax.vmap(lambda u: value_laws.log_prob(said, u[None]))(u))
    assert p.mean() == pytest.approx(1, abs=2e-3)
    noise = value_laws.noise(random.key(0), (20_000,), 1)
    drawn = jax.vmap(value_laws.draw, (0, None))(noise, said)[:, 0]
    for q in (0.1, 0.5, 0.8):
        exact = float(jnp.mean(p * (u < q)))
        found = float(jnp.mean(drawn < q))
        assert abs(found - exact) < 4.9 * np.sqrt(exact * (1 - exact) / 20_000) + 1e-3


def hump(x, center):
    return -0.5 * jnp.sum((x - center) ** 2) / 0.3**2


@pytest.mark.parametrize("trains", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_gflownet_on_a_box_has_the_integral_right_before_and_after_training(trains, unoptimized):
    box = Box(hump, [-1.0, 0.0], [1.0, 3.0], jnp.array([0.2, 2.0]))
    log_z = np.log(2 * np.pi * 0.3**2)  # less than 1e-3 of it lies outside
    gflownet = samplers.GFlowNet(num_updates=150, policy=samplers.MLPPolicy(32), learning_rate=1e-2)
    sampler = gflownet if trains else gflownet.untrained(box)
    draws = ppl.sample(sampler, box, rng_key=1, num_samples=8192, progress=False)
    weights = np.exp(draws.log_weights[0] - log_z)
    assert abs(weights.mean() - 1) < 4.9 * weights.std() / np.sqrt(weights.size) + 1e-3
    ess = weights.sum() ** 2 / (weights**2).sum()
    assert (ess > 0.8 * 8192) if trains else (ess < 0.5 * 8192)
    mean = np.average(draws["x"][0], weights=weights, axis=0)
    assert np.abs(mean - [0.2, 2.0]).max() < 4.9 * 0.3 / np.sqrt(ess) + 1e-3
