"""SGLD's stationary variance on a conjugate posterior is known, bias of step and minibatch."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import random

import conjugate
import ppl
from agreement import t_limit, t_scores
from chains import NUM_CHECKS, run
from samplers.langevin import minibatch
from samplers.langevin.sgld import SGLD
from samplers.langevin.ula import ULA

pytestmark = pytest.mark.usefixtures("unoptimized")

STEP_SIZE, BATCH, NUM_CHAINS = 0.004, 5, 256
A, N = conjugate.PRECISION, conjugate.NUM_DATA
LIMIT = t_limit(NUM_CHECKS, NUM_CHAINS - 1)


def variance(batch_size):
    noise = STEP_SIZE * conjugate.gradient_variance(batch_size)
    return (2 + noise) / (A * (2 - STEP_SIZE * A))


def scores_of(batch_size, truth, variant="right"):
    """Scores of the mean and of the variance about the posterior mean."""
    key_start, key_run = random.split(random.key(0))
    starts = conjugate.MEAN + np.sqrt(variance(batch_size)) * random.normal(
        key_start, (NUM_CHAINS,)
    )
    kernel = SGLD(STEP_SIZE, batch_size)
    positions, infos = run(kernel, conjugate.target(), key_run, {"mu": starts}, 200, variant)
    x = np.asarray(positions["mu"], np.float64) - conjugate.MEAN
    found = t_scores(np.stack([x, x**2], axis=-1).mean(axis=0), [0.0, truth])
    return np.abs(found), infos


def test_the_variance_is_the_known_one_of_step_and_minibatch():
    found, _ = scores_of(BATCH, variance(BATCH))
    assert (found < LIMIT).all()


def test_the_noise_of_the_minibatch_is_in_it_and_the_check_can_tell():
    assert variance(BATCH) > 1.8 * variance(N)
    found, _ = scores_of(BATCH, variance(N))
    assert found[1] > LIMIT


def test_all_data_in_a_batch_leave_the_bias_of_ula():
    found, _ = scores_of(N, variance(N))
    assert (found < LIMIT).all()
    assert variance(N) == pytest.approx(1 / A / (1 - STEP_SIZE * A / 2))


def test_a_batch_that_is_not_scaled_up_to_the_data_is_caught(monkeypatch):
    def unscaled(rng_key, target, position, batch_size):
        rows = random.randint(rng_key, (batch_size,), 0, target.num_data)
        log_posterior = lambda p: target.log_prior(p) + target.log_likelihood_at(p, rows)
        return jax.grad(log_posterior)(position)

    monkeypatch.setattr(minibatch, "estimated_gradient", unscaled)
    found, _ = scores_of(BATCH, variance(BATCH), "unscaled")
    assert found[1] > LIMIT


def test_a_step_with_all_data_is_a_step_of_ula():
    target, key = conjugate.target(), random.key(1)
    start = {"mu": jnp.asarray(0.3)}
    kernel = SGLD(0.01, N)
    new, _ = jax.jit(lambda: kernel.step(key, target, kernel.init(key, target, start)))()
    noise = optax.tree.random_like(random.split(key)[0], start)["mu"]
    gradient = ULA(0.01).init(key, target, start).gradient["mu"]
    np.testing.assert_allclose(
        new.position["mu"], 0.3 + 0.01 * gradient + np.sqrt(0.02) * noise, rtol=1e-5
    )


def test_ten_batches_of_a_tenth_of_the_data_are_one_evaluation():
    draws = ppl.sample(
        SGLD(STEP_SIZE, BATCH), conjugate.target(), num_samples=100, num_warmup=0, num_chains=2,
        progress=False,
    )  # fmt: skip
    assert draws.run.evaluations["sample"] == [20, 20]
    _, infos = scores_of(20, 1.0)
    assert infos.num_evaluations[:, 0, 0].tolist()[:5] == [0, 0, 1, 0, 1]


def test_a_model_that_only_ever_sees_some_rows_is_sampled_all_the_same():
    draws = ppl.sample(
        SGLD(STEP_SIZE, BATCH), conjugate.target(rows_used=10), num_samples=400, progress=False
    )
    assert abs(draws["mu"].mean() - conjugate.MEAN) < 0.1
    assert abs(draws["mu"].var() / variance(BATCH) - 1) < 0.3


def test_a_batch_larger_than_the_data_is_refused():
    with pytest.raises(ppl.TargetError, match=r"batch_size=51\).* 50 rows.*batch_size=50 or less"):
        ppl.sample(SGLD(0.01, 51), conjugate.target(), progress=False)


def test_a_target_without_rows_is_refused():
    target = ppl.from_log_density(lambda x: -(x**2), jnp.zeros(()))
    with pytest.raises(ppl.TargetError, match="SGLD needs 'log_likelihood_at'"):
        ppl.sample(SGLD(0.01, 5), target, progress=False)


def test_steps_that_explode_stop_at_the_last_finite_position():
    positions, infos = run(
        SGLD(1.0, BATCH), conjugate.target(), random.key(0), {"mu": jnp.ones(4)}, 60
    )
    assert np.isfinite(positions["mu"]).all()
    assert bool(infos.diverging[-1].all())
