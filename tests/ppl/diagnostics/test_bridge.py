"""Bridge sampling: evidence of chains against closed forms, and an error that is what it says."""

import math
from functools import cache

import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from numpyro.distributions import constraints
from scipy.signal import lfilter

import ppl
from agreement import t_limit, t_scores
from made_draws import make
from ppl.diagnostics import bridge
from ppl.diagnostics.bridge import bridge_evidence

RUNS, CHAINS, DRAWS, NUM_CHECKS = 32, 4, 500, 20


def quadratic(x, precision):
    return -0.5 * x @ precision @ x


def chains(rng, rho, d):
    """Normal draws with an autocorrelation ``rho``, stationary from the start."""
    noise = rng.normal(size=(CHAINS, DRAWS, d))
    noise[:, 0] /= math.sqrt(1 - rho**2)
    return math.sqrt(1 - rho**2) * lfilter([1], [1, -rho], noise, axis=1)


@cache
def gaussian(d):
    """A correlated Gaussian: target, factor of its covariance, log Z."""
    factor = np.tril(np.random.default_rng(d).normal(size=(d, d))) + 2 * np.eye(d)
    target = ppl.from_log_density(quadratic, jnp.zeros(d), np.linalg.inv(factor @ factor.T))
    log_z = np.log(np.abs(np.diag(factor))).sum() + 0.5 * d * math.log(2 * math.pi)
    return target, factor, log_z


def gamma_density(rate, shape):
    """Of a rate with a gamma law, ``shape`` successes in one unit of time; it is skewed."""
    return (shape - 1) * jnp.log(rate) - rate


GAMMA = ppl.from_log_density(
    gamma_density, jnp.zeros(()), 3.0, support=constraints.positive
)  # Z = G(3)


def runs_of(kind, rho):
    rng = np.random.default_rng(1)
    if kind == "gamma":
        for _ in range(RUNS):
            # A gamma law by three exponentials, each by two normals.
            x = 0.5 * (chains(rng, rho, 6) ** 2).sum(axis=2)
            yield make(np.log(x).astype(np.float32), target=GAMMA), math.log(2)
        return
    target, factor, log_z = gaussian(kind)
    for _ in range(RUNS):
        x = (chains(rng, rho, kind) @ factor.T).astype(np.float32)
        yield make(x, target=target), log_z


def scores(kind, rho):
    """Errors of the estimates, and the same in their own standard errors."""
    found = []
    for i, (draws, log_z) in enumerate(runs_of(kind, rho)):
        estimate = bridge_evidence(draws, rng_key=i)
        found.append((estimate.value - log_z, (estimate.value - log_z) / estimate.std_error))
    return np.array(found).T


CASES = [(1, 0.0), (5, 0.0), (20, 0.5), ("gamma", 0.9)]
CASES += [pytest.param(*case, marks=pytest.mark.slow) for case in [(5, 0.9), ("gamma", 0.0)]]


@pytest.mark.parametrize(("kind", "rho"), CASES)
def test_the_evidence_is_right_and_its_error_is_what_it_says(kind, rho):
    errors, own = scores(kind, rho)
    assert abs(t_scores(errors, 0.0)) < t_limit(NUM_CHECKS, RUNS - 1)
    # The mean square of 32 scores is 1, between 0.4 and 2 but once in a thousand times.
    assert 0.4 < np.mean(own**2) < 2.0
    assert np.abs(errors).max() < 0.2


def test_an_error_that_takes_draws_for_independent_is_caught(monkeypatch):
    monkeypatch.setattr(bridge, "_effective", lambda series: float(series.size))
    assert np.mean(scores("gamma", 0.9)[1] ** 2) > 2.5


def test_a_gaussian_that_is_not_normalized_is_caught(monkeypatch):
    right = bridge._log_gaussian
    monkeypatch.setattr(bridge, "_log_gaussian", lambda m, f, x: right(m, f, x) + 0.02)
    errors, _ = scores(5, 0.0)
    assert abs(t_scores(errors, 0.0)) > t_limit(NUM_CHECKS, RUNS - 1)


def test_halves_that_are_not_kept_apart_are_caught(monkeypatch):
    """A Gaussian fitted to the draws that it is bridged to gives too high a density to them."""
    x = np.random.default_rng(2).normal(size=(RUNS, 4, 60, 20)).astype(np.float32)
    target = ppl.from_log_density(quadratic, jnp.zeros(20), np.eye(20))
    whole = bridge._gaussian
    found = []
    for i, one in enumerate(x):
        monkeypatch.setattr(bridge, "_gaussian", lambda _, one=one: whole(one))
        found.append(
            bridge_evidence(make(one, target=target), i).value - 10 * math.log(2 * math.pi)
        )
    assert abs(t_scores(found, 0.0)) > t_limit(NUM_CHECKS, RUNS - 1)


def test_it_is_found_by_name_and_repeats_itself():
    draws, _ = next(runs_of(1, 0.0))
    assert ppl.diagnostics.bridge_evidence is bridge_evidence
    assert bridge_evidence(draws, 3) == bridge_evidence(draws, 3) != bridge_evidence(draws, 4)


# Bad input ----------------------------------------------------------------------------------------


def normal_draws(shape=(4, 100, 5), **fields):
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    return make(x, **{"target": gaussian(5)[0]} | fields)


COUNT = {"target": ppl.from_distribution(dist.Poisson(1.0))}


def apart():
    x = normal_draws().positions + 2 * np.arange(4, dtype=np.float32)[:, None, None]
    return make(x, target=gaussian(5)[0])


@pytest.mark.parametrize(
    ("draws", "message"),
    [
        (lambda: normal_draws((4, 10, 5)), "of 5 parameters needs 48 draws, 8 at least in each "
         "chain; got 4 x 10"),
        (lambda: normal_draws((40, 4, 5)), "8 at least in each chain; got 40 x 4"),
        (lambda: normal_draws(log_weights=np.zeros((4, 100))), "these draws are weighted: what"),
        (lambda: normal_draws().resample(0, 100), "copies of others"),
        (lambda: make(np.zeros((4, 100, 5), np.float32), target=gaussian(5)[0]),
         "do not move in every direction"),
        (lambda: apart(), "the chains disagree \\(R-hat 2"),
        (lambda: normal_draws(target=None, values={"x": np.zeros((4, 100, 5))}),
         r"write draws\.attach\(target\)"),
        (lambda: normal_draws(target=ppl.from_samples(np.zeros((3, 5)))), "needs a density"),
        (lambda: make(np.zeros((4, 100), np.int32), **COUNT), "part of a position is discrete"),
    ],
)  # fmt: skip
def test_what_cannot_be_bridged_is_refused(draws, message):
    with pytest.raises(ValueError, match=message):
        bridge_evidence(draws())
