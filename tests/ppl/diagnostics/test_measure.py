"""Blocks of particle methods on three states: ours preserve the measure, broken ones are caught."""

import itertools
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import random

import ppl
from ppl import weights
from ppl.diagnostics import preserves_measure
from samplers.mcmc import sequence_metropolis
from samplers.mcmc.sequence_metropolis import SequenceMetropolis
from samplers.smc import feynman_kac as fk
from samplers.smc.along_path import PathState
from samplers.smc.path import Path
from samplers.smc.resampling import SCHEMES
from samplers.smc.tempered import TemperedSMC

MEASURE = np.array([0.5, 1.0, 2.0])
MOVE = np.array([[0.7, 0.2, 0.1], [0.3, 0.4, 0.3], [0.2, 0.2, 0.6]])
POTENTIAL = np.array([0.2, 1.5, 0.7])
EXACT = {"enumerate_choices": True}

# Resampling -------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", sorted(SCHEMES))
def test_every_resampling_scheme_preserves_the_measure(scheme):
    resampler = fk.Resampler(1.0, scheme)
    check = preserves_measure(
        lambda key, x, w: fk.resample(key, fk.begin(x, w), resampler)[0], MEASURE
    )
    assert check, check.verdict
    assert check.std_error.any()


def test_resampling_where_the_ess_is_low_preserves_the_measure_also_without_some_states():
    check = preserves_measure(
        lambda key, x, w: fk.resample(key, fk.begin(x, w), fk.Resampler(0.6))[0], [0.0, 0.5, 3.0]
    )
    assert check, check.verdict


def mass_lost(key, x, w):
    """Equal weights of 1 whatever they were."""
    ancestors = SCHEMES["stratified"](key, w, len(w))
    return x[ancestors], jnp.zeros_like(w)


def weights_kept(key, x, w):
    """Copies, with the weights of those copied."""
    ancestors = SCHEMES["stratified"](key, w, len(w))
    return x[ancestors], w[ancestors]


def one_sided(key, x, w):
    """Systematic resampling whose only uniform stays in the lower half of its stratum."""
    points = (jnp.arange(len(w)) + random.uniform(key) / 2) / len(w)
    ancestors = jnp.searchsorted(jnp.cumsum(weights.probabilities(w)), points)
    return x[ancestors], jnp.full_like(w, weights.log_mean_exp(w))


def tempered_shares(key, x, w):
    """Resamples by the square roots of the weights, without correction."""
    ancestors = SCHEMES["multinomial"](key, w / 2, len(w))
    return x[ancestors], jnp.full_like(w, weights.log_mean_exp(w))


@pytest.mark.parametrize("mutant", [mass_lost, weights_kept, one_sided, tempered_shares])
def test_a_broken_resampler_is_caught(mutant):
    check = preserves_measure(mutant, MEASURE)
    assert not check
    keeps_mass = mutant in (one_sided, tempered_shares)
    assert ("mass" in check.verdict.splitlines()[1]) == (not keeps_mass)


def multinomial(choose, x, w, *, power=1.0):
    shares = weights.probabilities(power * w)
    ancestors = [choose(shares) for _ in w]
    return x[ancestors], np.zeros_like(w), weights.log_mean_exp(w)


def test_enumerated_choices_make_the_check_exact():
    check = preserves_measure(multinomial, MEASURE, num_particles=2, **EXACT)
    assert check
    assert np.abs(check.found - check.expected).max() < 1e-13
    # A bias of half a percent, which keys would need millions of runs to see.
    assert not preserves_measure(
        partial(multinomial, power=1.01), MEASURE, num_particles=2, **EXACT
    )


# Weights, extensions, the engine's step -----------------------------------------------------------


def test_weights_multiply_the_measure_and_halved_ones_are_caught():
    def weigh(power, key, x, w):
        return fk.weigh(fk.begin(x, w), power * jnp.log(jnp.asarray(POTENTIAL))[x])

    assert preserves_measure(partial(weigh, 1), MEASURE, after=MEASURE * POTENTIAL, num_keys=2)
    assert not preserves_measure(partial(weigh, 0.5), MEASURE, after=MEASURE * POTENTIAL)


def test_an_extension_gives_the_measure_of_pairs():
    pairs = np.array(list(itertools.product(range(3), repeat=2)))
    states_after = {"x": pairs[:, 0], "y": pairs[:, 1]}
    after = (MEASURE[:, None] * MOVE).ravel()

    def extend(choose, x, w, *, power=1):
        rows = MOVE**power / (MOVE**power).sum(1, keepdims=True)
        return {"x": x, "y": np.array([choose(rows[i]) for i in x])}, w

    options = {"after": after, "states_after": states_after, **EXACT}
    assert preserves_measure(extend, MEASURE, num_particles=2, **options)
    wrong = preserves_measure(partial(extend, power=2), MEASURE, num_particles=2, **options)
    assert not wrong
    # The marginal of x and the mass are right, the pairs are not; and the verdict says which.
    assert abs(wrong.scores[0]) == 0
    assert "x = 0, y = 1: " in wrong.verdict


class Chain(fk.FeynmanKac):
    """Moves by MOVE; log G(x, y) = a(y) - b(x)."""

    def start(self, rng_key, n):
        raise NotImplementedError

    def advance(self, rng_key, particles, row):
        moved = random.categorical(rng_key, jnp.log(jnp.asarray(MOVE))[particles])
        return moved, row[moved] - 0.5 * row[particles]


ROW = np.log(POTENTIAL)
AFTER = MEASURE / np.sqrt(POTENTIAL) @ MOVE * POTENTIAL


def engine_step(key, x, w):
    return fk.step(key, Chain(), fk.begin(x, w), jnp.asarray(ROW), fk.Resampler(0.7))[0]


def test_the_step_of_the_engine_gives_the_measure_of_the_model():
    check = preserves_measure(engine_step, MEASURE, after=AFTER, num_particles=4)
    assert check, check.verdict


def test_a_step_that_drops_its_weights_or_its_mass_is_caught(monkeypatch):
    right = fk.resample

    def dropped(*args, **options):
        after, ancestors, done = right(*args, **options)
        return after._replace(log_weights=jnp.zeros_like(after.log_weights)), ancestors, done

    def lost(*args, **options):
        after, ancestors, done = right(*args, **options)
        return after._replace(log_evidence=args[1].log_evidence), ancestors, done

    for mutant in (dropped, lost):
        monkeypatch.setattr(fk, "resample", mutant)
        check = preserves_measure(engine_step, MEASURE, after=AFTER, num_particles=4)
        assert not check
        assert "- mass: " in check.verdict


# Moves --------------------------------------------------------------------------------------------


PROPOSAL = np.array(
    [
        [0.1, 0.4, 0.2, 0.2, 0.1],
        [0.2, 0.2, 0.2, 0.2, 0.2],
        [0.3, 0.1, 0.1, 0.3, 0.2],
        [0.1, 0.1, 0.1, 0.1, 0.6],
        [0.4, 0.2, 0.1, 0.2, 0.1],
    ]
)
FIVE = np.array([0.1, 2.0, 0.7, 1.3, 0.4])


def metropolis(rate, choose, x, w):
    """One Metropolis-Hastings move of a single particle, choices enumerated."""
    (old,) = x
    new = choose(PROPOSAL[old])
    a = min(1, rate(old, new))
    return np.array([new if choose([1 - a, a]) else old]), w


def hastings(old, new):
    return FIVE[new] * PROPOSAL[new, old] / (FIVE[old] * PROPOSAL[old, new])


@pytest.mark.parametrize(
    ("rate", "right"),
    [
        (hastings, True),
        (lambda old, new: FIVE[new] / FIVE[old], False),  # no correction of the proposal
        (lambda old, new: 1 / hastings(old, new), False),
        (lambda old, new: 1.01 * hastings(old, new), False),
    ],
)
def test_a_kernel_leaves_five_states_invariant_exactly_or_does_not(rate, right):
    check = preserves_measure(partial(metropolis, rate), FIVE, num_particles=1, **EXACT)
    assert bool(check) == right
    assert abs(check.found[0] - FIVE.sum()) < 1e-12  # it always keeps the mass
    if right:
        assert np.abs(check.found - check.expected).max() < 1e-12


LENGTH, END = 3, 2
ALL = np.array(
    [
        [*t, *[END] * (LENGTH - n)]
        for n in range(LENGTH)
        for t in itertools.product((0, 1), repeat=n)
    ]
)


def logits(params, tokens):
    before = jnp.concatenate([jnp.zeros(1, jnp.int32), tokens[:-1]])
    return params[before]


TABLE = np.log([[0.2, 0.5, 0.3], [0.6, 0.1, 0.3], [0.1, 0.1, 0.8]])
WORDS = ppl.SequenceModel(logits, TABLE, LENGTH, END)
REWARDED = ppl.tilt(WORDS, lambda y: 1.5 * jnp.sum(y == 1) - 0.5 * jnp.sum(y == 0))


def at(b):
    """Masses of all sequences at one inverse temperature."""
    parts = jax.vmap(REWARDED.log_parts)(jnp.asarray(ALL, jnp.int32))
    return np.exp(np.asarray(parts[0] + b * parts[1], np.float64))


def temper(key, particles, log_weights):
    """From b = 0.3 to b = 0.8: weigh, resample, move by a Markov kernel."""
    sampler = TemperedSMC(num_particles=2, move=SequenceMetropolis(WORDS), tune=False)
    known = Path(REWARDED).known(particles, sampler.move)
    population = fk.begin((particles, known), log_weights)
    arrays = eqx.filter(sampler.move, eqx.is_array)
    begun = jnp.float32(0.3), jnp.int32(0), arrays, jnp.zeros(())
    state = PathState(population, *begun, enough=jnp.int32(1), counted_at=jnp.zeros(()))
    state, _ = sampler.advance(key, REWARDED, state, jnp.float32(0.8), fk.Resampler(0.7), 2, 2)
    return state.population._replace(particles=state.population.particles[0])


def tempered_check():
    options = {"states": ALL.astype(np.int32), "num_particles": 2, "num_keys": 400}
    return preserves_measure(temper, at(0.3), after=at(0.8), **options)


@pytest.mark.slow
@pytest.mark.usefixtures("unoptimized")
def test_a_tempered_step_with_metropolis_moves_gives_the_next_measure():
    check = tempered_check()
    assert check, check.verdict


@pytest.mark.usefixtures("unoptimized")
def test_a_tempered_step_with_a_wrong_acceptance_is_caught(monkeypatch):
    monkeypatch.setattr(
        sequence_metropolis, "log_proposal_ratio", lambda *args: jnp.zeros((), jnp.float32)
    )
    assert not tempered_check()


# What a user may get wrong ------------------------------------------------------------------------


def identity(key, x, w):
    return x, w


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"measure": [-1.0, 2.0]}, r"measure must be masses of states.*\[-1.0, 2.0\]"),
        ({"measure": [0.0, 0.0]}, "measure must be masses"),
        ({"states": np.arange(4)}, "states must have a leading axis of length 3"),
        ({"after": [1.0, 2.0]}, "states must have a leading axis of length 2"),
        ({"num_particles": 8}, "3 states and 8 particles make 6561 populations"),
        ({"block": 3}, "block must be a function"),
        ({"block": lambda k, x, w: x}, r"must return \(particles, log_weights\)"),
        ({"block": lambda k, x, w: ({"x": x}, w)}, "give states_after= where the block extends"),
        (
            {"block": lambda k, x, w: (x[:, None], w)},
            r"of shape \(1,\), states have .* \(\)",
        ),
        (
            {"block": lambda choose, x, w: (x[[choose([0.5, 0.4])]], w), "enumerate_choices": True},
            "choose takes probabilities that add up to one",
        ),
    ],
)
def test_what_makes_no_sense_is_refused(options, message):
    options = {"block": identity, "measure": MEASURE} | options
    with pytest.raises(ValueError, match=message):
        preserves_measure(options.pop("block"), options.pop("measure"), **options)


def test_a_block_that_leaves_the_space_or_gives_nan_is_told():
    check = preserves_measure(lambda key, x, w: (x + 1, w), MEASURE, num_keys=2)
    assert "elsewhere: 2 where 0 is due" in check.verdict
    assert not preserves_measure(lambda key, x, w: (x, w * jnp.nan), MEASURE, num_keys=2)
