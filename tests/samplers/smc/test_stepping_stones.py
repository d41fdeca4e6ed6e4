"""Stepping stones on chains of a known law: evidence from below, above and both sides.

Along pi_b = N(0, I) exp(-b |x - c|^2 / (2 s)), whose Z is known. No program is compiled.
"""

import numpy as np
import pytest

from agreement import t_limit, t_scores
from samplers.smc import stepping_stones as stones

CENTER, NOISE, DIMENSION, RUNS, MEMORY = 3.0, 0.5, 4, 32, 0.3
LOG_Z = DIMENSION * (0.5 * np.log(NOISE / (1 + NOISE)) - CENTER**2 / (2 * (1 + NOISE)))
LADDER = (np.arange(13) / 12) ** 3
LIMIT = t_limit(100, RUNS - 1)


def log_ratios(rng, chains=2, draws=250):
    """V at every rung, of chains that remember."""
    precision = 1 + LADDER / NOISE
    noise = rng.normal(size=(draws, chains, len(LADDER), DIMENSION))
    for t in range(1, draws):
        noise[t] = MEMORY * noise[t - 1] + np.sqrt(1 - MEMORY**2) * noise[t]
    x = (LADDER * CENTER / NOISE / precision)[:, None] + noise / np.sqrt(precision)[:, None]
    return np.swapaxes(-np.sum((x - CENTER) ** 2, axis=-1) / (2 * NOISE), 0, 1)


def found(runs, ladder=LADDER):
    """Values and errors, one row a run: forward, backward, both."""
    both = [stones.stepping_stones(v, ladder) for v in runs]
    table = np.array([[(e.value, e.std_error) for e in one] for one in both])
    return table[..., 0], table[..., 1]


@pytest.fixture(scope="module")
def runs():
    rng = np.random.default_rng(0)
    return [log_ratios(rng) for _ in range(RUNS)]


def test_the_evidence_has_the_value_and_the_error_it_says_from_every_side(runs):
    values, errors = found(runs)
    # The log of a mean is low by half its variance: forward low, backward high.
    bias = np.array([-0.5, 0.5, 0.0]) * values.var(axis=0)
    assert np.abs(t_scores(values, LOG_Z + bias)).max() < LIMIT
    squares = np.mean(((values - LOG_Z) / errors) ** 2, axis=0)
    assert (squares > 0.4).all()
    assert (squares < 2.0).all()
    spread = values.std(axis=0)
    assert spread[2] < 1.3 * spread[:2].min()  # known within an eighth, each


def test_stones_of_the_wrong_width_or_from_the_wrong_side_are_caught(runs, monkeypatch):
    assert (np.abs(t_scores(found(runs, LADDER**1.1)[0], LOG_Z)) > LIMIT).all()
    right = stones._neighbors
    monkeypatch.setattr(stones, "_neighbors", lambda v: right(v)[::-1])
    assert (np.abs(t_scores(found(runs)[0][:, :2], LOG_Z)) > LIMIT).all()


def test_draws_of_the_reference_without_likelihood_are_no_stones_to_stand_on():
    v = log_ratios(np.random.default_rng(1))
    v[:, ::2, 0] = -np.inf
    half = stones.stepping_stones(v, LADDER)
    for estimate in (half.forward, half.both):
        assert abs(estimate.value - (LOG_Z - np.log(2))) < 4.9 * estimate.std_error
