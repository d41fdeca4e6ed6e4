"""Estimates on weights whose law is known: log-normal ones, and what a shift of them does."""

import numpy as np
import pytest

from samplers.trajectory.estimates import estimate

M, S, N = 3.0, 0.8, 20_000
LOG_Z = M + S**2 / 2


def draws(seed, n=N):
    """w ~ N(m, s^2) forward; backward, tilted by e^w: N(m + s^2, s^2)."""
    rng = np.random.default_rng(seed)
    return M + S * rng.normal(size=n), M + S**2 + S * rng.normal(size=n)


def near(found, truth):
    return abs(found.value - truth) < 4.9 * found.std_error


def test_bounds_evidence_and_sizes_of_log_normal_weights():
    found = estimate(*draws(0))
    assert near(found.elbo, M)
    assert near(found.eubo, M + S**2)
    assert near(found.log_evidence, LOG_Z)
    assert near(found.log_evidence_both, LOG_Z)
    assert found.log_evidence.lower < LOG_Z < found.log_evidence.upper
    assert found.ess == pytest.approx(np.exp(-(S**2)), abs=0.05)
    assert found.forward_ess == pytest.approx(np.exp(-(S**2)), abs=0.05)


def test_the_estimate_from_both_directions_has_the_error_it_states():
    runs = [estimate(*draws(seed, 2000)).log_evidence_both for seed in range(200)]
    values, errors = np.array([[run.value, run.std_error] for run in runs]).T
    assert values.mean() == pytest.approx(LOG_Z, abs=4.9 * values.std() / 200**0.5)
    assert errors.mean() == pytest.approx(values.std(), rel=0.25)
    # and is better than that of one direction
    assert errors.mean() < np.mean([estimate(draws(s, 2000)[0]).log_evidence[1] for s in range(50)])


def test_unequal_numbers_are_weighed():
    forward, backward = draws(1)
    assert near(estimate(forward, backward[:500]).log_evidence_both, LOG_Z)


def test_weights_of_another_sign_are_caught():
    forward, backward = draws(2)
    wrong = estimate(forward, 2 * M - backward).log_evidence_both
    assert not near(wrong, LOG_Z)


def test_without_backward_paths_there_is_no_upper_bound():
    found = estimate(draws(3)[0])
    assert found.eubo is None
    assert found.log_evidence.upper is None


def test_bad_weights_are_refused():
    with pytest.raises(ValueError, match="two paths or more; got 1"):
        estimate([0.0])
    with pytest.raises(ValueError, match="got 2, 1 of them not finite"):
        estimate([0.0, 1.0], [0.0, -np.inf])
