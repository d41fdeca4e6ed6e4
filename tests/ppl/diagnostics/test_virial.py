"""Stein's two identities: level, power, what the numbers mean, and what they cannot see."""

import math

import jax.numpy as jnp
import numpy as np
import pytest

import ppl
from made_draws import make
from ppl.diagnostics.virial import virial_test


def quadratic(p):
    return -0.5 * jnp.sum(p["x"] ** 2) - 0.5 * (p["y"] / 3.0) ** 2


TARGET = ppl.from_log_density(quadratic, {"x": jnp.zeros(4), "y": jnp.zeros(())})


def autoregression(seed, rho=0.6, scale=1.0, shift=0.0, draws=500):
    """Chains of the target; x[2] of a wrong scale, y of a wrong mean."""
    x = np.random.default_rng(seed).normal(size=(4, draws, 5))
    for t in range(1, draws):
        x[:, t] = rho * x[:, t - 1] + math.sqrt(1 - rho**2) * x[:, t]
    x[:, :, 2] *= scale
    return {"x": x[:, :, :4].astype(np.float32), "y": 3 * (x[:, :, 4] + shift).astype(np.float32)}


def rejected(sets):
    return float(np.mean([virial_test(x, TARGET).p_value <= 0.05 for x in sets]))


@pytest.mark.parametrize("rho", [0.6, 0.0, pytest.param(-0.6, marks=pytest.mark.slow)])
def test_exact_draws_are_rejected_at_the_level_at_most(rho):
    share = rejected([autoregression(seed, rho) for seed in range(200)])
    assert share < 0.05 + 3.9 * math.sqrt(0.05 * 0.95 / 200)


def test_numbers_are_the_variance_ratio_and_the_shift():
    found = virial_test(autoregression(0, 0.0, scale=1.3, shift=0.5, draws=4000), TARGET)
    assert found.labels == ["x[0]", "x[1]", "x[2]", "x[3]", "y"]
    np.testing.assert_allclose(found.ratio, [1, 1, 1.69, 1, 1], atol=0.1)
    np.testing.assert_allclose(found.force, [0, 0, 0, 0, -0.5], atol=0.07)
    assert found.p_value < 1e-6


def test_one_scale_among_many_is_seen_and_named():
    found = virial_test(autoregression(0, scale=1.3), TARGET)
    assert found.p_value < 1e-4
    assert found.words.startswith("x[2] seems")
    assert "too wide" in found.words
    assert rejected([autoregression(seed, scale=1.15) for seed in range(20)]) > 0.9
    assert rejected([autoregression(seed, shift=0.3) for seed in range(20)]) > 0.9


def test_correlation_and_far_modes_are_not_seen():
    """The limits that the docstring names."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2000, 2))
    x[:, 1] = 0.7 * x[:, 0] + math.sqrt(1 - 0.49) * x[:, 1]
    flat = ppl.from_log_density(lambda z: -0.5 * jnp.sum(z**2), jnp.zeros(2))
    assert virial_test(x, flat).p_value > 0.01

    def two(z):
        return jnp.logaddexp(-0.5 * jnp.sum((z - 10) ** 2), -0.5 * jnp.sum((z + 10) ** 2))

    half = 10 + rng.normal(size=(2000, 2))
    assert virial_test(half, ppl.from_log_density(two, jnp.zeros(2))).p_value > 0.01


def test_too_few_draws_give_no_number_and_say_how_many_are_needed():
    with pytest.raises(ValueError, match="needs 50 effective draws; there are 40"):
        virial_test(autoregression(0, draws=10), TARGET)
    slow = {name: np.cumsum(x, axis=1) for name, x in autoregression(0).items()}
    with pytest.raises(ValueError, match="needs 50 effective draws"):
        virial_test(slow, TARGET)
    weighted = make(autoregression(0), target=TARGET, kind="direct", log_weights=np.zeros((4, 500)))
    with pytest.raises(ValueError, match="without weights; use the Stein test"):
        virial_test(weighted)
