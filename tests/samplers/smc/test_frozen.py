"""The frozen walk: bounds of log Z from above and from below, by paths that are walked backward."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from jax.scipy.stats import norm

import ppl
import samplers
from agreement import t_limit, t_scores
from ppl.diagnostics import log_evidence_bounds
from ppl.markov import Tallies
from ppl.population import Drawn
from samplers.smc.frozen import FrozenWalk

pytestmark = pytest.mark.usefixtures("unoptimized")

LIMIT = t_limit(30, 500)


def ratios(found, log_z):
    """Scores of E[Zhat / Z] = 1 and E[Z / Zhat given] = 1."""
    return (
        float(t_scores(np.exp(found.runs - log_z), 1.0)),
        float(t_scores(np.exp(log_z - found.conditional_runs), 1.0)),
    )


# Annealed importance sampling -------------------------------------------------------------------


NOISE, SEEN = 0.5, 1.0
GAUSSIAN = ppl.posterior(
    ppl.from_distribution(dist.Normal()), lambda x, y: -((x - y) ** 2) / (2 * NOISE), SEEN
)
GAUSSIAN_LOG_Z = 0.5 * np.log(NOISE / (1 + NOISE)) - SEEN**2 / (2 * (1 + NOISE))
STANDARD = np.random.default_rng(2).normal(size=600)
POSTERIOR = SEEN / (1 + NOISE) + np.sqrt(NOISE / (1 + NOISE)) * STANDARD
WALK = samplers.RandomWalk(step_size=1.0)
SCHEDULE = (0.1, 0.3, 0.6, 1.0)


def test_annealing_backward_from_exact_draws_bounds_z_from_above():
    sampler = samplers.AIS(4, move=WALK, schedule=SCHEDULE, tune=False)
    found = log_evidence_bounds(sampler, GAUSSIAN, POSTERIOR, num_repeats=600)
    assert max(found.runs.std(), found.conditional_runs.std()) < 0.5
    assert np.abs(ratios(found, GAUSSIAN_LOG_Z)).max() < LIMIT
    assert found.lower.value < GAUSSIAN_LOG_Z < found.upper.value
    # From draws of another law it is none.
    wrong = log_evidence_bounds(sampler, GAUSSIAN, STANDARD - 1, num_repeats=600)
    assert abs(ratios(wrong, GAUSSIAN_LOG_Z)[1]) > LIMIT


def test_a_path_walked_backward_at_the_wrong_temperatures_is_caught(monkeypatch):
    right = FrozenWalk._moved
    monkeypatch.setattr(FrozenWalk, "_moved", lambda self, key, x, b: right(self, key, x, b / 4))
    late = samplers.AIS(5, move=WALK, schedule=SCHEDULE, tune=False)
    found = log_evidence_bounds(late, GAUSSIAN, POSTERIOR, num_repeats=600)
    assert abs(ratios(found, GAUSSIAN_LOG_Z)[1]) > LIMIT


# Tempered SMC -----------------------------------------------------------------------------------


def tempered(num_particles, **options):
    frozen = {"schedule": SCHEDULE, "num_moves": 1, "tune": False}
    return samplers.TemperedSMC(num_particles, move=WALK, resample_below=0.9, **(frozen | options))


def test_tempered_particles_given_an_exact_draw_bound_z_from_above():
    found = log_evidence_bounds(tempered(4), GAUSSIAN, POSTERIOR, num_repeats=600)
    assert max(found.runs.std(), found.conditional_runs.std()) < 0.5
    assert np.abs(ratios(found, GAUSSIAN_LOG_Z)).max() < LIMIT
    assert found.lower.value < GAUSSIAN_LOG_Z < found.upper.value
    wrong = log_evidence_bounds(tempered(4), GAUSSIAN, STANDARD - 1, num_repeats=600)
    assert abs(ratios(wrong, GAUSSIAN_LOG_Z)[1]) > LIMIT


class Itself(ppl.Energy):
    """N(1, I / 4), whose draws are off by so much."""

    off: Any

    @property
    def template(self):
        return jax.ShapeDtypeStruct((2,), jnp.result_type(float))

    @property
    def offers(self):
        return self._with_gradient("log_density", "sample")

    def log_density(self, position):
        return jnp.sum(norm.logpdf(position, 1.0, 0.5))

    def sample(self, rng_key, n):
        return 1 + self.off + 0.5 * jax.random.normal(rng_key, (n, 2))


ITSELF = Itself(jnp.zeros(()))
WIDE = dist.Normal(jnp.zeros(2), 1.0).to_event(1)


def sandwich(target=ITSELF, num_chains=100, **options):
    sampler = tempered(16, **({"reference": WIDE} | options))
    draws = ppl.sample(sampler, target, 0, num_chains=num_chains, progress=False)
    return draws.log_evidence, draws


@pytest.mark.slow  # 20 seconds
def test_a_run_on_a_target_that_draws_from_itself_has_bounds():
    estimate, draws = sandwich()
    runs = draws.history["log_evidence"][:, -1].astype(float)
    assert estimate.lower == pytest.approx(runs.mean(), abs=1e-5)
    # Log Z is 0, and either mean half a variance from it, up to third moments.
    half, error = runs.var() / 2, runs.std() / np.sqrt(100)
    assert half < 0.2
    assert abs(estimate.lower + half) < 4.9 * error
    assert abs(estimate.upper - half) < 4.9 * error
    assert estimate.lower < 0 < estimate.upper
    assert draws.run.evaluations["bound"] == draws.run.evaluations["sample"]
    # Draws from elsewhere are none of the target.
    wrong, _ = sandwich(Itself(jnp.asarray(10.0)))
    assert abs(wrong.upper - half) > 4.9 * error


def test_bounds_are_the_means_of_free_runs_and_of_runs_given_exact_draws():
    runs = {"log_evidences": np.array([-1.0, -2.0]), "log_evidences_given": np.array([0.5, 1.0])}
    drawn = Drawn({}, None, sampler=tempered(4), history={}, tallies=Tallies(), **runs)
    estimate = drawn.log_evidence
    assert (estimate.lower, estimate.upper) == (-1.5, 0.75)
    assert estimate.value == pytest.approx(np.log((np.exp(-1) + np.exp(-2)) / 2))


def test_runs_that_learn_and_targets_with_data_have_no_bounds():
    assert not tempered(16, tune=True).bounds_evidence
    assert sandwich(GAUSSIAN, reference=None, num_chains=2)[0].upper is None


@pytest.mark.parametrize("learnt", [{"tune": True}, {"schedule": None}, {"num_moves": None}])
def test_a_walk_that_learns_from_its_particles_is_no_bound(learnt):
    with pytest.raises(
        ValueError, match=r"TemperedSMC\(schedule=\.\.\., num_moves=\.\.\., tune=Fa"
    ):
        log_evidence_bounds(tempered(4, **learnt), GAUSSIAN, POSTERIOR, num_repeats=4)


def test_moves_that_are_not_reversible_are_refused():
    sampler = samplers.AIS(move=samplers.ULA(step_size=0.1), tune=False)
    with pytest.raises(ValueError, match="walked backward by reversible moves; those of ULA"):
        log_evidence_bounds(sampler, GAUSSIAN, 1.0, num_repeats=4)
