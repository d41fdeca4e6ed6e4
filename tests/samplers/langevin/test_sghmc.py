"""SGHMC's stationary law on a conjugate posterior solves a Lyapunov equation."""

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
from jax import random

import conjugate
import ppl
from agreement import t_limit, t_scores
from chains import NUM_CHECKS, run
from samplers.langevin import sghmc
from samplers.langevin.sghmc import SGHMC

pytestmark = pytest.mark.usefixtures("unoptimized")

STEP_SIZE, FRICTION, NUM_CHAINS = 0.002, 0.3, 256
A, N = conjugate.PRECISION, conjugate.NUM_DATA
LIMIT = t_limit(NUM_CHECKS, NUM_CHAINS - 1)


def covariance(batch_size, friction=FRICTION):
    """Of position and velocity."""
    h, V = STEP_SIZE, conjugate.gradient_variance(batch_size)
    step = np.array([[1 - h * A, 1 - friction], [-h * A, 1 - friction]])
    noise = (2 * friction * h + h**2 * V) * np.ones((2, 2))
    return scipy.linalg.solve_discrete_lyapunov(step, noise)


def scores_of(batch_size, truth, variant="right"):
    """Scores of mean and variance of the position, once velocities have settled."""
    key_start, key_run = random.split(random.key(0))
    sd = np.sqrt(covariance(batch_size)[0, 0])
    starts = conjugate.MEAN + sd * random.normal(key_start, (NUM_CHAINS,))
    kernel = SGHMC(STEP_SIZE, batch_size, FRICTION)
    positions, _ = run(kernel, conjugate.target(), key_run, {"mu": starts}, 300, variant)
    x = np.asarray(positions["mu"], np.float64)[100:] - conjugate.MEAN
    return np.abs(t_scores(np.stack([x, x**2], axis=-1).mean(axis=0), [0.0, truth]))


@pytest.mark.parametrize("batch_size", [5, N])
def test_the_variance_is_the_known_one_of_step_friction_and_minibatch(batch_size):
    assert (scores_of(batch_size, covariance(batch_size)[0, 0]) < LIMIT).all()


def test_the_noise_of_the_minibatch_is_in_it_and_the_check_can_tell():
    assert covariance(5)[0, 0] > 1.5 * covariance(N)[0, 0]
    assert scores_of(5, covariance(N)[0, 0])[1] > LIMIT


def test_noise_that_does_not_fit_the_friction_is_caught(monkeypatch):
    def louder(rng_key, tree):
        noise = OPTAX.tree.random_like(rng_key, tree)
        return {"mu": 1.2 * noise["mu"]}

    monkeypatch.setattr(sghmc, "optax", Louder(louder))
    assert scores_of(5, covariance(5)[0, 0], "louder")[1] > LIMIT


OPTAX = sghmc.optax


class Louder:
    def __init__(self, random_like):
        self.tree = type("tree", (), {"random_like": staticmethod(random_like)})


def test_at_full_friction_the_variance_is_that_of_sgld():
    h, V = STEP_SIZE, conjugate.gradient_variance(5)
    known = (2 + h * V) / (A * (2 - h * A))
    assert covariance(5, friction=1.0)[0, 0] == pytest.approx(known)


def test_small_steps_of_all_data_lose_the_bias():
    """The bias is of first order in h: half the step, half of it."""
    assert covariance(N)[0, 0] * A == pytest.approx(1, abs=0.05)


def test_a_batch_larger_than_the_data_is_refused():
    with pytest.raises(ppl.TargetError, match=r"SGHMC\(batch_size=51\).* 50 rows"):
        ppl.sample(SGHMC(0.01, 51), conjugate.target(), progress=False)


def test_steps_that_explode_stop_at_the_last_finite_position():
    positions, infos = run(
        SGHMC(1.0, 5), conjugate.target(), random.key(0), {"mu": jnp.ones(4)}, 60
    )
    assert np.isfinite(positions["mu"]).all()
    assert infos.diverging.any()
