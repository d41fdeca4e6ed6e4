"""Adam LMC is ULA without its drift, and wrong by a known amount with it."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.linalg
import scipy.optimize
from jax import random

import ppl
from agreement import t_limit, t_scores
from chains import NUM_CHECKS, run
from samplers.langevin import adam_lmc
from samplers.langevin.adam_lmc import AdamLMC
from samplers.langevin.ula import ULA

NUM_CHAINS, DIMENSION, DECAY = 128, 50, 0.9
LIMIT = t_limit(NUM_CHECKS, NUM_CHAINS - 1)
STANDARD = ppl.from_log_density(lambda x: -0.5 * jnp.sum(x**2), jnp.zeros(DIMENSION))


def covariance(h, weight):
    """Of position and mean gradient on N(0, 1), where the mean of the squares stands still."""

    def at(s):
        k = weight / np.sqrt(s)
        step = np.array([[1 - h * (1 + k * (1 - DECAY)), h * k * DECAY], [DECAY - 1, DECAY]])
        return scipy.linalg.solve_discrete_lyapunov(step, np.diag([2 * h, 0]))

    return at(scipy.optimize.brentq(lambda s: at(s)[0, 0] - s, 0.01, 4))


def score(h, weight, truth, variant="right"):
    """Score of the variance, from draws of the law; squares are averaged over 10^6 steps."""
    key_start, key_run = random.split(random.key(0))
    law = covariance(h, weight)
    kernel = AdamLMC(h, weight, DECAY, square_decay=1 - 1e-6)
    starts = random.normal(key_start, (NUM_CHAINS, DIMENSION, 2)) @ np.linalg.cholesky(law).T
    starts = jnp.asarray(starts, jnp.float32)

    @jax.jit
    def squares(states):
        def one(states, t):
            keys = random.split(random.fold_in(key_run, t), NUM_CHAINS)
            states, _ = jax.vmap(kernel.step, (0, None, 0))(keys, STANDARD, states)
            return states, jnp.mean(states.position**2, axis=1)

        return jax.lax.scan(one, states, jnp.arange(400))[1]

    states = jax.vmap(kernel.init, (None, None, 0))(random.key(0), STANDARD, starts[..., 0])
    squared = jnp.full_like(states.square, law[0, 0])
    found = squares(states._replace(mean=starts[..., 1], square=squared))
    return float(np.abs(t_scores(np.mean(np.asarray(found, np.float64), axis=0), truth)))


def test_the_known_values_are_those_of_the_linear_recursion():
    for h, known in [(0.05, 0.6435), (0.02, 0.5173), (0.001, 0.3906)]:
        assert covariance(h, 1.0)[0, 0] == pytest.approx(known, abs=1e-4)
    assert covariance(1e-6, 1.0)[0, 0] == pytest.approx((3 - np.sqrt(5)) / 2, abs=1e-4)
    assert covariance(1e-6, 0.1)[0, 0] == pytest.approx(0.90488, abs=1e-4)
    assert covariance(0.1, 0.0)[0, 0] == pytest.approx(1 / (1 - 0.05))


@pytest.mark.parametrize(("h", "weight"), [(0.05, 1.0), (0.02, 1.0), (0.1, 0.1)])
def test_the_stationary_variance_is_the_known_one(h, weight):
    assert score(h, weight, covariance(h, weight)[0, 0]) < LIMIT


def test_it_is_biased_beyond_what_ula_is_and_the_check_can_tell():
    assert score(0.1, 0.1, covariance(0.1, 0.0)[0, 0]) > LIMIT


def test_a_drift_that_knows_no_momentum_is_caught(monkeypatch):
    """Where the latest gradient stands for the mean."""
    right = jax.tree.map

    def without(f, tree, *rest, **options):
        if getattr(f, "__name__", "") == "move":
            rest = (rest[0], rest[0], *rest[2:])
        return right(f, tree, *rest, **options)

    wrong = SimpleNamespace(tree=SimpleNamespace(map=without), value_and_grad=jax.value_and_grad)
    monkeypatch.setattr(adam_lmc, "jax", wrong)
    assert score(0.05, 1.0, covariance(0.05, 1.0)[0, 0], "no momentum") > LIMIT


def test_without_its_drift_it_is_ula_step_by_step():
    target = ppl.from_log_density(
        lambda p: -jnp.sum(jnp.cosh(p["a"])) - p["b"] ** 4, {"a": jnp.zeros(2), "b": jnp.zeros(())}
    )
    starts = {"a": jnp.ones((3, 2)), "b": jnp.zeros(3)}
    ours, _ = run(AdamLMC(0.1, weight=0.0), target, random.key(0), starts, 100)
    theirs, _ = run(ULA(step_size=0.1), target, random.key(0), starts, 100)
    for part in ours:
        np.testing.assert_array_equal(ours[part], theirs[part])


def test_two_steps_are_the_formula():
    target = ppl.from_log_density(lambda x: -jnp.cosh(x), jnp.zeros(()))
    h, a, b1, b2 = 0.05, 0.5, 0.8, 0.9
    kernel, x, m, v = AdamLMC(h, a, b1, b2), 0.7, 0.0, 0.0
    state = kernel.init(random.key(0), target, jnp.asarray(x))
    for t in range(2):
        key = random.key(t)
        state, info = kernel.step(key, target, state)
        g, xi = -np.sinh(x), float(optax.tree.random_like(key, jnp.asarray(x)))
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
        x = x + h * (g + a * m / (np.sqrt(v) + 1e-8)) + np.sqrt(2 * h) * xi
        np.testing.assert_allclose(state.position, x, rtol=1e-5)
    assert info.num_evaluations.tolist() == [1, 1]


def test_steps_that_explode_stop_at_the_last_finite_position():
    target = ppl.from_log_density(lambda x: -jnp.sum(x**4), jnp.zeros(2))
    positions, infos = run(AdamLMC(1.0), target, random.key(0), jnp.ones((4, 2)), 50)
    assert np.isfinite(positions).all()
    assert bool(infos.diverging[-1].all())


def test_bad_numbers_are_refused_and_zero_is_none():
    with pytest.raises(ValueError, match="weight must be a number that is not negative; got -0.1"):
        AdamLMC(0.1, weight=-0.1)
    with pytest.raises(TypeError, match="step_size"):
        AdamLMC()  # pyright: ignore[reportCallIssue]
