"""The error of a denoiser is measured, on data, as its definition says."""

import jax.numpy as jnp
import numpy as np
import pytest
from jax import random

import samplers as s
from samplers.diffusion.error_curve import ErrorCurve

SCALE = 0.7


@pytest.mark.slow  # what is measured is also in test_fitted_schedules
def test_the_curve_of_a_gaussian_is_the_known_one():
    denoiser = lambda x, kappa: x * SCALE**2 / (SCALE**2 + kappa**2)
    prior = s.DiffusionPrior(s.EDM(), denoiser, jnp.zeros(3))
    data = SCALE * random.normal(random.key(0), (20_000, 3))
    curve = ErrorCurve.fit(prior, data, random.key(1), num_levels=30)
    kappa = np.geomspace(0.002, 80, 17)
    exact = SCALE**2 * kappa**2 / (SCALE**2 + kappa**2)
    np.testing.assert_allclose(curve(kappa), exact, rtol=4.9 * np.sqrt(2 / 60_000) + 0.01)
    # The other form, by the score of the noisy law, whose variance is SCALE^2 + kappa^2.
    score = 1 / (SCALE**2 + kappa**2)
    np.testing.assert_allclose(kappa**2 * (1 - kappa**2 * score), exact, rtol=1e-6)


def test_a_line_in_the_logarithms_joins_the_levels():
    curve = ErrorCurve(np.array([-1.0, 0.0]), np.array([4.0, 1.0]))
    assert curve(np.exp(0.5)) == pytest.approx(2.0)
    np.testing.assert_allclose(curve(np.exp([9.0, -9.0])), [4.0, 1.0])
