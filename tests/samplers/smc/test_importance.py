"""Importance sampling: an unbiased evidence, weighted means that converge, an honest ladder."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import ppl
from agreement import t_limit, t_scores
from chains import NUM_CHECKS
from samplers.mcmc.random_walk import RandomWalk
from samplers.smc.importance import ImportanceSampling
from samplers.smc.tempered import TemperedSMC

pytestmark = pytest.mark.usefixtures("unoptimized")

PRIOR = ppl.from_distribution(dist.Normal(jnp.zeros(2), 1.0).to_event(1))
DATA, NOISE, NUM_RUNS = np.array([1.0, -1.5]), 0.5, 64


def log_likelihood(x, y):
    return jnp.sum(dist.Normal(x, NOISE).log_prob(y))


POSTERIOR = ppl.posterior(PRIOR, log_likelihood, DATA)
MEAN = DATA / (1 + NOISE**2)
LOG_Z = float(dist.Normal(0.0, (1 + NOISE**2) ** 0.5).log_prob(DATA).sum())


@pytest.fixture(scope="module")
def draws():
    return ppl.sample(
        ImportanceSampling(num_particles=1000), POSTERIOR, num_chains=NUM_RUNS, progress=False
    )


def test_the_evidence_is_unbiased(draws):
    evidences = np.exp(np.asarray(draws.log_weights, np.float64) - LOG_Z).mean(axis=1)
    assert abs(t_scores(evidences, 1.0)) < t_limit(NUM_CHECKS, NUM_RUNS - 1)
    assert abs(draws.log_evidence.value - LOG_Z) < 5 * draws.log_evidence.std_error


def test_one_run_knows_its_error(draws):
    alone = ppl.sample(ImportanceSampling(num_particles=1000), POSTERIOR, progress=False)
    told = alone.log_evidence.std_error
    assert told == pytest.approx(float(ppl.weights.evidence(alone.log_weights[0])[1]), rel=1e-4)
    between = np.log(np.exp(np.asarray(draws.log_weights, np.float64)).mean(axis=1)).std(ddof=1)
    # The sd of 64 runs is known to 9 %; an error that forgets the root of N is 30 times as large.
    assert told == pytest.approx(between, rel=0.45)


def test_weighted_means_are_those_of_the_posterior_and_plain_ones_are_caught(draws):
    weights = np.exp(np.asarray(draws.log_weights, np.float64))[..., None]
    # A ratio of two unbiased means: its error has the mean zero.
    errors = (weights * (draws["x"] - MEAN)).mean(axis=1)
    limit = t_limit(NUM_CHECKS, NUM_RUNS - 1)
    assert (np.abs(t_scores(errors, 0.0)) < limit).all()
    assert (np.abs(t_scores(draws["x"].mean(axis=1), MEAN)) > limit).all()


def test_every_likelihood_is_counted_once(draws):
    assert tuple(draws.num_evaluations) == (NUM_RUNS * 1000, 0)


def ladder(target):
    """Infos of one run of 2000 particles, by hand, and what it collects."""
    sampler = ImportanceSampling(2000)
    step, infos = jax.jit(lambda key, state: sampler.step(key, target, state)), []
    state = sampler.init(jax.random.key(0), target)
    while not sampler.done(state):
        state, info = step(jax.random.key(1), state)
        infos.append(info)
        assert len(infos) < 50
    return infos, sampler.collect(jax.random.key(2), target, state, None)


def test_rungs_climb_and_each_keeps_half_of_the_effective_sample_size():
    infos, (_, _, log_evidence) = ladder(POSTERIOR)
    temperatures = [float(info.inverse_temperature) for info in infos]
    sizes = np.array([2000.0] + [float(info.ess) for info in infos])
    assert temperatures == sorted(set(temperatures))
    assert temperatures[-1] == 1
    np.testing.assert_allclose(sizes[1:-1] / sizes[:-2], 0.5, rtol=0.01)
    np.testing.assert_allclose(infos[-1].log_evidence, log_evidence)


@pytest.mark.parametrize("value", [-jnp.inf, jnp.nan, jnp.inf])
def test_a_population_without_any_weight_says_so(value):
    target = ppl.posterior(PRIOR, lambda x: value + 0 * x.sum())
    infos, (positions, log_weights, log_evidence) = ladder(target)
    assert (log_weights == -np.inf).all()
    assert log_evidence == -np.inf
    assert np.isfinite(positions).all()
    assert infos[-1].ess == 0
    assert infos[-1].num_illegal == (0 if value == -jnp.inf else 2000)


def test_one_nan_takes_one_particle_and_leaves_the_rest():
    def holed(x, y):
        return jnp.where(x[0] > 1.0, jnp.nan, log_likelihood(x, y))

    target = ppl.posterior(PRIOR, holed, DATA)
    infos, (positions, log_weights, log_evidence) = ladder(target)
    lost = positions[:, 0] > 1.0
    np.testing.assert_array_equal(log_weights == -np.inf, lost)
    assert infos[-1].num_illegal == lost.sum()
    assert np.isfinite(log_evidence)


def test_a_numpyro_model_is_drawn_from_its_prior():
    def model(y):
        x = numpyro.sample("x", dist.Normal(0.0, 1.0))
        numpyro.sample("y", dist.Normal(x, NOISE), obs=y)

    target = ppl.from_numpyro(model, jnp.asarray(1.0))
    _, (_, _, log_evidence) = ladder(target)
    truth = dist.Normal(0.0, (1 + NOISE**2) ** 0.5).log_prob(1.0)
    np.testing.assert_allclose(log_evidence, truth, atol=0.1)


def test_a_model_whose_prior_cannot_be_drawn_from_is_refused():
    def model(y):
        x = numpyro.sample("x", dist.ImproperUniform(dist.constraints.real, (), ()))
        numpyro.sample("y", dist.Normal(x, 1.0), obs=y)

    with pytest.raises(ppl.TargetError, match="ImportanceSampling draws from the prior.*'x'"):
        ppl.sample(ImportanceSampling(), ppl.from_numpyro(model, 1.0), progress=False)


def test_a_plain_density_is_refused():
    target = ppl.from_log_density(lambda x: -(x**2), jnp.zeros(()))
    with pytest.raises(ppl.TargetError, match="ImportanceSampling needs 'log_likelihood'"):
        ppl.sample(ImportanceSampling(), target, progress=False)


def test_weights_without_a_variance_are_told_of_and_others_are_not(draws):
    assert draws.run.notes == []
    tail = ppl.posterior(PRIOR, lambda x, a: a * x[0] ** 2, 0.45)  # k = 0.9
    found = ppl.sample(ImportanceSampling(num_particles=1000), tail, progress=False)
    assert any("not to be believed" in note for note in found.run.notes)


WALK = TemperedSMC(512, RandomWalk(step_size=0.5), num_moves=1, tune=False)


@pytest.mark.parametrize("sampler", [ImportanceSampling(512), WALK])
def test_log_weights_that_rounding_makes_equal_are_doubted(sampler):
    """At -10^8 nats float32 has steps of 8: the weights look even, and are not known."""
    likelihood = lambda x, level: level - 5 * jnp.sum(x**2)
    near, far = (
        ppl.sample(sampler, ppl.posterior(PRIOR, likelihood, level), progress=False)
        for level in (jnp.float32(0), jnp.float32(-1e8))
    )
    assert not any("not known to a nat" in note for note in near.run.notes)
    assert any("not known to a nat in float32" in note for note in far.run.notes)
