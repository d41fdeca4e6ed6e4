"""Where divergences concentrate."""

import numpy as np
import pytest

from ppl.diagnostics.divergences import MIN_DIVERGENCES, concentration

LABELS = ["theta", "log_tau", "tau", "constant", "broken"]


@pytest.fixture
def funnel():
    rng = np.random.default_rng(0)
    log_tau = rng.normal(size=(4, 250))
    theta = rng.normal(size=(4, 250)) * np.exp(log_tau)
    broken = np.full((4, 250), np.nan)
    columns = [theta, log_tau, np.exp(log_tau), np.ones((4, 250)), broken]
    return np.stack(columns, axis=-1), log_tau < -1.8


def test_divergences_in_the_neck_of_a_funnel_point_at_its_scale(funnel):
    x, diverging = funnel
    shifts = concentration(LABELS, x, diverging)
    assert {shifts[0].label, shifts[1].label} == {"log_tau", "tau"}
    assert shifts[0].shift < -1.5
    assert shifts[0].words.startswith("log_tau is low (median -2")
    assert abs(shifts[2].shift) < 0.7  # theta is near 0, neither low nor high


def test_a_shift_is_the_same_for_a_scale_and_its_logarithm(funnel):
    x, diverging = funnel
    shift = {s.label: s.shift for s in concentration(LABELS, x, diverging)}
    assert shift["tau"] == pytest.approx(shift["log_tau"])


def test_scalars_that_are_constant_or_not_finite_have_no_shift(funnel):
    x, diverging = funnel
    assert {s.label for s in concentration(LABELS, x, diverging)} == {"theta", "log_tau", "tau"}


def test_divergences_anywhere_shift_nothing():
    rng = np.random.default_rng(1)
    x, diverging = rng.normal(size=(4, 500, 20)), rng.random((4, 500)) < 0.05
    largest = concentration([str(i) for i in range(20)], x, diverging)[0]
    assert abs(largest.shift) < 4.9 / np.sqrt(diverging.sum())


def test_few_divergences_are_not_located(funnel):
    x, _ = funnel
    few = np.zeros((4, 250), bool)
    few[0, : MIN_DIVERGENCES - 1] = True
    assert concentration(LABELS, x, few) == []
    assert concentration(LABELS, x, np.ones((4, 250), bool)) == []
