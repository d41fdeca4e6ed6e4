"""A real user's job: what is gained by a deconvolution, and whether its error bars are right."""

import pytest

import bench_imaging

KERNELS = ["SK-ROCK", "MYULA", "P-MALA"]


@pytest.mark.slow  # two minutes
@pytest.mark.parametrize("name", KERNELS)
def test_the_posterior_mean_is_5_decibels_above_the_observation(name):
    assert bench_imaging.figures(name).decibels >= 5


@pytest.mark.slow  # the runs are those of the test above
def test_error_bars_are_those_of_an_exact_kernel_or_as_much_too_small_as_is_said():
    exact = bench_imaging.figures("P-MALA").sd
    ratio = {name: (bench_imaging.figures(name).sd / exact).mean() for name in KERNELS}
    assert 0.9 < ratio["MYULA"] < 1.1
    assert 0.8 < ratio["SK-ROCK"] < 0.95
