"""Rules on denoised values: their formulas, that they are off where they say, and memories."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import random

import samplers as s
import toy_mixture
from samplers.diffusion.integrate import integrate
from samplers.diffusion.rules import Plain

PATH = s.EDM(t_min=toy_mixture.LAST, t_max=toy_mixture.FIRST)


def row_at(index, num=8):
    rows = s.DDIM().table(PATH, s.LogSNRUniform(), num).rows
    return jax.tree.map(lambda x: jnp.asarray(x[index], jnp.float32), rows)


def test_thresholding_clips_to_the_quantile_and_shrinks():
    values = jnp.linspace(-3, 3, 101)
    rule = s.Thresholding(quantile=0.9)
    denoised, _ = rule(lambda x, level: values, values, row_at(2), ())
    bound = np.quantile(np.abs(values), 0.9)
    np.testing.assert_allclose(denoised, np.clip(values, -bound, bound) / bound, rtol=1e-5)
    small, _ = rule(lambda x, level: values / 10, values, row_at(2), ())
    np.testing.assert_allclose(small, values / 10, rtol=1e-6)  # inside the range: as it is


def test_noise_scaling_divides_the_noise():
    x, row = jnp.array([2.0, -1.0]), row_at(3)
    denoiser = lambda x, level: 0.3 * x
    denoised, _ = s.NoiseScaling(1.1, 0.01)(denoiser, x, row, ())
    noise = lambda denoised: (x - denoised) / row.level.sigma
    np.testing.assert_allclose(noise(denoised), noise(0.3 * x) / 1.13, rtol=1e-5)


def test_time_shift_finds_the_level_of_the_noise_in_the_point():
    row = row_at(3)
    true = row.level.sigma * 1.07
    x = true * random.normal(random.key(0), (40_000,))
    seen = []
    rule = s.TimeShift(PATH, width=float(0.1 * row.level.t), num_times=41, cutoff=0.0)
    rule(lambda x, level: seen.append(level.t) or 0 * x, x, row, ())
    assert float(seen[0]) == pytest.approx(float(true), rel=0.01)
    off = s.TimeShift(PATH, width=0.1, cutoff=2.0)
    off(lambda x, level: seen.append(level.t) or 0 * x, x, row, ())
    assert float(seen[1]) == float(row.level.t)


def run(rule, num=20, solver=None):
    rows = (solver or s.DDIM()).table(PATH, s.LogSNRUniform(), num, denoise_last=False).rows
    denoiser = lambda x, level: toy_mixture.denoise(x, level.sigma)
    state, carry, _ = integrate(
        random.key(0), denoiser, jnp.asarray(toy_mixture.starts()), rows, rule=rule
    )
    return np.asarray(state.x), carry


def test_dual_fast_is_off_at_zero_and_no_help_to_an_exact_denoiser(x64):
    plain, _ = run(Plain())
    np.testing.assert_allclose(run(s.DualFast(PATH, 0.0))[0], plain, rtol=1e-10)
    error = lambda x: np.sqrt(np.mean((x - toy_mixture.ends()) ** 2))
    fine, extrapolated = (run(rule, 64, s.UniPC(3))[0] for rule in (Plain(), s.DualFast(PATH, 0.3)))
    assert error(extrapolated) > 10 * error(fine)
