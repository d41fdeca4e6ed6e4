"""Rejection: exact draws, an acceptance that is the evidence, a bound that must hold."""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
import scipy.stats

import ppl
from agreement import dkw_limit
from samplers.smc import rejection
from samplers.smc.rejection import RejectionSampling

pytestmark = pytest.mark.usefixtures("unoptimized")

# The mixture of the notes, and a reward with maximum 0: log E[exp(r)] = -0.6261.
WEIGHTS, MEANS, VARIANCES = np.array([0.3, 0.7]), np.array([-2.0, 1.5]), np.array([0.25, 0.49])
PRIOR = dist.MixtureSameFamily(
    dist.Categorical(jnp.asarray(WEIGHTS)), dist.Normal(jnp.asarray(MEANS), jnp.sqrt(VARIANCES))
)
TILTED = ppl.tilt(ppl.from_distribution(PRIOR), lambda x: -0.5 * (x - 1.0) ** 2)
GRID = np.linspace(-8, 8, 20001)
DENSITY = (WEIGHTS * scipy.stats.norm.pdf(GRID[:, None], MEANS, np.sqrt(VARIANCES))).sum(axis=1)
DENSITY *= np.exp(-0.5 * (GRID - 1) ** 2)
CDF = np.cumsum(DENSITY) / DENSITY.sum()
LOG_Z = np.log(DENSITY.sum() * (GRID[1] - GRID[0]))
NUM_DRAWS = 20_000


def run(target=TILTED, num_chains=1, rng_key=0, log_bound=0.0, **options):
    sampler = RejectionSampling(log_bound, **options)
    return ppl.sample(sampler, target, rng_key, num_chains=num_chains, progress=False)


def distance(draws):
    """Largest distance of the empirical CDF from the exact one."""
    return scipy.stats.kstest(draws["x"][0], lambda x: np.interp(x, GRID, CDF)).statistic


@pytest.fixture(scope="module")
def draws():
    return run(num_particles=NUM_DRAWS)


def test_draws_are_exact(draws):
    assert draws["x"].shape == (1, NUM_DRAWS)
    assert draws.log_weights is None
    assert distance(draws) < dkw_limit(60, NUM_DRAWS)


def test_the_acceptance_is_the_evidence(draws):
    np.testing.assert_allclose(LOG_Z, -0.6261, atol=1e-4)
    history = draws.history
    rate = history["num_accepted"][0, -1] / history["num_proposed"][0, -1]
    error = np.sqrt(rate * (1 - rate) / history["num_proposed"][0, -1])
    assert abs(rate - np.exp(LOG_Z)) < 4.9 * error
    value, error = draws.log_evidence[:2]
    assert abs(value - LOG_Z) < 4.9 * error
    assert error < 0.01
    assert draws.num_evaluations[0] == history["num_proposed"][0, -1]


def test_the_error_of_one_run_is_the_spread_of_many():
    found = run(num_chains=64, num_particles=500, batch_size=128, log_bound=1.0)
    assert abs(found.log_evidence.value - LOG_Z) < 4.9 * found.log_evidence.std_error
    one = run(num_particles=500, batch_size=128, log_bound=1.0).log_evidence.std_error
    assert 0.7 < found.log_evidence.std_error * 8 / one < 1.4


def test_a_test_at_another_temperature_is_caught(monkeypatch):
    clean = rejection.weights.clean
    monkeypatch.setattr(rejection.weights, "clean", lambda v: 0.8 * clean(v))
    found = run(num_particles=NUM_DRAWS, batch_size=5000)
    assert distance(found) > dkw_limit(60, NUM_DRAWS)


def test_draws_of_a_model_are_those_of_its_posterior():
    def kicks(y):
        rate = numpyro.sample("rate", dist.Gamma(2.0, 1.0))
        numpyro.sample("y", dist.Poisson(rate).expand([len(y)]).to_event(1), obs=y)

    y = jnp.array([0, 1, 0, 2, 1, 0])
    bound = float(dist.Poisson(y.mean()).log_prob(y).sum())  # the rate that fits best
    found = run(ppl.from_numpyro(kicks, y), num_chains=4, log_bound=bound)
    exact = scipy.stats.gamma(2 + 4, scale=1 / 7)
    for one in found["rate"]:
        assert scipy.stats.kstest(one, exact.cdf).statistic < dkw_limit(60, 1000)


def flat(x, wall, level):
    return jnp.where(x > wall, jnp.nan, level)


def level_up_to(wall, level):
    return ppl.posterior(dist.Normal(0.0, 1.0), flat, wall, level)


def test_impossible_proposals_are_never_kept_and_are_counted():
    found = run(level_up_to(0.0, 0.0))
    assert (found["x"] <= 0).all()
    np.testing.assert_allclose(found.log_evidence.value, np.log(0.5), atol=0.1)
    assert any("NaN or infinite" in note for note in found.run.notes)


# Bad input ----------------------------------------------------------------------------------------


def test_a_bound_that_a_draw_exceeds_is_refused_with_by_how_much():
    with pytest.raises(ppl.TargetError, match=r"0\.[45]\d* nats above log_bound=-0\.5.*no draw is"):
        run(log_bound=-0.5)


def test_a_bound_may_be_reached():
    found = run(level_up_to(np.inf, -123.456), log_bound=-123.456)
    np.testing.assert_allclose(found.log_evidence.value, -123.456, rtol=1e-6)
    assert found.num_evaluations[0] == 4096


def test_too_small_an_acceptance_is_refused():
    message = r"\d of 8192 proposals were accepted, fewer than num_particles=1000. Lower log_bound"
    with pytest.raises(ppl.TargetError, match=message):
        run(log_bound=9.0, max_proposals=8000)


def test_a_likelihood_that_is_never_there_is_an_error():
    with pytest.raises(ppl.TargetError, match="0 of 4096 proposals were accepted"):
        run(level_up_to(np.inf, -np.inf), max_proposals=4096)


def test_a_prior_that_cannot_be_sampled_is_refused():
    def model(y):
        x = numpyro.sample("x", dist.ImproperUniform(dist.constraints.real, (), ()))
        numpyro.sample("y", dist.Normal(x, 1.0), obs=y)

    with pytest.raises(ppl.TargetError, match="RejectionSampling draws from the prior.*'x'"):
        run(ppl.from_numpyro(model, 1.0))


@pytest.mark.parametrize("value", [np.inf, np.nan, "0", None, True, np.zeros(2)])
def test_bounds_that_are_no_number_are_refused(value):
    with pytest.raises(ValueError, match="log_bound must be a finite number of nats"):
        RejectionSampling(value)


def test_no_draws_are_refused():
    with pytest.raises(ValueError, match="num_particles must be an integer, at least 1; got 0"):
        RejectionSampling(0.0, num_particles=0)


def test_a_new_bound_compiles_nothing(compilations):
    run(log_bound=0.5)
    with compilations() as count:
        run(log_bound=0.25)
    assert count.compilations == 0
