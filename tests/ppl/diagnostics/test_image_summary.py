"""Summaries of draws of an image: weights count, truths are compared, other draws are refused."""

import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

import ppl
from ppl.diagnostics.image_summary import image_summary, observed_images
from report_pages import make_draws

SHAPE, NOISE = (12, 14), 0.5
SEEN = np.arange(168) % 2 == 0


@pytest.fixture
def target(unoptimized):
    prior = dist.Normal(jnp.zeros(SHAPE), 1.0).to_event(2)
    observation = jnp.asarray(np.random.default_rng(1).normal(size=84), jnp.float32)
    likelihood = ppl.LinearGaussian(
        lambda x: x.reshape(-1)[::2], observation, NOISE, template=jnp.zeros(SHAPE)
    )
    return ppl.posterior(prior, likelihood)


def exact(target, size, seed=0):
    """Draws of the posterior, pixel by pixel: gain 0.8 where it is seen."""
    generator = np.random.default_rng(seed)
    mean, sd = np.zeros(168), np.ones(168)
    mean[SEEN] = 0.8 * np.asarray(target.log_likelihood_fn.observation)
    sd[SEEN] = np.sqrt(0.2)
    x = mean + sd * generator.normal(size=(1, size, 168))
    return x.reshape(1, size, *SHAPE).astype(np.float32), mean.reshape(SHAPE), sd.reshape(SHAPE)


def test_pixels_are_summarized_one_by_one(target):
    x, mean, sd = exact(target, 4000)
    found = image_summary(make_draws({"x": x}, target=target))
    assert np.all(np.abs(found.mean - mean) < 4.9 * sd / np.sqrt(4000))
    np.testing.assert_allclose(found.sd, sd, rtol=0.1)
    np.testing.assert_allclose(found.upper - found.lower, 2 * 1.645 * sd, rtol=0.12)
    residual = np.asarray(target.log_likelihood_fn.observation) - x.reshape(4000, -1)[:, ::2]
    assert found.consistency == pytest.approx((residual**2).mean() / NOISE**2, rel=0.02)
    assert found.psnr is found.crps is None


def test_weights_count(target):
    x, mean, sd = exact(target, 3000)
    noise = np.random.default_rng(2).normal(size=3000)
    shifted = x + 0.3 * noise[None, :, None, None].astype(np.float32)
    # Draws moved by 0.3 z and weighted by exp(z) have the mean 0.3 higher.
    found = image_summary(make_draws({"x": shifted}, target=target, log_weights=noise[None]))
    assert abs((found.mean - mean).mean() - 0.3) < 0.05
    plain = image_summary(make_draws({"x": shifted}, target=target))
    assert abs((plain.mean - mean).mean()) < 0.05
    assert np.all(found.lower < found.upper)


def test_errors_against_a_known_truth(target):
    x, mean, sd = exact(target, 999)
    truth = exact(target, 1, seed=5)[0][0, 0]
    found = image_summary(make_draws({"x": x}, target=target), truth)
    mse = np.mean((found.mean - truth) ** 2)
    assert found.psnr == pytest.approx(10 * np.log10(np.ptp(truth) ** 2 / mse), abs=1e-3)
    assert abs(found.coverage - 0.9) < 4.9 * np.sqrt(0.09 / 168)
    assert 0 < found.ssim < 1
    assert found.crps == pytest.approx(sd.mean() / np.sqrt(np.pi), rel=0.4)
    with pytest.raises(ValueError, match=r"truth has the shape \(2, 2\), draws have \(12, 14\)"):
        image_summary(make_draws({"x": x}, target=target), np.zeros((2, 2)))


def test_a_complex_image_is_shown_by_its_modulus(unoptimized):
    template = jnp.zeros((2, 4, 4))
    prior = dist.Normal(template, 1.0).to_event(3)
    likelihood = ppl.LinearGaussian(
        lambda x: x[0] + x[1], jnp.zeros((4, 4)), 1.0, template=template
    )
    x = np.random.default_rng(0).normal(size=(2, 50, 2, 4, 4)).astype(np.float32)
    draws = make_draws({"x": x}, target=ppl.posterior(prior, likelihood))
    expected = np.hypot(x[:, :, 0], x[:, :, 1]).mean((0, 1))
    np.testing.assert_allclose(image_summary(draws).mean, expected, rtol=1e-5)
    assert image_summary(draws, x[0, 0]).ssim is None


def test_other_draws_are_refused(target):
    vector = make_draws({"x": np.zeros((1, 5, 3))}, target=target)
    assert observed_images(vector) is None
    with pytest.raises(ValueError, match=r"over one image, .* got draws of x \[3\] of a Posterior"):
        image_summary(vector)
    assert observed_images(make_draws({"x": np.zeros((1, 5, 4, 4))})) is None
