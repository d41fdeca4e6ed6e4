"""Weights and laws of times are those of the papers, and only their product matters."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import random
from scipy import stats

import samplers
from samplers.diffusion import losses


def test_a_network_of_zeros_denoises_a_gaussian_exactly(x64):
    denoiser = samplers.Preconditioned(lambda x, t: 0 * x, jnp.array([1.0, -2.0]), jnp.array(0.7))
    y = np.array([0.3, 0.9])
    for kappa in (0.01, 1.0, 50.0):
        exact = (0.49 * y + kappa**2 * np.array([1.0, -2.0])) / (0.49 + kappa**2)
        np.testing.assert_allclose(denoiser(jnp.asarray(y), kappa), exact, rtol=1e-10)


LEVEL = samplers.EDM().level(np.array([0.01, 1.0, 10.0]))


def test_weights_are_those_of_the_papers(x64):
    np.testing.assert_allclose(samplers.MinSNR(5.0)(LEVEL), [5, 1, 0.01])
    np.testing.assert_allclose(samplers.EDMWeight(0.5)(LEVEL), LEVEL.kappa**-2.0 + 4)
    for path in (samplers.VPLinear(), samplers.StraightFlow(), samplers.VE()):
        t = jnp.linspace(0.1, 0.9, 5)
        snr = jax.vmap(jax.grad(lambda t, path=path: path.level(t).kappa ** -2.0))(t)
        np.testing.assert_allclose(losses.likelihood_weight(path.level(t)), -snr / 2, rtol=1e-10)


def test_only_the_product_of_weight_and_law_of_times_matters(x64):
    """Two factorizations of one product have one expected gradient; another weight has another."""
    path, sd = samplers.EDM(t_min=1e-4, t_max=200.0), jnp.array(0.6)
    u = (jnp.arange(200_000) + 0.5) / 200_000
    normal, uniform = samplers.LogNormalNoise(), samplers.UniformTime()
    density = lambda t: stats.norm.pdf(np.log(t / 0.6), -0.5, 1.2) / t * 200.0
    gradient = lambda t: t**2 / (1 + t**2) ** 2
    first = jnp.mean(gradient(normal.quantile(u, path, sd)))
    t = uniform.quantile(u, path, sd)
    np.testing.assert_allclose(jnp.mean(gradient(t) * density(t)), first, rtol=1e-3)
    assert abs(jnp.mean(gradient(t)) / first - 1) > 0.5


@pytest.mark.parametrize(
    "times",
    [samplers.UniformTime(), samplers.LogNormalNoise(), samplers.LogitNormalTime(0.5, 0.8)],
    ids=lambda times: type(times).__name__,
)
def test_times_are_spread_evenly_over_their_law_and_stay_on_the_path(times):
    path, sd = samplers.StraightFlow(t_min=0.1), jnp.array(1.0)
    t = np.sort(times.draw(random.key(0), 1000, path, sd))
    u = (np.arange(1000) + 0.5) / 1000
    expected = np.clip(np.sort(times.quantile(jnp.asarray(u), path, sd)), 0.1, path.t_max)
    np.testing.assert_allclose(t, expected, atol=0.02)
    assert t.min() >= np.float32(0.1)


@pytest.mark.parametrize("law", [samplers.LogNormalNoise, samplers.LogitNormalTime])
def test_numbers_of_a_law_have_a_type_of_their_own(law):
    """As those of one that was saved and loaded have: both run one program."""
    for times in (law(), law(0), law(0.5, 1.0)):
        assert not any(x.weak_type or x.dtype != jnp.float32 for x in jax.tree.leaves(times))
