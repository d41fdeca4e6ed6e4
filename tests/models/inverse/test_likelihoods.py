"""Poisson and Laplace noise: densities of SciPy, finite gradients, data of the right law."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from jax import random
from scipy import stats

import ppl
from models.inverse.likelihoods import LaplaceNoise, PoissonCounts
from models.inverse.operators import gaussian_blur

pytestmark = pytest.mark.usefixtures("unoptimized")
BLUR = gaussian_blur((16,), 1.0)
IMAGE = jnp.abs(jnp.sin(jnp.arange(16.0)))


def test_counts_have_the_density_of_poisson():
    counts = jnp.asarray(np.random.default_rng(0).poisson(20, 16), jnp.float32)
    likelihood = PoissonCounts(BLUR, counts, peak=30.0, background=2.0)
    rate = 30 * np.asarray(BLUR(IMAGE), np.float64) + 2
    assert np.isclose(likelihood(IMAGE), stats.poisson.logpmf(counts, rate).sum(), rtol=1e-5)
    # The gradient of the page: peak A^T (y / rate - 1).
    expected = BLUR(30 * (counts / rate - 1))
    np.testing.assert_allclose(jax.jit(jax.grad(likelihood))(IMAGE), expected, rtol=1e-3, atol=1e-3)


def test_in_the_dark_nothing_is_counted_and_gradients_are_numbers():
    dark = PoissonCounts(lambda x: x, jnp.array([0.0, 3.0]))
    assert dark(jnp.array([-1.0, 2.0])) == pytest.approx(stats.poisson.logpmf(3, 2), rel=1e-5)
    assert np.isfinite(jax.grad(dark)(jnp.array([-1.0, 2.0]))).all()
    assert dark(jnp.array([1.0, 0.0])) == -np.inf


def test_outliers_have_the_density_of_laplace():
    likelihood = LaplaceNoise(BLUR, jnp.ones(16), scale=0.2)
    residual = 1 - np.asarray(BLUR(IMAGE), np.float64)
    expected = stats.laplace.logpdf(residual, scale=0.2).sum()
    assert np.isclose(likelihood(IMAGE), expected, rtol=1e-5)
    prior = dist.Normal(jnp.zeros(16), 1.0).to_event(1)
    target = ppl.posterior(prior, likelihood)
    assert np.isclose(target.log_likelihood(IMAGE), expected, rtol=1e-5)


def test_data_are_drawn_from_the_likelihood():
    keys = random.split(random.key(0), 4000)
    poisson = PoissonCounts(BLUR, jnp.zeros(16), peak=5.0, background=1.0)
    counts = np.asarray(jax.jit(jax.vmap(lambda key: poisson.observe(key, IMAGE).counts))(keys))
    rate = np.asarray(poisson.rate(IMAGE))
    assert np.all(np.abs(counts.mean(0) - rate) < 4.9 * np.sqrt(rate / 4000))
    laplace = LaplaceNoise(BLUR, jnp.zeros(16), scale=0.5)
    seen = np.asarray(jax.jit(jax.vmap(lambda key: laplace.observe(key, IMAGE).observation))(keys))
    error = np.abs(seen - np.asarray(BLUR(IMAGE))).mean(0)
    assert np.all(np.abs(error - 0.5) < 4.9 * 0.5 / np.sqrt(4000))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PoissonCounts(BLUR, -jnp.ones(16)), "counts are not negative; the least is -1"),
        (lambda: PoissonCounts(BLUR, jnp.ones(16), peak=0.0), "peak must be a positive number"),
        (lambda: PoissonCounts(BLUR, jnp.ones(16), background=-1.0), "background must be"),
        (lambda: LaplaceNoise(BLUR, jnp.ones(16), scale=-1.0), "scale must be a positive number"),
    ],
)
def test_bad_input_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
