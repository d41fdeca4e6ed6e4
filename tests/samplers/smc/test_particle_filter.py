"""The particle filter: its evidence is unbiased, its paths are smoothed, what kills it is named.

Truth: the Kalman filter and smoother of a linear-Gaussian model with a missing row, and the forward
algorithm of a chain of two states.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from jax import lax, random

import ppl
import samplers
from agreement import t_limit, t_scores
from kalman import TURNING, guided, guided_initial, kalman, simulated, state_space
from ppl import population
from ppl.energy import TargetError
from samplers.smc import feynman_kac as fk
from samplers.smc.particle_filter import ParticleFilter
from samplers.smc.resampling import SCHEMES
from samplers.smc.state_space import Filtering

pytestmark = pytest.mark.usefixtures("unoptimized")

NUM_CHECKS = 100
Y = simulated(TURNING, 10)
Y[4] = np.nan
TRUTH = kalman(TURNING, Y)
MODEL = state_space(TURNING, Y)
NUM_RUNS = 400
LIMIT = t_limit(NUM_CHECKS, NUM_RUNS - 1)


# Evidence -----------------------------------------------------------------------------------------


@eqx.filter_jit
def evidences(filtering, n, resampler, *, variant="right"):
    """Log-evidence of independent runs."""

    def one(key):
        return fk.run(key, filtering, filtering.rows, n, resampler).log_evidence

    return jax.vmap(one)(random.split(random.key(2), NUM_RUNS))


def ratios(filtering, **options):
    """Log of estimate over truth, run by run."""
    found = evidences(filtering, 200, fk.Resampler(), **options)
    return np.asarray(found, float) - TRUTH.log_likelihood


BOOTSTRAP = Filtering(MODEL)
GUIDED = Filtering(MODEL, guided, guided_initial)


def test_the_evidence_is_unbiased_and_guiding_makes_it_sharper():
    bootstrap, sharper = ratios(BOOTSTRAP), ratios(GUIDED)
    for found in (bootstrap, sharper):
        assert abs(t_scores(np.exp(found), 1.0)) < LIMIT
        assert found.std() < 0.5
    assert sharper.std() < 0.65 * bootstrap.std()


@pytest.mark.slow
@pytest.mark.parametrize("scheme", sorted(SCHEMES))
def test_common_ancestors_tell_the_error_whatever_the_scheme(scheme):
    """Multinomial resampling adds 1/n to the first sum at each of the nine resamplings."""

    @eqx.filter_jit
    def runs(keys):
        resampler = fk.Resampler(1.0, scheme)

        def one(key):
            found = fk.run(key, BOOTSTRAP, BOOTSTRAP.rows, 500, resampler)
            error = fk.log_evidence_error(found.population)
            return found.log_evidence, error, found.population.rounding

        return lax.map(one, keys, batch_size=50)

    found, errors, rounding = runs(random.split(random.key(3), 600))
    square = np.mean(np.asarray(errors, float) ** 2)
    spread = np.std(np.asarray(found, float))  # known within 3 %
    assert 0.88 < np.sqrt(square) / spread < 1.14
    if scheme == "multinomial":
        np.testing.assert_allclose(np.mean(rounding), 9 / 500, rtol=0.05)
        assert np.sqrt(square + np.mean(rounding)) / spread > 1.1


def test_unweighed_proposals_and_data_of_another_time_are_caught(monkeypatch):
    def unweighed(self, before, particles, row):
        return jax.vmap(lambda x: self.model.log_observation(row[0], x, row[1]))(particles)

    with monkeypatch.context() as patch:
        patch.setattr(Filtering, "log_potential", unweighed)
        assert abs(t_scores(np.exp(ratios(GUIDED, variant="unweighed")), 1.0)) > LIMIT
    rows = jax.tree.map(lambda x: x[:-1], MODEL.rows)
    monkeypatch.setattr(Filtering, "rows", property(lambda self: rows))
    assert abs(t_scores(np.exp(ratios(BOOTSTRAP, variant="late")), 1.0)) > LIMIT


# Two states, heard in noise: integers, and transitions by a table.
TABLE = np.array([[0.9, 0.1], [0.2, 0.8]])
HEARD = np.array([0.3, 1.2, 0.8, np.nan, -0.4, 0.1])
CHAIN = ppl.StateSpaceModel(
    lambda table: dist.Categorical(probs=jnp.array([0.6, 0.4])),
    lambda t, x, table: dist.Categorical(probs=table[x]),
    lambda t, x, table: dist.Normal(1.0 * x, 0.5),
    HEARD,
    TABLE,
)


def forward():
    """Log-evidence by the forward algorithm."""
    alpha = np.array([0.6, 0.4])
    for t, y in enumerate(HEARD):
        alpha = alpha if t == 0 else alpha @ TABLE
        if not np.isnan(y):
            alpha = alpha * np.exp(-2 * (y - np.arange(2)) ** 2) / np.sqrt(np.pi / 2)
    return np.log(alpha.sum())


def test_states_may_be_integers():
    found = np.asarray(evidences(Filtering(CHAIN), 50, fk.Resampler()), float)
    assert abs(t_scores(np.exp(found - forward()), 1.0)) < LIMIT


def test_a_model_that_can_only_be_simulated_is_filtered():
    """The same chain, with a function that draws in the place of the transition's distribution."""
    simulator = ppl.StateSpaceModel(
        lambda table: dist.Categorical(probs=jnp.array([0.6, 0.4])),
        lambda t, x, table: lambda key: random.categorical(key, jnp.log(table[x])),
        lambda t, x, table: (
            lambda y: jnp.where(jnp.isnan(y), 0.0, dist.Normal(1.0 * x, 0.5).log_prob(y))
        ),
        HEARD,
        TABLE,
    )
    found = np.asarray(evidences(Filtering(simulator), 50, fk.Resampler()), float)
    assert abs(t_scores(np.exp(found - forward()), 1.0)) < LIMIT


# Draws --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def draws():
    return ppl.sample(ParticleFilter(num_particles=200), MODEL, num_chains=64, progress=False)


@pytest.mark.slow
def test_paths_are_smoothed_and_the_history_holds_the_filter_of_every_time(draws):
    z = np.exp(draws.history["log_evidence"].astype(float) - TRUTH.log_likelihood)
    limit = t_limit(NUM_CHECKS, 63)
    shares = ppl.weights.probabilities(draws.log_weights.astype(float))
    means = np.einsum("rn,rntd->rtd", shares, draws["x"]) - TRUTH.mean
    # Times Z the mean is unbiased.
    assert np.abs(t_scores(means * z[:, -1, None, None], 0.0)).max() < limit
    last = ppl.weights.probabilities(draws.history["log_weights"][:, -1].astype(float))
    np.testing.assert_allclose(last, shares)
    for t in (0, 4, 7):
        short = kalman(TURNING, Y[: t + 1])
        weights = ppl.weights.probabilities(draws.history["log_weights"][:, t].astype(float))
        filtered = np.einsum("rn,rnd->rd", weights, draws.history["particles.x"][:, t])
        so_far = np.exp(draws.history["log_evidence"][:, t].astype(float) - short.log_likelihood)
        errors = (filtered - TRUTH.filtered_mean[t]) * so_far[:, None]
        assert np.abs(t_scores(errors, 0.0)).max() < limit


@pytest.mark.slow
def test_the_driver_reports_evidence_evaluations_and_times(draws):
    assert draws["x"].shape == (64, 200, 10, 2)
    assert abs(draws.log_evidence.value - TRUTH.log_likelihood) < 4.9 * draws.log_evidence.std_error
    assert draws.num_evaluations == (64 * 200, 0)
    assert draws.history["ess"].shape == (64, 10)
    assert not draws.history["resampled"][:, 0].any()
    one = ppl.sample(ParticleFilter(num_particles=2000), MODEL, progress=False)
    assert 0.03 < one.log_evidence.std_error < 0.3
    assert abs(one.log_evidence.value - TRUTH.log_likelihood) < 4.9 * one.log_evidence.std_error


@pytest.mark.slow
def test_a_run_of_which_few_ancestors_are_left_says_so():
    model = state_space(TURNING, simulated(TURNING, 200))
    long = ppl.sample(ParticleFilter(num_particles=50), model, progress=False)
    assert long.log_evidence.std_error is None
    assert any("fewer than 10 of 50 particles of time 0" in note for note in long.run.notes)


def pair(model=MODEL, **options):
    """Two small runs."""
    return ppl.sample(ParticleFilter(20), model, num_chains=2, progress=False, **options)


def test_an_interrupted_run_goes_on_where_it_was(tmp_path, monkeypatch):
    whole = pair()
    monkeypatch.setattr(population, "ROWS", 4)
    save, saved = population.Loop._save, []

    def save_and_stop(self, first):
        save(self, first)
        saved.append(self.t)
        if len(saved) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(population.Loop, "_save", save_and_stop)
    with pytest.raises(RuntimeError, match="had not finished after"):
        pair(checkpoint=tmp_path)
    assert 0 < saved[-1] < 10
    again = pair(checkpoint=tmp_path)
    np.testing.assert_array_equal(again["x"], whole["x"])
    np.testing.assert_array_equal(again.log_weights, whole.log_weights)


def test_new_data_and_new_parameters_compile_nothing(compilations):
    pair()
    other = state_space(TURNING._replace(r=np.array([[1.0]])), simulated(TURNING, 10, seed=1))
    with compilations() as count:
        pair(other)
    assert count.compiled == []


# Bad input ----------------------------------------------------------------------------------------


DEADLY = (
    lambda floor, end: dist.Normal(0.0, 1.0),
    lambda t, x, floor, end: dist.Normal(x, 1.0),
    lambda t, x, floor, end: (
        lambda y: jnp.where((x < floor) | (t >= end), jnp.nan, -((x - y) ** 2))
    ),
)


def walk(floor, end):
    """A hundred particles that walk; the data are NaN below the floor and from the end on."""
    model = ppl.StateSpaceModel(*DEADLY, np.array([0.5, 1.0, 0.2, 0.7]), floor, end)
    return ppl.sample(ParticleFilter(num_particles=100), model, progress=False)


def test_particles_whose_likelihood_is_nan_die_are_counted_and_have_no_children():
    draws = walk(0.0, 9)
    alive = np.isfinite(draws.log_weights[0])
    assert 10 < alive.sum()
    assert (draws["x"][0, alive] >= 0).all()
    assert np.isfinite(draws.log_evidence.value)
    lost = draws.history["num_illegal"][0]
    np.testing.assert_array_equal(lost, (draws.history["particles.x"][0] < 0).sum(1))
    assert lost[0] > 20
    assert any(f"{lost.sum()} weights of particles were NaN" in note for note in draws.run.notes)


def test_a_time_that_kills_all_particles_is_named():
    message = (
        r"no particle of 100 has any weight after the data of time 2 \(the weights of 100 are NaN"
    )
    with pytest.raises(TargetError, match=message):
        walk(-np.inf, 2)


SIMULATOR = ppl.StateSpaceModel(
    lambda: dist.Normal(0.0, 1.0),
    lambda t, x: lambda key: x + random.normal(key),
    lambda t, x: dist.Normal(x, 1.0),
    np.zeros(3),
)
GAUSSIAN = ppl.from_log_density(lambda x: -0.5 * x @ x, jnp.zeros(2))


@pytest.mark.parametrize(
    ("target", "options", "message"),
    [
        (GAUSSIAN, {}, r"needs 'state_space'.*Write ppl\.StateSpaceModel\(initial, transition"),
        (SIMULATOR, {"proposal": guided}, "proposal is weighed by the model: .* no 'log_density'"),
        (MODEL, {"proposal": lambda t, x, y: x}, r"proposal fails on \(int32\[\], float32\[2\]"),
        (
            MODEL,
            {"proposal": lambda t, x, y, linear: dist.Normal(0.0, 1.0)},
            r"proposal returns Normal of shape \(\); a state has shape \(2,\)",
        ),
        (
            MODEL,
            {"initial_proposal": lambda y, linear: lambda key: jnp.zeros(2)},
            "initial_proposal must return NumPyro distributions",
        ),
    ],
)
def test_what_cannot_be_filtered_is_refused(target, options, message):
    with pytest.raises(TargetError, match=message):
        ppl.sample(ParticleFilter(**options), target, progress=False)


def test_one_particle_and_a_proposal_that_is_no_function_are_refused():
    with pytest.raises(ValueError, match="num_particles must be an integer, at least 2; got 1"):
        ParticleFilter(num_particles=1)
    with pytest.raises(ValueError, match="proposal must be a function"):
        ParticleFilter(proposal=dist.Normal(0, 1).sample(random.key(0)))


def test_parameters_with_a_prior_are_sent_elsewhere():
    def model(scale):
        return ppl.StateSpaceModel(
            lambda: dist.Normal(0.0, 1.0),
            lambda t, x: dist.Normal(x, 1.0),
            lambda t, x: dist.Normal(x, scale),
            np.zeros(3),
        )

    target = ppl.StateSpacePosterior(dist.HalfNormal(1.0), model)
    with pytest.raises(TargetError, match=r"samplers\.ParticleMetropolis"):
        ppl.sample(samplers.ParticleFilter(), target)
