"""Estimates of the denoiser of an energy are those of its closed form."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import random

from agreement import z_limit
from models.targets.gaussian_mixture import GaussianMixture
from samplers.diffusion import posterior_means
from samplers.diffusion.paths import MeanReverting
from samplers.diffusion.posterior_means import InnerImportance, InnerLangevin, InnerRecursive

pytestmark = pytest.mark.usefixtures("unoptimized")

MIXTURE = GaussianMixture([[-2.0, 0.0], [2.0, 1.0]], [0.7, 1.0], [0.3, 0.7])
PATH = MeanReverting(0.0, 2.0, 1.0, 0.01, 1.0)
ESTIMATES = {
    "importance": InnerImportance(512),
    "langevin": InnerLangevin(256, 16, 16, step_size=0.1),
    "recursive": InnerRecursive(InnerImportance(256), 2, 24),
}
POINTS = jnp.array([[-3.0, 1.0], [0.2, 0.4], [2.5, -0.5]])
KAPPAS = jnp.array([0.3, 1.0, 3.5])  # the last one lies on the second segment of the path
KEYS = 64


@eqx.filter_jit
def estimated(mean, target):
    """One estimate for each key, point and level, (keys, levels, points, d)."""
    one = lambda key, y, kappa: mean(key, target.log_density, y, kappa)
    points = jax.vmap(jax.vmap(one, (0, None, None)), (None, 0, None), 1)
    keys = random.split(random.key(3), KEYS)
    return jnp.swapaxes(jax.lax.map(lambda kappa: points(keys, POINTS, kappa), KAPPAS), 0, 1)


def scores(mean, slack):
    """How far the mean of the estimates is from the closed form, beyond a slack, in its errors."""
    found = np.asarray(estimated(mean.on(PATH), MIXTURE), np.float64)
    exact = [[MIXTURE.denoise(y, kappa) for y in POINTS] for kappa in KAPPAS]
    error = found.std(axis=0, ddof=1) / np.sqrt(KEYS)
    difference = np.abs(found.mean(axis=0) - np.asarray(exact))
    return np.maximum(difference - slack, 0) / error


# Ratios of averages are biased by 1 / draws, Langevin steps by their length: known to be small.
SLACK = {"importance": 0.02, "langevin": 0.08, "recursive": 0.15}


@pytest.mark.parametrize("name", ESTIMATES)
def test_estimates_are_the_closed_form(name):
    assert scores(ESTIMATES[name], SLACK[name]).max() < z_limit(3 * 18)


@pytest.mark.parametrize("name", ["importance", "recursive"])
def test_an_estimate_without_the_weights_of_the_target_is_caught(name, monkeypatch):
    monkeypatch.setattr(posterior_means, "weighed", lambda log_density, x: jnp.zeros(len(x)))
    estimated._cached.clear_cache()
    try:
        assert scores(ESTIMATES[name], SLACK[name]).max() > z_limit(3 * 18)
    finally:
        estimated._cached.clear_cache()


def test_a_density_that_is_no_number_weighs_nothing_and_none_at_all_means_equal_weights():
    x = jnp.array([[0.0], [1.0], [2.0]])
    half = lambda x: jnp.where(x[0] > 0.5, x[0], jnp.nan)
    np.testing.assert_array_equal(posterior_means.weighed(half, x), [-np.inf, -1.0, 0.0])
    never = lambda x: x[0] * jnp.nan
    np.testing.assert_array_equal(posterior_means.weighed(never, x), [0.0, 0.0, 0.0])


def test_evaluations_are_those_that_are_made():
    """Counted by a density that reports every call."""
    calls = []

    def log_density(x):
        jax.debug.callback(lambda _: calls.append(1), x[0], ordered=False)
        return -jnp.vdot(x, x) / 2

    for mean in (InnerImportance(5), InnerRecursive(InnerImportance(3), 3, 2)):
        mean = mean.on(PATH)
        for kappa in (0.1, 4.0):
            calls.clear()
            with jax.disable_jit():
                mean(random.key(0), log_density, jnp.ones(1), jnp.asarray(kappa))
            jax.effects_barrier()
            assert mean.evaluations(np.array([kappa])).tolist() == [len(calls), 0]
