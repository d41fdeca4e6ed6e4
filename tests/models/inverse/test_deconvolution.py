"""The blur is the average over a square; the likelihood and its curvature are those of the page."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models.inverse.deconvolution import deconvolution


def test_the_photograph_is_an_image_between_0_and_1_and_the_observation_is_worse():
    problem = deconvolution()
    assert problem.truth.shape == (64, 64)
    assert 0 <= problem.truth.min() < 0.1
    assert 0.9 < problem.truth.max() <= 1
    assert problem.decibels(problem.observation) == pytest.approx(19.8, abs=0.1)


def test_the_blur_is_the_mean_over_a_square_around_a_pixel():
    image = np.random.default_rng(0).uniform(size=(16, 12)).astype(np.float32)
    problem = deconvolution(image, width=5)
    np.testing.assert_allclose(
        problem.blur(problem.truth)[7, 6], image[5:10, 4:9].mean(), rtol=1e-5
    )


def test_the_likelihood_is_that_of_the_noise_and_its_curvature_is_reached():
    problem = deconvolution(noise_sd=0.1)
    density, gradient = jax.value_and_grad(problem.likelihood.log_density)(problem.truth)
    assert density == pytest.approx(-64 * 64 / 2, rel=0.1)
    moved = jax.grad(problem.likelihood.log_density)(problem.truth + 1.0)
    assert problem.largest_curvature == pytest.approx(100)
    np.testing.assert_allclose(jnp.mean(gradient - moved), 100, rtol=1e-3)


def test_a_width_that_does_not_fit_is_refused():
    for width in (4, 65):
        with pytest.raises(ValueError, match=f"odd width within it; got .* width {width}"):
            deconvolution(width=width)
