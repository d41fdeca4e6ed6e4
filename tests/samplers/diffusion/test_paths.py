"""Noise paths and their inverses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import random

from noise_paths import PATHS, times
from samplers.diffusion import paths


@pytest.fixture(params=PATHS)
def path(request):
    return PATHS[request.param]


def round_trip(path):
    t = times(path)
    return np.max(np.abs(path.time(path.log_snr(t)) / t.clip(1e-6) - 1)[1:])


def test_the_time_of_a_signal_to_noise_ratio_is_its_inverse(path):
    assert round_trip(path) < 1e-9


def test_a_wrong_inverse_is_caught():
    class Wrong(paths.VPLinear):
        def time(self, log_snr):
            return super().time(2 * log_snr)  # the other convention of the ratio

    assert round_trip(Wrong()) > 1e-2


def test_the_ratio_falls_along_the_path_and_alpha_and_sigma_make_it(path):
    t = times(path)
    level = path.level(t)
    assert np.all(np.diff(path.log_snr(t)) < 0)
    np.testing.assert_allclose(np.log(level.alpha / level.sigma), path.log_snr(t), atol=1e-10)
    np.testing.assert_allclose(np.exp(path.log_snr(t)) * level.kappa, 1.0, rtol=1e-10)


def test_rates_are_derivatives(path):
    # Away from the beginning, where some sigma have the slope of a root.
    t = times(path)[5:-1]
    step = 1e-6 * t
    level, after, before = path.level(t), path.level(t + step), path.level(t - step)
    for name in ("alpha", "sigma"):
        slope = (getattr(after, name) - getattr(before, name)) / (2 * step)
        np.testing.assert_allclose(getattr(level, f"{name}_rate"), slope, rtol=1e-5, atol=1e-8)


def test_variances_add_up_where_the_name_says_so():
    for name in ("VPLinear", "VPCosine"):
        level = PATHS[name].level(times(PATHS[name]))
        np.testing.assert_allclose(level.alpha**2 + level.sigma**2, 1.0, rtol=1e-12)
    level, linear = (PATHS[name].level(times(PATHS[name])) for name in ("SubVP", "VPLinear"))
    np.testing.assert_allclose(level.sigma, linear.sigma**2, rtol=1e-10)


def test_jax_says_what_numpy_says(path):
    t = times(path, 7)
    expected = path.level(t)
    level, log_snr = jax.jit(lambda path, t: (path.level(t), path.log_snr(t)))(path, jnp.array(t))
    for value, other in zip(level, expected, strict=True):
        assert value.dtype == jnp.float32
        np.testing.assert_allclose(value, other, rtol=2e-4, atol=1e-6)
    back = jax.jit(lambda path, x: path.time(x))(path, log_snr)
    np.testing.assert_allclose(back, t, rtol=2e-3, atol=1e-6)


def test_student_noise_has_the_length_that_the_paper_gives(x64):
    n, degrees = 3, 10.0
    path = paths.PFGM(num_augmented=degrees)
    keys = random.split(random.key(0), 40_000)
    noise = jax.vmap(lambda key: path.noise(key, (n,), float))(keys)
    squares = np.sum(np.asarray(noise) ** 2, axis=1)
    error = squares.std() / np.sqrt(len(squares))
    assert abs(squares.mean() - n * degrees / (degrees - 2)) < 4.9 * error
    assert abs(squares.mean() - n) > 4.9 * error  # as normal noise would have


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: paths.VPLinear(beta_max=-1.0), "beta_max must be a number above 0; got -1.0"),
        (
            lambda: paths.StraightFlow(t_max=1.0),
            "t_max must be a number above 0 and below 1",
        ),
        (lambda: paths.EDM(t_min=3.0, t_max=2.0), "EDM: t_min must be below t_max; got 3.0 and 2"),
        (lambda: paths.VE(sigma_min="a"), "sigma_min must be a number above 0; got 'a'"),
    ],
)
def test_a_path_that_is_none_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
