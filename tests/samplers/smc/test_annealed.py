"""AIS: a mean weight that is unbiased without tuning, weights that are independent."""

import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

import ppl
from agreement import t_limit, t_scores
from samplers.mcmc.hmc import HMC
from samplers.smc import along_path
from samplers.smc.annealed import AIS
from samplers.smc.path import increments

pytestmark = pytest.mark.usefixtures("unoptimized")

CENTER, NOISE, DIMENSION, NUM_RUNS = 3.0, 0.1, 4, 64
LOG_Z = DIMENSION * (0.5 * np.log(NOISE / (1 + NOISE)) - CENTER**2 / (2 * (1 + NOISE)))
TARGET = ppl.posterior(
    dist.Normal(jnp.zeros(DIMENSION), 1.0).to_event(1),
    lambda x, center: -jnp.sum((x - center) ** 2) / (2 * NOISE),
    CENTER,
)
LIMIT = t_limit(60, NUM_RUNS - 1)
SCHEDULE = (np.arange(1, 61) / 60) ** 4


def run(**options):
    sampler = AIS(100, move=HMC(step_size=0.25, num_steps=4), tune=False, **options)
    return ppl.sample(sampler, TARGET, num_chains=NUM_RUNS, progress=False)


def score(draws):
    runs = ppl.weights.log_mean_exp(np.asarray(draws.log_weights, float))
    assert runs.std() < 0.5
    return abs(t_scores(np.exp(runs - LOG_Z), 1.0))


@pytest.fixture(scope="module")
def draws():
    return run(num_temperatures=60)


def test_the_mean_weight_is_unbiased_and_its_error_is_known(draws):
    assert score(draws) < LIMIT
    errors = draws.history["log_evidence_error"][:, -1]
    between = ppl.weights.log_mean_exp(np.asarray(draws.log_weights, float)).std()
    assert 0.6 < np.sqrt(np.mean(errors**2)) / between < 1.6
    assert abs(draws.log_evidence.value - LOG_Z) < 4.9 * draws.log_evidence.std_error


def test_nothing_is_resampled_and_the_schedule_is_dense_near_zero(draws):
    assert not draws.history["resampled"].any()
    np.testing.assert_allclose(draws.history["inverse_temperature"][0], SCHEDULE, rtol=1e-4)


@pytest.mark.slow
def test_weights_of_which_few_count_are_said_to_be_few():
    few = AIS(100, num_temperatures=5, move=HMC(step_size=0.25, num_steps=4), tune=False)
    found = ppl.sample(few, TARGET, progress=False)
    (note,) = [note for note in found.run.notes if "equal ones" in note]
    assert "log Z is likely to be low, by more than its error. Raise num_temperatures" in note


def test_weights_that_leave_out_a_part_of_the_likelihood_are_caught(monkeypatch):
    monkeypatch.setattr(along_path, "increments", lambda step, v: increments(0.98 * step, v))
    assert score(run(schedule=SCHEDULE)) > LIMIT


def test_a_schedule_that_does_not_reach_the_target_is_refused():
    with pytest.raises(ValueError, match="schedule must be inverse temperatures.* to 1; got"):
        AIS(schedule=(0.1, 0.5))
