"""AdjustedMCLMC is exact: its Metropolis test counts the kinetic energy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import random

import ppl
from chains import agrees, banana, gaussian, scores
from samplers.mcmc import adjusted_mclmc
from samplers.mcmc.adjusted_mclmc import AdjustedMCLMC
from samplers.mcmc.metrics import Dense, Identity

pytestmark = pytest.mark.usefixtures("unoptimized")

BANANA = AdjustedMCLMC(step_size=0.9, metric=Identity())


def test_adjusted_mclmc_leaves_the_banana_invariant():
    assert agrees(scores(BANANA, banana()))


def test_adjusted_mclmc_leaves_a_correlated_gaussian_invariant_under_a_dense_metric():
    metric = Dense(np.linalg.cholesky([[1.0, 0.7], [0.7, 2.0]]))
    assert agrees(scores(AdjustedMCLMC(0.9, metric), gaussian([1.0, 2.0], 0.5)))


def test_a_metropolis_test_without_the_kinetic_energy_is_caught(monkeypatch):
    right = adjusted_mclmc.integrator

    def forgetful(*args):
        def step(state, step_size):
            state, kinetic = right(*args)(state, step_size)
            return state, 0 * kinetic

        return step

    monkeypatch.setattr(adjusted_mclmc, "integrator", forgetful)
    assert not agrees(scores(BANANA, banana(), variant="no kinetic energy"))


@pytest.mark.parametrize("step_size", [0.2, 0.9])
def test_trajectories_have_the_mean_length_asked_for(step_size):
    kernel = AdjustedMCLMC(step_size, trajectory_length=2.5)
    keys = random.split(random.key(0), 20_000)
    steps = jax.vmap(lambda key: kernel._num_steps(key, jnp.asarray(step_size)))(keys)
    assert abs(steps.mean() * step_size - 2.5) < 0.05
    assert steps.min() == 1


def test_evaluations_are_two_gradients_a_step():
    target = gaussian([1.0, 1.0]).target
    kernel = AdjustedMCLMC().resolve(target)
    state = kernel.init(random.key(0), target, jnp.ones(2))
    _, info = jax.jit(lambda key: kernel.step(key, target, state))(random.key(1))
    assert info.num_evaluations.tolist() == [2 * int(info.n_steps)] * 2


@pytest.mark.slow
def test_chains_that_start_ten_thousand_deviations_out_arrive():
    """There, log-densities of 1e8 leave the Metropolis test no digit in float32."""
    target = gaussian(np.ones(6)).target
    far = 1e4 * random.normal(random.key(1), (4, 6))
    draws = ppl.sample(AdjustedMCLMC(), target, init=far, num_samples=1000, progress=False)
    np.testing.assert_allclose(draws["x"].var(axis=(0, 1)), 1.0, atol=0.2)
    assert abs(draws.stats["acceptance_rate"].mean() - 0.9) < 0.07


def test_one_dimension_is_refused():
    target = ppl.from_log_density(lambda x: -0.5 * x**2, jnp.zeros(()))
    with pytest.raises(ppl.TargetError, match="AdjustedMCLMC .* at least two dimensions"):
        ppl.sample(AdjustedMCLMC(), target, progress=False)
