"""ULA's stationary law on a Gaussian is known, bias and all."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import random

import ppl
from agreement import t_limit, t_scores
from chains import NUM_CHECKS, run
from samplers.langevin import ula
from samplers.langevin.ula import ULA

STEP_SIZE, DIMENSION, NUM_CHAINS = 0.1, 100, 128
VARIANCE = 1 / (1 - STEP_SIZE / 2)
STANDARD = ppl.from_log_density(lambda x: -0.5 * jnp.sum(x**2), jnp.zeros(DIMENSION))


def score_of_the_variance(truth: float, variant: str = "right") -> float:
    key_start, key_run = random.split(random.key(0))
    starts = VARIANCE**0.5 * random.normal(key_start, (NUM_CHAINS, DIMENSION))
    positions, _ = run(ULA(step_size=STEP_SIZE), STANDARD, key_run, starts, 300, variant)
    squares = np.mean(np.asarray(positions, np.float64) ** 2, axis=(0, 2))
    return float(np.abs(t_scores(squares, truth)))


LIMIT = t_limit(NUM_CHECKS, NUM_CHAINS - 1)


def test_ula_variance_matches_the_known_bias():
    assert score_of_the_variance(VARIANCE) < LIMIT


def test_ula_is_biased_and_the_check_can_tell():
    assert score_of_the_variance(1.0) > LIMIT


def test_noise_of_half_the_variance_is_caught(monkeypatch):
    def smaller(rng_key, tree):
        return jax.tree.map(lambda xi: xi / 2**0.5, optax.tree.random_like(rng_key, tree))

    monkeypatch.setattr(ula, "optax", SimpleNamespace(tree=SimpleNamespace(random_like=smaller)))
    assert score_of_the_variance(VARIANCE, "smaller noise") > LIMIT


@pytest.mark.parametrize("h", [0.05, 0.3])
def test_one_step_of_ula_is_the_formula(h):
    target = ppl.from_log_density(lambda x: -jnp.cosh(x), jnp.zeros(()))
    state = ULA(step_size=h).init(random.key(1), target, jnp.asarray(0.7))
    new, info = ULA(step_size=h).step(random.key(1), target, state)
    noise = optax.tree.random_like(random.key(1), jnp.asarray(0.7))
    np.testing.assert_allclose(
        new.position, 0.7 - h * np.sinh(0.7) + np.sqrt(2 * h) * noise, rtol=1e-6
    )
    assert info.num_evaluations.tolist() == [1, 1]


def test_ula_that_explodes_stops_at_the_last_finite_position():
    target = ppl.from_log_density(lambda x: -jnp.sum(x**4), jnp.zeros(2))
    positions, infos = run(ULA(step_size=1.0), target, random.key(0), jnp.ones((4, 2)), 50)
    assert np.isfinite(positions).all()
    assert bool(infos.diverging[-1].all())


def test_ula_has_no_step_size_of_its_own():
    with pytest.raises(TypeError, match="step_size"):
        ULA()  # pyright: ignore[reportCallIssue]
