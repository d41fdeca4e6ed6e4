"""Measures of images and of draws of them: reference values, exact draws, and broken ones."""

import jax.numpy as jnp
import numpy as np
import pytest

import ppl
from ppl.diagnostics.against_gaussian import mean_error, sd_ratio
from ppl.diagnostics.crps import crps
from ppl.diagnostics.data_consistency import data_consistency
from ppl.diagnostics.image_quality import psnr, ssim
from ppl.diagnostics.interval_coverage import covered, interval

pytestmark = pytest.mark.usefixtures("unoptimized")


def pictures():
    generator = np.random.default_rng(0)
    row, column = np.meshgrid(np.linspace(0, 6, 48), np.linspace(0, 5, 40), indexing="ij")
    truth = 0.5 + 0.4 * np.sin(row) * np.cos(column)
    return truth, truth + 0.1 * generator.normal(size=truth.shape), 0.5 * truth + 0.2


def test_similarity_and_decibels_are_those_of_scikit_image():
    # structural_similarity(gaussian_weights=True, sigma=1.5, use_sample_covariance=False) and
    # peak_signal_noise_ratio of scikit-image 0.26.0.
    truth, noisy, flat = pictures()
    assert ssim(noisy, truth) == pytest.approx(0.4009996, abs=1e-4)
    assert ssim(flat, truth) == pytest.approx(0.8214337, abs=1e-4)
    assert ssim(2 * noisy, 2 * truth, data_range=2.0) == pytest.approx(0.4009996, abs=1e-4)
    assert psnr(noisy, truth) == pytest.approx(20.0098655, abs=1e-4)
    assert psnr(noisy, truth, data_range=2.0) == pytest.approx(26.0304654, abs=1e-4)
    assert psnr(truth, truth) == np.inf
    with pytest.raises(ValueError, match=r"at least 11 x 11 pixels; got \(8, 8\)"):
        ssim(truth[:8, :8], truth[:8, :8])
    with pytest.raises(ValueError, match="differ in shape"):
        psnr(truth, truth.T)


def test_the_score_is_the_sum_over_pairs_and_fair():
    generator = np.random.default_rng(0)
    draws, truth = generator.normal(size=(7, 3)), generator.normal(size=3)
    pairs = np.abs(draws[:, None] - draws).sum((0, 1)) / (2 * 7 * 6)
    np.testing.assert_allclose(crps(draws, truth), np.abs(draws - truth).mean(0) - pairs)
    # Of a standard normal about itself: E|X - X'| / 2 = 1 / sqrt(pi), however few the draws.
    many = crps(generator.normal(size=(3, 200_000)), generator.normal(size=200_000))
    assert abs(many.mean() - 1 / np.sqrt(np.pi)) < 4.9 * many.std() / np.sqrt(200_000)
    # Proper: too narrow and too wide both score worse.
    truth = generator.normal(size=100_000)
    scores = [
        crps(sd * generator.normal(size=(9, 100_000)), truth).mean() for sd in (0.7, 1.0, 1.4)
    ]
    assert scores[1] < min(scores[0], scores[2])
    with pytest.raises(ValueError, match="n of at least 2"):
        crps(truth[None], truth)


def test_order_statistics_cover_exactly():
    generator, size = np.random.default_rng(0), 100_000
    draws, truth = generator.normal(size=(99, size)), generator.normal(size=size)
    error = np.sqrt(0.9 * 0.1 / size)
    low, high = interval(draws)
    np.testing.assert_array_equal(low, np.sort(draws, axis=0)[4])
    np.testing.assert_array_equal(high, np.sort(draws, axis=0)[94])
    assert abs(covered(draws, truth).mean() - 0.9) < 4.9 * error
    assert abs(covered(draws[:19], truth).mean() - 0.9) < 4.9 * error
    assert abs(covered(draws, truth, 0.5).mean() - 0.5) < 4.9 * np.sqrt(0.25 / size)
    assert abs(covered(0.9 * draws, truth).mean() - 0.9) > 4.9 * error
    with pytest.raises(ValueError, match="no two of 60 sorted draws hold 0.9 exactly"):
        interval(draws[:60])


def test_exact_draws_have_ratio_one_and_an_error_of_one_over_root_n():
    generator = np.random.default_rng(0)
    mean, sd = generator.normal(size=20_000), generator.uniform(0.5, 2, size=20_000)
    draws = mean + sd * generator.normal(size=(99, 20_000))
    assert sd_ratio(draws, sd) == pytest.approx(1, abs=0.01)
    assert sd_ratio(mean + 0.9 * (draws - mean), sd) == pytest.approx(0.9, abs=0.01)
    assert mean_error(draws, mean, sd) == pytest.approx(1 / np.sqrt(99), rel=0.03)
    assert mean_error(draws + 0.1 * sd, mean, sd) == pytest.approx(np.hypot(0.1, 0.1), rel=0.05)


def test_data_consistency_is_the_misfit_in_units_of_the_noise():
    generator = np.random.default_rng(0)
    matrix = generator.normal(size=(3, 5)).astype(np.float32)
    likelihood = ppl.LinearGaussian(matrix, jnp.array([0.3, -1.0, 2.0]), 0.5)
    draws = generator.normal(size=(4, 5)).astype(np.float32)
    expected = np.mean(((np.asarray(likelihood.observation) - draws @ matrix.T) / 0.5) ** 2, axis=1)
    np.testing.assert_allclose(data_consistency(likelihood, draws), expected, rtol=1e-4)
    with pytest.raises(ppl.TargetError, match="data consistency needs noise_std > 0"):
        data_consistency(ppl.LinearGaussian(matrix, jnp.zeros(3), 0.0), draws)
