"""Bayes factors against closed forms; models of different data are refused."""

import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from scipy.stats import multivariate_normal

import ppl
import samplers
from ppl.bayes_factor import BayesFactor, evidence_of, require_same_data
from ppl.weights import Estimate

Y = np.array([2.1, 1.7, 2.4, 0.9, 1.3], np.float32)


def model(y, scale):
    mu = numpyro.sample("mu", dist.Normal(0.0, scale))
    with numpyro.plate("row", len(y)):
        numpyro.sample("y", dist.Normal(mu, 1.0), obs=y)


def split(y, scale):
    """The same, with the data at two sites."""
    mu = numpyro.sample("mu", dist.Normal(0.0, scale))
    numpyro.sample("late", dist.Normal(mu, 1.0), obs=y[3:])
    numpyro.sample("early", dist.Normal(mu, 1.0), obs=y[:3])


def log_evidence(scale):
    covariance = np.eye(len(Y)) + scale**2
    return float(multivariate_normal(np.zeros(len(Y)), covariance).logpdf(Y))


NARROW, WIDE = 0.3, 3.0
KNOWN = log_evidence(WIDE) - log_evidence(NARROW)


def target(scale, y=Y, program=model):
    return ppl.from_numpyro(program, y, scale)


@pytest.fixture(scope="module")
def found():
    sampler = samplers.ImportanceSampling(num_particles=2500)
    return ppl.bayes_factor(target(WIDE), target(NARROW), sampler, rng_key=1, num_chains=16)


def test_two_targets_and_a_sampler_give_the_bayes_factor_and_its_error(found):
    assert found.log.value == found.evidences[0].value - found.evidences[1].value
    for estimate, scale in zip(found.evidences, (WIDE, NARROW), strict=True):
        assert abs(estimate.value - log_evidence(scale)) < 4.9 * estimate.std_error < 0.5
    assert abs(found.log.value - KNOWN) < 4.9 * found.log.std_error
    assert found.log.std_error == pytest.approx(
        np.hypot(*(estimate.std_error for estimate in found.evidences))
    )
    assert found.probability == pytest.approx(1 / (1 + np.exp(-found.log.value)))
    assert found.draws[0]["mu"].shape == (16, 2500)


def test_draws_that_are_there_are_used_and_the_order_gives_the_sign(found):
    back = ppl.bayes_factor(*found.draws[::-1])
    assert back.log.value == -found.log.value
    assert back.draws == found.draws[::-1]


@pytest.mark.usefixtures("unoptimized")
def test_chains_are_bridged(found):
    chains = ppl.sample(
        samplers.RandomWalk(), target(WIDE), num_samples=4000, num_warmup=500, progress=False
    )
    assert chains.log_evidence is None
    estimate = evidence_of(chains, 0)
    assert abs(estimate.value - log_evidence(WIDE)) < 4.9 * estimate.std_error < 0.2
    mixed = ppl.bayes_factor(chains, found.draws[1])
    assert abs(mixed.log.value - KNOWN) < 4.9 * mixed.log.std_error


def test_it_says_in_words_which_model_is_better_or_that_nothing_is_decided(found):
    assert "for the first model" in str(found)
    assert f"the first model has probability {found.probability:.4g}" in str(found)
    even = BayesFactor(Estimate(-0.1, 0.2), found.evidences, found.draws)
    assert "log Bayes factor -0.100 +- 0.2, for the second model" in str(even)
    assert "which model is better is not decided" in str(even)
    surely = BayesFactor(Estimate(-1e6, None), found.evidences, found.draws)
    assert surely.probability < 1e-300
    assert "the second model has probability 1" in str(surely)


# Bad input ----------------------------------------------------------------------------------------


def test_models_of_different_data_are_refused():
    other = Y.copy()
    other[2] = 2.5
    with pytest.raises(ppl.TargetError, match=r"different data: 'y'\[2\] is 2.4 and 2.5"):
        ppl.bayes_factor(target(WIDE), target(NARROW, other))
    with pytest.raises(ppl.TargetError, match=r"'y' of shape \(5,\) and \(4,\)"):
        ppl.bayes_factor(target(WIDE), target(NARROW, Y[1:]))
    with pytest.raises(ppl.TargetError, match=r"the data\[2\] is 1.7 and 1.6"):
        require_same_data(target(WIDE), target(WIDE, np.where(Y == Y[1], 1.6, Y), split))


def test_data_under_other_names_are_the_same_data_and_a_density_of_ones_own_is_taken_at_its_word():
    require_same_data(target(WIDE), target(NARROW, program=split))
    require_same_data(target(WIDE), ppl.from_distribution(dist.Normal(0.0, 1.0)))


def test_what_is_no_model_and_targets_without_a_sampler_are_refused():
    with pytest.raises(TypeError, match="the second model must be a target.*got function"):
        ppl.bayes_factor(target(WIDE), model)
    with pytest.raises(ValueError, match=r"bayes_factor\(first, second, samplers.TemperedSMC"):
        ppl.bayes_factor(target(WIDE), target(NARROW))
