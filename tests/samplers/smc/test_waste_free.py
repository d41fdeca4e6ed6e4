"""Waste-free SMC: an unbiased Z where all is frozen, an error of one run, chains in their order."""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from jax import random

import ppl
from agreement import t_limit, t_scores
from samplers.mcmc.hmc import HMC
from samplers.mcmc.random_walk import RandomWalk
from samplers.smc import feynman_kac as fk
from samplers.smc import waste_free
from samplers.smc.moves import chains
from samplers.smc.waste_free import WasteFreeSMC

pytestmark = pytest.mark.usefixtures("unoptimized")

CENTER, NOISE, DIMENSION, NUM_RUNS = 3.0, 0.1, 4, 64
LOG_Z = DIMENSION * (0.5 * np.log(NOISE / (1 + NOISE)) - CENTER**2 / (2 * (1 + NOISE)))
TARGET = ppl.posterior(
    dist.Normal(jnp.zeros(DIMENSION), 1.0).to_event(1),
    lambda x, center: -jnp.sum((x - center) ** 2) / (2 * NOISE),
    CENTER,
)
LIMIT = t_limit(60, NUM_RUNS - 1)
STEPS = 20  # temperatures


def run(target=TARGET, num_chains=1, rng_key=0, **options):
    sampler = WasteFreeSMC(**options)
    return ppl.sample(sampler, target, rng_key, num_chains=num_chains, progress=False)


def frozen(chain_length=8):
    return run(
        num_chains=NUM_RUNS, num_particles=200, chain_length=chain_length, tune=False,
        move=HMC(step_size=0.25, num_steps=4), schedule=(np.arange(1, STEPS + 1) / STEPS) ** 4,
    )  # fmt: skip


def score(draws):
    runs = np.asarray(draws.history["log_evidence"][:, -1], float)
    assert runs.std() < 0.5
    return abs(t_scores(np.exp(runs - LOG_Z), 1.0))


@pytest.fixture(scope="module")
def draws():
    return frozen()


def test_with_all_frozen_the_evidence_is_unbiased(draws):
    assert score(draws) < LIMIT
    assert abs(draws.log_evidence.value - LOG_Z) < 4.9 * draws.log_evidence.std_error


def error_ratio(draws):
    """Error that single runs report, over the spread between them."""
    errors = draws.history["log_evidence_error"][:, -1]
    return np.sqrt(np.mean(errors**2)) / draws.history["log_evidence"][:, -1].std()


def test_one_run_knows_its_error(draws):
    assert 0.75 < error_ratio(draws) < 1.33


@pytest.mark.slow
@pytest.mark.parametrize("chain_length", [4, 20])
def test_one_run_knows_its_error_however_long_its_chains(chain_length):
    draws = frozen(chain_length)
    assert 0.75 < error_ratio(draws) < 1.33
    assert score(draws) < LIMIT


def test_the_variance_is_that_of_independent_chains_and_of_their_memory():
    rng = np.random.default_rng(0)
    w = rng.gamma(4.0, size=(500, 8))  # independent: the start is one part in eight
    w[0, 0] = 0.0
    found = waste_free._variance(jnp.log(jnp.asarray(w.ravel())), 500, jnp.asarray(True))
    plain = np.var(w.mean(axis=1), ddof=1) / 500 / w.mean() ** 2
    np.testing.assert_allclose(found, plain, rtol=1e-4)
    found = waste_free._variance(jnp.log(jnp.asarray(w.ravel())), 500, jnp.asarray(False))
    np.testing.assert_allclose(found / plain, (1 + 1 / 8) / (1 - 1 / 8), rtol=0.1)
    stuck = np.repeat(w[:, :1], 8, axis=1)
    found = waste_free._variance(jnp.log(jnp.asarray(stuck.ravel())), 500, jnp.asarray(False))
    plain = np.var(w[:, 0], ddof=1) / 500 / w[:, 0].mean() ** 2
    np.testing.assert_allclose(found / plain, (1 + 0.95) / (1 - 0.95), rtol=1e-3)


def test_all_states_are_draws_of_the_posterior(draws):
    assert draws["x"].shape == (NUM_RUNS, 200, DIMENSION)
    means, squares = draws["x"].mean(axis=1), (draws["x"] - CENTER / (1 + NOISE)) ** 2
    assert np.abs(t_scores(means, CENTER / (1 + NOISE))).max() < LIMIT
    assert np.abs(t_scores(squares.mean(axis=1), NOISE / (1 + NOISE))).max() < LIMIT


def test_evaluations_are_counted(draws):
    # Prior draws; at each temperature 25 chains of 7 moves, each of 4 gradients.
    spent = NUM_RUNS * (200 + STEPS * 25 * 7 * 4)
    assert tuple(draws.num_evaluations) == (spent, spent)


def test_chains_that_do_not_know_the_temperature_are_caught(monkeypatch):
    """Moves that leave the temperature before invariant: starts are right, the rest is not."""

    def late(rng_key, kernel, target, *rest):
        before = (target.inverse_temperature**0.25 - 1 / STEPS) ** 4
        target = eqx.tree_at(lambda t: t.inverse_temperature, target, before)
        return chains(rng_key, kernel, target, *rest)

    monkeypatch.setattr(waste_free, "chains", late)
    found = frozen(chain_length=10)  # a length that no other test has compiled
    runs = np.asarray(found.history["log_evidence"][:, -1], float)
    assert abs(t_scores(np.exp(runs - LOG_Z), 1.0)) > LIMIT


def test_chains_come_one_after_the_other_their_starts_first():
    kernel = RandomWalk(step_size=0.1).resolve(TARGET)
    starts = random.normal(random.key(0), (5, DIMENSION))
    found = chains(random.key(1), kernel, TARGET, starts, 4)
    assert found.positions.shape == (20, DIMENSION)
    by_chain = np.asarray(found.positions).reshape(5, 4, DIMENSION)
    np.testing.assert_array_equal(by_chain[:, 0], starts)
    steps = np.linalg.norm(np.diff(by_chain, axis=1), axis=-1)
    apart = np.linalg.norm(np.asarray(starts)[0] - np.asarray(starts)[1:], axis=-1)
    assert steps.max() < apart.min()


@pytest.mark.slow
def test_learnt_temperatures_agree_and_the_move_is_tuned():
    found = run(num_particles=2048, rng_key=3)
    assert abs(found.log_evidence.value - LOG_Z) < 4.9 * found.log_evidence.std_error
    assert found.log_evidence.std_error < 0.15
    assert 0.6 < found.history["acceptance_rate"][0, -1] < 0.95


# Bad input ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_particles": 1}, "num_particles must be an integer, at least 2; got 1"),
        ({"num_particles": 100, "chain_length": 16}, "a multiple of chain_length.*100 and 16"),
        ({"num_particles": 16, "chain_length": 16}, "two chains at least; got 16 and 16"),
        ({"schedule": (0.1, 0.5)}, "schedule must be inverse temperatures.* to 1; got"),
        ({"resampling": "best"}, "resampling scheme must be one of"),
        ({"move": 3}, "move must be a Markov kernel"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        WasteFreeSMC(**options)


def walled(x, wall):
    return jnp.where(x > wall, jnp.nan, -0.5 * (x - 0.5) ** 2)


def holed(wall):
    target = ppl.posterior(dist.Normal(0.0, 1.0), walled, wall)
    return run(target, num_particles=2048, chain_length=8)


def test_a_likelihood_that_is_never_there_is_an_error():
    with pytest.raises(ppl.TargetError, match="WasteFreeSMC: none of 2048 draws from the prior"):
        holed(-np.inf)


def test_particles_with_nan_die_and_are_never_copied():
    found = holed(1.0)
    assert (found["x"][np.isfinite(found.log_weights)] <= 1).all()
    assert any("NaN or infinite" in note for note in found.run.notes)
    x = np.linspace(-8, 1, 20001)
    truth = np.log(np.trapezoid(np.exp(-0.5 * x**2 - 0.5 * (x - 0.5) ** 2), x) / np.sqrt(2 * np.pi))
    assert abs(found.log_evidence.value - truth) < 4.9 * found.log_evidence.std_error


def test_copies_of_the_dead_are_dead():
    dead = fk.begin(jnp.arange(4), jnp.full(4, -jnp.inf))
    found = fk.copies(dead, jnp.arange(2))
    assert fk.is_dead(found)
    assert len(found.log_weights) == 2


def test_a_prior_that_cannot_be_sampled_is_refused():
    target = ppl.from_log_density(lambda x: -jnp.sum(x**2), jnp.zeros(2))
    with pytest.raises(ppl.TargetError, match=r"samplers\.WasteFreeSMC\(reference=numpyro"):
        run(target)
