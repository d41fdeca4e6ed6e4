"""The identities between what networks predict, on every path."""

import numpy as np
import pytest

from noise_paths import PATHS, times
from samplers.diffusion import conversions, paths

KINDS = [
    conversions.PredictsDenoised,
    conversions.PredictsNoise,
    conversions.PredictsScore,
    conversions.PredictsV,
    conversions.PredictsVelocity,
]


@pytest.fixture(params=PATHS)
def path(request):
    return PATHS[request.param]


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_network_predicts_and_the_denoised_value_are_each_other_s_inverse(path, kind):
    rng = np.random.default_rng(0)
    t = times(path, 9)[1:]
    x, denoised = rng.normal(size=(2, len(t)))
    level, prediction = path.level(t), kind(np.sin)
    back = prediction.denoised(prediction.output(denoised, x, level), x, level)
    np.testing.assert_allclose(back, denoised, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("kind", KINDS)
def test_predictions_of_clean_data_are_what_networks_are_trained_on(path, kind):
    rng = np.random.default_rng(1)
    data, noise = rng.normal(size=(2, 8))
    level = path.level(times(path, 9)[1:])
    x = level.alpha * data + level.sigma * noise
    expected = {
        "PredictsDenoised": data,
        "PredictsNoise": noise,
        "PredictsScore": -noise / level.sigma,
        "PredictsV": level.alpha * noise - level.sigma * data,
        "PredictsVelocity": level.alpha_rate * data + level.sigma_rate * noise,
    }[kind.__name__]
    np.testing.assert_allclose(kind(np.sin).output(data, x, level), expected, rtol=1e-6, atol=1e-6)


def test_the_velocity_of_the_straight_path_is_noise_less_data():
    level = paths.StraightFlow().level(np.array([0.3]))
    x, denoised = np.array([0.7]), np.array([0.2])
    noise = (x - 0.7 * denoised) / 0.3
    velocity = conversions.PredictsVelocity(np.sin).output(denoised, x, level)
    np.testing.assert_allclose(velocity, noise - denoised, rtol=1e-12)
