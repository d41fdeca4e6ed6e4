"""Bounds of log Z where it is known: on the right sides, unbiased as they should be, and the
divergences of single particles by enumeration."""

import itertools
from functools import cache

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from scipy.linalg import block_diag

import ppl
import samplers
from agreement import t_limit, t_scores
from kalman import TURNING, guided, guided_initial, kalman, simulated, state_space
from ppl.diagnostics import log_evidence_bounds
from ppl.sampler import Trained
from samplers.smc import twisted

pytestmark = pytest.mark.usefixtures("unoptimized")

LIMIT = t_limit(30, 500)

# The chain of three states, with a poor guess of what is to come.
START = np.array([0.5, 0.3, 0.2])
MOVE = np.array([[0.7, 0.2, 0.1], [0.3, 0.4, 0.3], [0.2, 0.2, 0.6]])
LAST = np.array([0.02, 0.1, 1.0])
LENGTH = 6
POOR = np.array([np.ones(3)] * 2 + [[0.3, 0.5, 1.0]] * 3 + [LAST])
ALL = np.array(list(itertools.product(range(3), repeat=LENGTH)))


def after(params, tokens):
    return params[jnp.concatenate([jnp.zeros(1, jnp.int32), tokens[:-1] + 1])]


MODEL = ppl.SequenceModel(after, np.log(np.vstack([START, MOVE])), LENGTH)
TARGET = ppl.tilt(MODEL, lambda tokens, log_last: log_last[tokens[-1]], np.log(LAST))
STEPS = np.concatenate([START[ALL[:, :1]], MOVE[ALL[:, :-1], ALL[:, 1:]]], axis=1)
BASE = STEPS.prod(1)
Z = float(BASE @ LAST[ALL[:, -1]])
SIGMA = BASE * LAST[ALL[:, -1]] / Z
EXACT = ALL[np.random.default_rng(0).choice(len(ALL), 600, p=SIGMA)]
PLAIN = ALL[np.random.default_rng(1).choice(len(ALL), 600, p=BASE)]


def steered(num_particles, proposal="base"):
    sampler = samplers.TwistedSMC(
        num_particles, 0, twist_fn=lambda params, tokens: params, twist_params=np.log(POOR),
        proposal=proposal, resample_below=1.0, resampling="multinomial",
    )  # fmt: skip
    return Trained(sampler.resolve(TARGET), twisted.TwistedState(jnp.log(jnp.asarray(POOR)), None))


def ratios(found, log_z):
    """Scores of E[Zhat / Z] = 1 and E[Z / Zhat given] = 1."""
    return (
        float(t_scores(np.exp(found.runs - log_z), 1.0)),
        float(t_scores(np.exp(log_z - found.conditional_runs), 1.0)),
    )


@pytest.mark.parametrize(
    ("num_particles", "lower", "upper"),
    [
        pytest.param(4, -1.428, -0.857, marks=pytest.mark.slow),
        (16, -1.177, -1.045),
        pytest.param(64, -1.117, -1.079, marks=pytest.mark.slow),
    ],
)
def test_bounds_of_the_chain_are_the_known_ones(num_particles, lower, upper):
    found = log_evidence_bounds(steered(num_particles), TARGET, EXACT, num_repeats=600)
    for bound, known in ((found.lower, lower), (found.upper, upper)):
        # Both are of 600 runs.
        assert abs(bound.value - known) < 4 * 2**0.5 * bound.std_error
    assert found.lower.value - 4 * found.lower.std_error < np.log(Z)
    assert found.upper.value + 4 * found.upper.std_error > np.log(Z)
    assert found.lower.value < found.upper.value
    assert np.abs(ratios(found, np.log(Z))).max() < 4
    assert found.log_evidence.lower == found.lower.value
    assert abs(found.log_evidence.value - np.log(Z)) < 4 * found.log_evidence.std_error


def test_draws_that_are_not_exact_are_caught():
    found = log_evidence_bounds(steered(16), TARGET, PLAIN, num_repeats=600)
    assert abs(ratios(found, np.log(Z))[0]) < LIMIT
    assert abs(ratios(found, np.log(Z))[1]) > LIMIT


@pytest.mark.slow
def test_an_ordinary_run_is_no_bound_from_above(monkeypatch):
    ordinary = twisted.TwistedSMC.log_evidence_of
    monkeypatch.setattr(
        twisted.TwistedSMC, "log_evidence_given",
        lambda self, key, target, draw, state: ordinary(self, key, target, state),
    )  # fmt: skip
    found = log_evidence_bounds(steered(16), TARGET, EXACT[:599], num_repeats=599)
    assert found.upper.value < np.log(Z)
    assert abs(ratios(found, np.log(Z))[1]) > LIMIT


def test_divergences_of_one_particle_are_those_of_its_proposal():
    """Both directions, by enumeration of all sequences."""
    twist = POOR[np.arange(LENGTH), ALL]
    before = np.vstack([START[None], MOVE])[np.concatenate([np.zeros((len(ALL), 1), int),
                                                            ALL[:, :-1] + 1], axis=1)]  # fmt: skip
    q = (STEPS * twist / np.einsum("sti,ti->st", before, POOR)).prod(1)
    np.testing.assert_allclose(q.sum(), 1)
    exact = np.sum(q * np.log(q / SIGMA)), np.sum(SIGMA * np.log(SIGMA / q))
    found = log_evidence_bounds(
        steered(1, "twisted"), TARGET, EXACT, num_repeats=600, log_z=np.log(Z)
    )
    errors = found.lower.std_error, found.upper.std_error
    for value, error, known in zip(
        (found.kl_draws_target, found.kl_target_draws), errors, exact, strict=True
    ):
        assert abs(value - known) < 4.9 * error < 0.2
    assert "KL(draws | target) is at most" in str(found)


# A particle filter ------------------------------------------------------------------------------


@cache
def seen_through_noise():
    return simulated(TURNING, 5)


def exact_paths(num_draws):
    """Of the Gaussian of all states and data, given the data: by conditioning draws of both."""
    rng = np.random.default_rng(4)
    x, y = [], []
    for t in range(5):
        mean, cov = (TURNING.m, TURNING.p) if t == 0 else (x[-1] @ TURNING.a.T, TURNING.q)
        x.append(mean + rng.multivariate_normal(np.zeros(2), cov, num_draws))
        noise = rng.multivariate_normal(np.zeros(1), TURNING.r, num_draws)
        y.append(x[-1] @ TURNING.c.T + noise)
    x, y = np.stack(x, axis=1), np.stack(y, axis=1)
    joint = joint_covariance()
    gain = np.linalg.solve(joint[10:, 10:], joint[10:, :10]).T
    residual = (seen_through_noise() - y).reshape(num_draws, 5)
    return (x.reshape(num_draws, 10) + residual @ gain.T).reshape(num_draws, 5, 2)


def joint_covariance():
    """Of five states and then five data, as linear maps of independent noise."""
    blocks = [TURNING.p] + [TURNING.q] * 4 + [TURNING.r] * 5
    states = np.zeros((10, 10))
    for t in range(5):
        for s in range(t + 1):
            power = np.linalg.matrix_power(TURNING.a, t - s)
            states[2 * t : 2 * t + 2, 2 * s : 2 * s + 2] = power
    data = np.kron(np.eye(5), TURNING.c) @ states
    maps = np.block([[states, np.zeros((10, 5))], [data, np.eye(5)]])
    return maps @ block_diag(*blocks) @ maps.T


@pytest.mark.parametrize(
    "proposals",
    [
        {},
        pytest.param(
            {"proposal": guided, "initial_proposal": guided_initial}, marks=pytest.mark.slow
        ),
    ],
)
def test_a_filter_given_an_exact_path_bounds_the_evidence_from_above(proposals):
    paths, seen = exact_paths(600), seen_through_noise()
    hidden, evidence = state_space(TURNING, seen), kalman(TURNING, seen).log_likelihood
    sampler = samplers.ParticleFilter(16, **proposals)
    found = log_evidence_bounds(sampler, hidden, paths, num_repeats=600)
    assert np.abs(ratios(found, evidence)).max() < LIMIT
    assert found.lower.value < evidence < found.upper.value
    if not proposals:
        wrong = log_evidence_bounds(sampler, hidden, paths + 1, num_repeats=600)
        assert abs(ratios(wrong, evidence)[1]) > LIMIT


def regression(x, y=None):
    slope = numpyro.sample("slope", dist.Normal(0, 1))
    numpyro.sample("y", dist.Normal(slope * x, 0.5), obs=y)


def test_simulated_data_bring_their_own_exact_draw():
    """A conjugate regression: log Z of the data that were simulated has a closed form."""
    x = jnp.array([0.5, -1.0, 2.0, 1.5])
    target = ppl.from_numpyro(regression, x, jnp.zeros(4))
    move = samplers.RandomWalk(step_size=0.4)
    sampler = samplers.AIS(16, num_temperatures=20, move=move, tune=False)
    found = log_evidence_bounds(sampler, target, rng_key=3, num_repeats=64)
    y = found.target.observed_data["y"]
    covariance = np.outer(x, x) + 0.25 * np.eye(4)
    log_z = -0.5 * (y @ np.linalg.solve(covariance, y) + np.linalg.slogdet(covariance)[1]) - 2 * (
        np.log(2 * np.pi)
    )
    assert found.lower.value - 4 * found.lower.std_error < log_z
    assert log_z < found.upper.value + 4 * found.upper.std_error
    assert abs(found.log_evidence.value - log_z) < 4.9 * found.log_evidence.std_error < 0.2
    assert found.upper.value - found.lower.value < 0.5


# The door ---------------------------------------------------------------------------------------


def test_new_rewards_and_new_draws_compile_nothing(compilations):
    sampler = steered(16)
    log_evidence_bounds(sampler, TARGET, EXACT, num_repeats=600)
    other = ppl.tilt(MODEL, TARGET.log_likelihood_fn, np.log(LAST) / 2)
    with compilations() as count:
        log_evidence_bounds(sampler, other, PLAIN, rng_key=1, num_repeats=600)
    assert count.compilations == 0


@pytest.mark.slow
def test_a_single_draw_serves_all_runs():
    found = log_evidence_bounds(steered(4), TARGET, EXACT[0], num_repeats=8)
    assert len(set(found.conditional_runs)) > 4


@pytest.mark.parametrize(
    ("sampler", "draws", "error", "message"),
    [
        (samplers.NUTS(), EXACT, TypeError, "NUTS cannot run given an exact draw"),
        (samplers.TwistedSMC(), EXACT, TypeError, "train first: draws = ppl.sample"),
        (None, None, ppl.TargetError, "needs exact_draws=.*'simulate'"),
        (None, EXACT[:, :3], ppl.TargetError, r"int32\[6\].*got shapes {'x': \(600, 3\)}"),
        (
            samplers.AIS(move=samplers.SequenceMetropolis(MODEL)),
            EXACT, ValueError, r"AIS\(tune=False\)",
        ),
        (
            samplers.AIS(move=samplers.NUTS(), tune=False),
            EXACT, ppl.TargetError, "NUTS, which needs 'gradient'",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_bounded_is_refused(sampler, draws, error, message):
    with pytest.raises(error, match=message):
        log_evidence_bounds(sampler or steered(4), TARGET, draws, num_repeats=4)
