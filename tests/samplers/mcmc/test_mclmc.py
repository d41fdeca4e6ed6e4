"""MCLMC's bias on a Gaussian is small, of second order, and held by the energy error."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import random

import ppl
from chains import gaussian, run
from samplers.mcmc import isokinetic
from samplers.mcmc.mclmc import MCLMC, EnergyWarmUp, MCLMCInfo
from samplers.mcmc.metrics import Identity

pytestmark = pytest.mark.usefixtures("unoptimized")

DIMENSION, NUM_CHAINS = 20, 128
STANDARD = ppl.from_log_density(lambda x: -0.5 * jnp.sum(x**2), jnp.zeros(DIMENSION))


@cache
def bias_and_energy_error(step_size: float, variant: str = "right") -> tuple[float, float, float]:
    """Of the variance, its standard error, and the variance of the energy error per dimension."""
    kernel = MCLMC(step_size, metric=Identity())
    starts = random.normal(random.key(0), (NUM_CHAINS, DIMENSION))
    positions, infos = run(kernel, STANDARD, random.key(1), starts, 1000, variant)
    squares = np.mean(np.asarray(positions[100:], np.float64) ** 2, axis=(0, 2))
    error = np.mean(np.asarray(infos.energy_change, np.float64) ** 2) / DIMENSION
    return squares.mean() - 1, squares.std() / NUM_CHAINS**0.5, error


def test_the_bias_at_the_default_energy_error_is_two_percent():
    bias, standard_error, energy_error = bias_and_energy_error(1.2)
    assert abs(bias + 0.022) < 5 * standard_error + 0.002
    np.testing.assert_allclose(energy_error, 5e-4, rtol=0.25)


@pytest.mark.slow
def test_the_bias_is_of_second_order_and_the_energy_error_of_sixth():
    (wide, _, wide_error), (narrow, standard_error, narrow_error) = (
        bias_and_energy_error(1.2),
        bias_and_energy_error(0.6),
    )
    # Higher orders make the wider step worse than the leading one says.
    assert abs(narrow - wide / 4) < 0.002 + 5 * standard_error
    np.testing.assert_allclose(wide_error / narrow_error, 2.0**6, rtol=0.4)


def test_a_force_that_is_too_strong_is_caught(monkeypatch):
    right = isokinetic.esh_dynamics_momentum_update_one_step

    def stronger(inverse_mass_matrix):
        turn = right(inverse_mass_matrix)
        return lambda u, g, *args, **last: turn(u, 1.1 * g, *args, **last)

    monkeypatch.setattr(isokinetic, "esh_dynamics_momentum_update_one_step", stronger)
    bias, standard_error, _ = bias_and_energy_error(1.2, "stronger")
    assert abs(bias + 0.022) > 5 * standard_error + 0.002


@pytest.mark.slow
def test_warm_up_reaches_the_energy_error_and_the_scales():
    known = gaussian(np.logspace(-1, 1, 6), 0.5)
    draws = ppl.sample(MCLMC(), known.target, rng_key=0, num_samples=1000, progress=False)
    energy_error = np.mean(draws.stats["energy_change"] ** 2) / 6
    assert 1e-4 < energy_error < 2e-3
    ratio = draws["x"].reshape(-1, 6).var(axis=0) / np.logspace(-2, 2, 6)
    np.testing.assert_allclose(ratio, 1.0, atol=0.15)
    assert not draws.stats["diverging"].any()


def test_chains_that_start_a_hundred_deviations_out_arrive():
    target = gaussian(np.ones(6)).target
    far = 1e2 * random.normal(random.key(1), (4, 6))
    draws = ppl.sample(MCLMC(), target, init=far, num_samples=1000, progress=False)
    np.testing.assert_allclose(draws["x"].var(axis=(0, 1)), 1.0, atol=0.2)
    assert not draws.stats["arriving"].any()


def test_a_chain_whose_errors_are_wild_has_no_say_over_three_that_agree():
    warmup, kernel = EnergyWarmUp(dimension=4), MCLMC()
    kernel = kernel.resolve(gaussian(np.ones(4)).target)
    adaptation = warmup_state(warmup, kernel)
    errors = jnp.array([0.04, 0.05, 0.045, 1e15])
    infos = MCLMCInfo(
        energy_change=errors,
        diverging=jnp.array([False, False, False, True]),
        arriving=jnp.zeros(4, bool),
        num_evaluations=jnp.zeros((4, 2), jnp.int32),
    )
    tuned, _ = warmup.step(kernel, adaptation, infos)
    # The error 0.045 is as wanted at a step of about 0.25: nothing changes.
    np.testing.assert_allclose(tuned.step_size, 0.25, rtol=0.05)


def warmup_state(warmup, kernel):
    target = gaussian(np.ones(4)).target
    starts, keys = random.normal(random.key(0), (4, 4)), random.split(random.key(1), 4)
    states = jax.vmap(kernel.init, (0, None, 0))(keys, target, starts)
    return warmup.init(random.key(2), target, kernel, states)[1]


def test_one_dimension_is_refused():
    target = ppl.from_log_density(lambda x: -0.5 * x**2, jnp.zeros(()))
    with pytest.raises(ppl.TargetError, match="MCLMC .* at least two dimensions"):
        ppl.sample(MCLMC(), target, progress=False)
