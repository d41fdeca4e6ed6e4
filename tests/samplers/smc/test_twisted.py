"""Twisted SMC on chains that can be enumerated: weights are exact whatever the twist, and learned
twists are the best ones."""

import itertools
from dataclasses import replace

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import random

import ppl
from agreement import t_limit, t_scores
from ppl import weights
from samplers.smc import twisted, twisted_model
from samplers.smc.twist_network import prefix_network
from samplers.smc.twisted import TwistedSMC

pytestmark = pytest.mark.usefixtures("unoptimized")

LIMIT = t_limit(40, 500)

# A chain of three states, six long; phi looks at the last one.
START = np.array([0.5, 0.3, 0.2])
MOVE = np.array([[0.7, 0.2, 0.1], [0.3, 0.4, 0.3], [0.2, 0.2, 0.6]])
LAST = np.array([0.02, 0.1, 1.0])
LENGTH = 6
MARGINALS = np.stack([START @ np.linalg.matrix_power(MOVE, t) for t in range(LENGTH)])
BEST = np.stack([np.linalg.matrix_power(MOVE, LENGTH - 1 - t) @ LAST for t in range(LENGTH)])
LOG_Z = float(np.log(START @ BEST[0]))
# A poor guess of what is to come: nothing early, then a hint, then the truth.
POOR = np.array([np.ones(3)] * 2 + [[0.3, 0.5, 1.0]] * 3 + [LAST])
ALL = np.array(list(itertools.product(range(3), repeat=LENGTH)))


def after(params, tokens):
    """Row t of a table of what follows what; its row 0 begins."""
    return params[jnp.concatenate([jnp.zeros(1, jnp.int32), tokens[:-1] + 1])]


def last_reward(tokens, log_last):
    return log_last[tokens[-1]]


MODEL = ppl.SequenceModel(after, np.log(np.vstack([START, MOVE])), LENGTH)
TARGET = ppl.tilt(MODEL, last_reward, np.log(LAST))


def table(params, tokens):
    """A twist that looks at the new token alone."""
    return params


def table_row(params, tokens, t):
    return params[t]


def of_prefixes(params, tokens):
    """The same, one number a prefix."""
    return params[jnp.arange(LENGTH), tokens]


def fixed(twist, **options):
    options = {"twist_fn": table, "num_updates": 0} | options
    return TwistedSMC(twist_params=jnp.log(jnp.asarray(twist)), **options).resolve(TARGET)


@eqx.filter_jit
def populations(sampler, target, params, num_runs, variant="right"):
    """Tokens (run, particle, place) and log weights (run, particle) of independent populations."""
    state = twisted.TwistedState(params, None)
    n = sampler.num_particles
    tokens, log_w = sampler.draw(random.key(3), target, state, num_runs * n)
    return tokens.reshape(num_runs, n, -1), log_w.reshape(num_runs, n)


def drawn(sampler, num_runs, variant="right"):
    tokens, log_w = populations(sampler, TARGET, sampler.twist_params, num_runs, variant)
    return np.asarray(tokens), np.asarray(log_w, np.float64)


def z_score(sampler, num_runs=500, variant="right"):
    _, log_w = drawn(sampler, num_runs, variant)
    return abs(t_scores(np.exp(weights.log_mean_exp(log_w) - LOG_Z), 1.0))


# Weights ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "form",
    [{}, {"twist_row_fn": table_row}, {"twist_fn": of_prefixes}],
    ids=["rows", "a row", "prefixes"],
)
def test_with_the_best_twists_weights_are_equal_and_one_particle_knows_z(form):
    _, log_w = drawn(fixed(BEST, num_particles=1, **form), 3000)
    assert log_w.var() < 1e-10
    np.testing.assert_allclose(log_w, LOG_Z, atol=2e-6)


def test_with_the_best_twists_draws_are_those_of_the_target():
    tokens, _ = drawn(fixed(BEST, num_particles=1), 3000)
    found = np.stack([(tokens[:, 0] == s).mean(0) for s in range(3)], axis=1)
    exact = MARGINALS * BEST / np.exp(LOG_Z)
    scores = (found - exact) / np.sqrt(exact * (1 - exact) / 3000)
    assert np.abs(scores).max() < LIMIT


@pytest.mark.parametrize("proposal", ["twisted", "base"])
@pytest.mark.parametrize("resample_below", [0.0, 0.5, 1.0])
def test_z_is_unbiased_with_poor_twists(proposal, resample_below):
    sampler = fixed(POOR, num_particles=8, proposal=proposal, resample_below=resample_below)
    assert z_score(sampler) < LIMIT


def no_division(before, after):
    """Forgets psi of the shorter prefix."""
    return after.log_twist


def upside_down(before, after):
    return before.log_twist - after.log_twist


@pytest.mark.parametrize("mutant", [no_division, pytest.param(upside_down, marks=pytest.mark.slow)])
def test_weights_without_the_twist_before_or_of_the_wrong_sign_are_caught(monkeypatch, mutant):
    monkeypatch.setattr(twisted_model, "_step", mutant)
    assert z_score(fixed(POOR, num_particles=8), variant=mutant.__name__) > LIMIT


def test_weights_without_the_proposal_are_caught(monkeypatch):
    right = twisted_model.TwistedModel._proposal

    def drawn_from_elsewhere(self, log_p, log_psi):
        return jax.nn.log_softmax(right(self, log_p, log_psi) / 2)

    # Right weights for another proposal are right.
    monkeypatch.setattr(twisted_model.TwistedModel, "_proposal", drawn_from_elsewhere)
    assert z_score(fixed(POOR, num_particles=8), variant="flat") < LIMIT
    # Those of the old proposal are not.
    monkeypatch.setattr(
        twisted_model.TwistedModel, "_proposal", lambda self, log_p, log_psi: (log_p + log_psi) / 2
    )
    assert z_score(fixed(POOR, num_particles=8), variant="unnormalized") > LIMIT


def first_draw_score(variant):
    """Mean of w 1{last state is 2} over the first draw of each population."""
    sampler = fixed(POOR, num_particles=16, proposal="base", resample_below=1.0)
    tokens, log_w = drawn(sampler, 2000, variant)
    hits = np.exp(log_w[:, 0] - LOG_Z) * (tokens[:, 0, -2] == 2)
    joint = MARGINALS[-2, 2] * BEST[-2, 2] / np.exp(LOG_Z)
    return abs(t_scores(hits, joint))


@pytest.mark.slow
def test_any_draw_of_a_population_is_like_any_other(monkeypatch):
    assert first_draw_score("right") < LIMIT
    monkeypatch.setattr(twisted.random, "permutation", lambda key, n: jnp.arange(n))
    assert first_draw_score("in order") > LIMIT


@pytest.mark.slow
def test_the_path_of_a_sequence_has_the_weights_of_its_particle():
    for proposal in ("twisted", "base"):
        sampler = fixed(POOR, num_particles=4, proposal=proposal, resample_below=0.0)
        tokens, log_w = drawn(sampler, 5)
        model = sampler.model(TARGET, twisted.TwistedState(sampler.twist_params, None))
        found = jax.vmap(lambda one, model=model: weight_along(model, one))(
            jnp.asarray(tokens.reshape(-1, LENGTH))
        )
        np.testing.assert_allclose(found, log_w.ravel(), rtol=1e-4)


def weight_along(model, tokens):
    path = model.path(tokens)
    before = jax.tree.map(lambda x: x[:-1, None], path)
    then = jax.tree.map(lambda x: x[1:, None], path)
    return jnp.sum(jax.vmap(model.log_potential)(before, then, model.places))


# Learning ---------------------------------------------------------------------------------------


def learned(objective="contrastive", num_samples=6400, **options):
    settings = {"num_updates": 250, "learning_rate": 0.1, "objective": objective} | options
    sampler = TwistedSMC(twist_fn=table, twist_params=np.zeros((LENGTH, 3)), **settings)
    return ppl.sample(sampler, TARGET, num_samples=num_samples, progress=False)


def centered(log_psi):
    """Up to a factor for each place, in the weights of the target."""
    shares = MARGINALS * BEST / np.exp(LOG_Z)
    return log_psi - (shares * log_psi).sum(1, keepdims=True)


def far(log_psi):
    """Largest total variation, over places, of pi_t from the target's law of that place."""
    pi = MARGINALS * np.exp(np.asarray(log_psi, np.float64))
    sigma = MARGINALS * BEST / np.exp(LOG_Z)
    return (np.abs(pi / pi.sum(1, keepdims=True) - sigma).sum(1) / 2).max()


@pytest.fixture(scope="module")
def contrasted():
    return learned()


def test_contrastive_twists_are_the_best_ones_up_to_a_factor_for_each_place(contrasted):
    log_psi = np.asarray(contrasted.sampler.state.params)
    assert far(np.zeros((LENGTH, 3))) > 0.3
    assert far(log_psi) < 0.01
    np.testing.assert_allclose(centered(log_psi), centered(np.log(BEST)), atol=0.25)


def test_draws_of_a_learned_twist_are_weighted_and_know_z(contrasted):
    value, error = contrasted.log_evidence[:2]
    assert abs(value - LOG_Z) < 4.9 * error < 0.02
    assert contrasted.history["ess"][0, -1] > 0.99 * 256 > contrasted.history["ess"][0, 0] * 2
    trained = ppl.sample(contrasted.sampler, TARGET, 7, num_samples=2000, progress=False)
    assert trained.log_evidence.std_error < 0.01
    assert trained.num_evaluations == (2 * 1024, 0)


@pytest.mark.parametrize("mutant", [pytest.param("swapped", marks=pytest.mark.slow), "unweighted"])
def test_an_objective_with_its_terms_swapped_or_unweighted_is_caught(monkeypatch, mutant):
    def broken(log_psi, log_ratio, log_phi):
        if mutant == "unweighted":
            return twisted.contrastive(log_psi, log_ratio, jnp.zeros_like(log_phi))
        return -twisted.contrastive(log_psi, log_ratio, log_phi)

    monkeypatch.setitem(twisted.OBJECTIVES, "contrastive", broken)
    # Another learning rate, as a known one is not traced anew.
    draws = learned(num_samples=1, num_updates=60, num_rollouts=255)
    assert far(draws.sampler.state.params) > 0.1


def test_values_are_the_mean_log_potentials_and_weights_make_up_for_them():
    mean = np.stack([np.linalg.matrix_power(MOVE, LENGTH - 1 - t) @ np.log(LAST) for t in range(6)])
    draws = learned("value", num_rollouts=1024)
    np.testing.assert_allclose(draws.sampler.state.params, mean, atol=0.1)
    assert (mean < np.log(BEST) + 1e-12).all()
    assert abs(draws.log_evidence.value - LOG_Z) < 4.9 * draws.log_evidence.std_error < 0.05


def divergence_of_values(strength):
    """KL of the value-augmented law from the target, by enumeration."""
    reward = np.log(LAST)
    log_phi = strength * reward[ALL[:, -1]]
    rows = np.stack([np.linalg.matrix_power(MOVE, LENGTH - 1 - t) @ reward for t in range(LENGTH)])
    sampler = fixed(np.exp(strength * rows))
    with jax.enable_x64(True):
        target = ppl.tilt(
            ppl.SequenceModel(after, np.log(np.vstack([START, MOVE])), LENGTH),
            last_reward, np.log(LAST), strength=strength,
        )  # fmt: skip
        state = twisted.TwistedState(jnp.asarray(strength * rows), None)
        log_ratio, _ = jax.vmap(sampler.model(target, state).along)(jnp.asarray(ALL, jnp.int32))
        log_p = np.asarray(jax.vmap(target.prior.log_density)(jnp.asarray(ALL, jnp.int32)))
    log_q = log_p - np.asarray(log_ratio).sum(1)
    np.testing.assert_allclose(np.exp(log_q).sum(), 1, rtol=1e-9)
    log_z = np.log(np.exp(log_p + log_phi).sum())
    return np.sum(np.exp(log_q) * (log_q - log_p - log_phi)) + log_z


def test_the_divergence_of_values_falls_with_the_fourth_power_of_the_strength():
    """Jensen's gap in log psi is of second order in the strength, and the divergence its square."""
    one, half = divergence_of_values(0.02), divergence_of_values(0.01)
    assert 15 < one / half < 17


# Sequences that end -----------------------------------------------------------------------------

END = 0  # as what is not yet drawn, to see that it does not matter
FOUR = 4
ENDING_TABLE = np.log([[0.3, 0.5, 0.2], [0.2, 0.4, 0.4], [0.3, 0.3, 0.4], [0.5, 0.1, 0.4]])
ENDING = ppl.SequenceModel(after, ENDING_TABLE, FOUR, end_token=END)


def ones(tokens, price):
    """A price for each 1, and no sequence without a 2."""
    return jnp.where(jnp.any(tokens == 2), price * jnp.sum(tokens == 1), -jnp.inf)


CONSTRAINED = ppl.tilt(ENDING, ones, 0.8)


def ending():
    """All sequences that end, their probabilities, and log Z."""
    found = [
        [*t, *[END] * (FOUR - n)] for n in range(FOUR) for t in itertools.product((1, 2), repeat=n)
    ]
    log_density = jax.vmap(CONSTRAINED.log_density)(jnp.asarray(found, jnp.int32))
    p = np.exp(np.asarray(log_density, np.float64))
    return np.array(found), p / p.sum(), np.log(p.sum())


@pytest.mark.slow
@pytest.mark.parametrize("proposal", ["twisted", "base"])
def test_sequences_that_end_early_have_the_right_weights(proposal):
    sampler = TwistedSMC(num_particles=8, num_updates=0, proposal=proposal).resolve(CONSTRAINED)
    params = prefix_network(random.key(0), FOUR, 3)
    # An arbitrary network: its last layer does not start at zero.
    params = params._replace(out=random.normal(random.key(1), params.out.shape) / 8)
    tokens, log_w = populations(sampler, CONSTRAINED, params, 1000)
    states, p, log_z = ending()
    hits = (np.asarray(tokens)[:, :, None] == states).all(3)
    alive = np.isfinite(log_w)
    assert hits[alive].any(-1).all()
    shares = np.exp(np.asarray(log_w, np.float64) - log_z)
    frequencies = (shares[..., None] * hits).mean(1)
    assert np.abs(t_scores(frequencies[:, p > 0], p[p > 0])).max() < LIMIT
    assert abs(t_scores(shares.mean(1), 1.0)) < LIMIT
    assert (frequencies[:, p == 0] == 0).all()


@pytest.mark.slow
def test_the_network_learns_what_cannot_be_read_off_the_last_token():
    sampler = TwistedSMC(num_updates=150, learning_rate=0.02)
    draws = ppl.sample(sampler, CONSTRAINED, num_samples=6400, progress=False)
    _, _, log_z = ending()
    assert abs(draws.log_evidence.value - log_z) < 4.9 * draws.log_evidence.std_error < 0.05
    first, last = draws.history["ess"][0, [0, -1]]
    assert last > 0.9 * 256 > 1.3 * first
    assert not draws.history["diverging"].any()
    assert draws.num_evaluations == (150 * 256 * (FOUR + 1) + 7 * 1024 * FOUR, 0)


# The door ---------------------------------------------------------------------------------------


def test_errors_are_those_between_populations():
    """Particles that were resampled are not as many draws."""
    sampler = fixed(POOR, num_particles=64, resample_below=1.0, proposal="base")
    draws = ppl.sample(sampler, TARGET, num_samples=8192, progress=False)
    between = weights.log_mean_exp(draws.log_weights.reshape(-1, 64))
    expected = np.exp(between - between.max()).std(ddof=1) / np.exp(between - between.max()).mean()
    assert draws.log_evidence.std_error == pytest.approx(expected / 128**0.5, rel=1e-3)
    alone = ppl.sample(replace(sampler, num_particles=1500), TARGET, progress=False)
    assert alone.log_evidence.std_error is None
    # Those of means as well.
    x, log_w = draws["x"][0, :, 0].reshape(-1, 64), draws.log_weights.reshape(-1, 64)
    totals = np.exp(log_w.astype(float)).sum(1) / np.exp(log_w.astype(float)).sum()
    means = (np.exp(log_w) * x).sum(1) / np.exp(log_w).sum(1)
    expected = np.sqrt(np.sum(totals**2 * (means - totals @ means) ** 2))
    naive = weights.mcse_mean(draws["x"][0, :, 0].astype(float), draws.log_weights[0])
    assert draws.summary()["mcse_mean"]["x[0]"] == pytest.approx(expected, rel=1e-3)
    assert expected > 1.1 * naive


def test_new_rewards_and_new_rates_compile_nothing(compilations):
    ppl.sample(TwistedSMC(num_updates=3), CONSTRAINED, progress=False)
    other = ppl.tilt(ENDING, ones, 0.3, strength=2.0)
    with compilations() as count:
        ppl.sample(TwistedSMC(num_updates=3, learning_rate=0.1), other, progress=False)
    assert count.compilations == 0


@pytest.mark.slow
def test_rollouts_of_which_none_is_possible_leave_the_twist_alone():
    impossible = ppl.tilt(ENDING, lambda tokens: -jnp.inf * jnp.any(tokens == 2) - jnp.inf)
    draws = ppl.sample(TwistedSMC(num_updates=2), impossible, num_samples=64, progress=False)
    assert draws.history["diverging"].all()
    assert draws.log_evidence.value == -np.inf
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(draws.sampler.state.params))


OTHER = ppl.posterior(ppl.from_distribution(__import__("numpyro").distributions.Normal()), jnp.sin)


@pytest.mark.parametrize(
    ("sampler", "target", "error", "message"),
    [
        ({}, MODEL, ppl.TargetError, "'log_likelihood'"),
        ({}, OTHER, ppl.TargetError, r"ppl.tilt\(ppl.SequenceModel.*DistributionEnergy"),
        (
            {"twist_fn": lambda p, y: p[:2], "twist_params": np.zeros((6, 3))},
            TARGET, ppl.TargetError, r"\(length, num_tokens\) = \(6, 3\), or of .* got \(2, 3\)",
        ),
        (
            {"twist_fn": lambda p, y: p[y], "twist_params": np.eye(3)},
            TARGET, ppl.TargetError, "twist_fn looks ahead",
        ),
        (
            {"twist_fn": lambda p, y: jnp.zeros((6, 3))},
            TARGET, ppl.TargetError, "no numbers to learn: give some, or write num_updates=0",
        ),
        ({"objective": "best"}, TARGET, ValueError, "objective must be one of .*'contrastive'"),
        ({"proposal": "best"}, TARGET, ValueError, "proposal must be 'twisted' or 'base'"),
        ({"resampling": "best"}, TARGET, ValueError, "scheme must be one of"),
        ({"resample_below": 1.5}, TARGET, ValueError, "resample_below must be a number from 0"),
        ({"twist_params": np.zeros(3)}, TARGET, ValueError, "belong to a twist_fn; none is given"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(sampler, target, error, message):
    with pytest.raises(error, match=message):
        ppl.sample(TwistedSMC(**sampler), target, progress=False)
