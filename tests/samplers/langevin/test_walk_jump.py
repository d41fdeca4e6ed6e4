"""Learned walks and jumps, against the smoothed law of a table that can be listed."""

from dataclasses import replace
from functools import cache

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import random

import ppl
import samplers
from samplers.langevin import walk_jump
from samplers.langevin.walk_jump import LearnedSequences, WalkJump, contrast_of, denoised
from samplers.langevin.walk_jump_gibbs import SmoothedSequences

pytestmark = pytest.mark.usefixtures("unoptimized")

SHAPE = (3, 3, 3, 3)
TOKENS = np.indices(SHAPE)
# Letters have unequal shares, and like to be what their neighbor is.
TABLE = 0.7 * (TOKENS == 0).sum(0) + 1.0 * (np.diff(TOKENS, axis=0) == 0).sum(0)
LAW = np.exp(TABLE).ravel() / np.exp(TABLE).sum()
ONE_HOT = np.eye(3, dtype=np.int32)[TOKENS.reshape(4, 81).T]
TEMPLATE = jax.ShapeDtypeStruct((4, 3), jnp.float32)
SAMPLER = WalkJump(num_updates=300, num_rows=128, learning_rate=0.01, num_steps=50)


def smoothed(table):
    return SmoothedSequences(jnp.asarray(table.ravel(), jnp.float32), SAMPLER.sigma, TEMPLATE)


@cache
def rows(n=4000):
    return ONE_HOT[np.random.default_rng(1).choice(81, n, p=LAW)]


@cache
def trained():
    return ppl.sample(SAMPLER, ppl.from_samples(rows()), num_samples=1024, progress=False)


@eqx.filter_jit
def errors(state):
    """Of the learned log-density, its gradient and the denoiser: in units of those of no network.

    A density is known up to a constant: its error is a variance.
    """
    key_x, key_noise = random.split(random.key(2))
    x = jnp.asarray(ONE_HOT)[random.choice(key_x, 81, (4000,), p=LAW)]
    z = x / SAMPLER.sigma + random.normal(key_noise, x.shape)
    truth, none = smoothed(TABLE), smoothed(np.zeros(SHAPE))
    learned = LearnedSequences(state.energy, SAMPLER.sigma, TEMPLATE)
    square = lambda f, g: jnp.mean((jax.vmap(f)(z) - jax.vmap(g)(z)) ** 2)
    spread = lambda f, g: jnp.var(jax.vmap(f)(z) - jax.vmap(g)(z))
    score = lambda law: jax.grad(law.log_density)
    jump = lambda z: denoised(state.denoiser, z, SAMPLER.sigma)
    return (
        spread(learned.log_density, truth.log_density)
        / spread(none.log_density, truth.log_density),
        square(score(learned), score(truth)) / square(score(none), score(truth)),
        square(jump, truth.denoise) / square(none.denoise, truth.denoise),
    )


def test_without_networks_the_letters_are_independent():
    none = smoothed(np.zeros(SHAPE))
    flat = LearnedSequences(lambda u: 0.0 * u.sum(), SAMPLER.sigma, TEMPLATE)
    z = random.normal(random.key(0), (5, 4, 3))
    difference = jax.vmap(none.log_density)(z) - jax.vmap(flat.log_density)(z)
    np.testing.assert_allclose(difference, 0, atol=1e-4)
    jumped = jax.vmap(denoised, (None, 0, None))(jnp.zeros_like, z, SAMPLER.sigma)
    np.testing.assert_allclose(jumped, jax.vmap(none.denoise)(z), atol=1e-5)


def test_draws_are_sequences_like_those_of_the_data():
    draws = trained()
    x = draws["x"][0]
    assert x.shape == (1024, 4, 3)
    assert x.dtype == np.int32
    assert set(np.unique(x)) == {0, 1}
    assert (x.sum(-1) == 1).all()
    # Neighbors that are equal, on average: 1 of 3 if letters were independent and uniform. A short
    # training and short walks find most of the rest.
    equal = lambda x: (x[:, 1:] * x[:, :-1]).sum((1, 2))
    known = LAW @ equal(ONE_HOT)
    assert abs(equal(x).mean() - known) < 0.25 * (known - 1)
    assert draws.history["loss"][0, -20:].mean() < draws.history["loss"][0, :20].mean()
    # Training: walks and their starts, and two energies an update. Draws come in batches.
    assert draws.num_evaluations[1] == 300 * 128 * (5 + 2) + 1024 * 50
    assert (draws.history["acceptance_rate"] > 0.8).all()


def test_training_approaches_the_smoothed_law_and_its_denoiser():
    density, score, jump = errors(trained().sampler.state)
    assert density < 0.2
    assert score < 0.4
    assert jump < 0.1


def test_the_contrast_is_lower_at_the_truth_and_not_with_the_other_sign():
    """By both divergences between the laws; the training below sees that it is made small."""
    places, tokens = np.arange(4)[:, None], TOKENS.reshape(4, 81)
    mixed = lambda u: jnp.log(LAW @ jnp.prod(u.reshape(4, 3)[places, tokens], axis=0))
    truth, none = (
        LearnedSequences(network, SAMPLER.sigma, TEMPLATE)
        for network in (mixed, lambda u: 0.0 * u.sum())
    )
    noise = random.normal(random.key(3), (4000, 4, 3))
    walks = ONE_HOT[np.random.default_rng(2).choice(81, 4000)] / SAMPLER.sigma + noise
    noisy = rows() / SAMPLER.sigma + noise
    assert contrast_of(truth, noisy, walks) < contrast_of(none, noisy, walks) - 0.1
    assert contrast_of(truth, walks, noisy) > contrast_of(none, walks, noisy) + 0.1


@pytest.mark.slow
def test_energies_that_are_pulled_the_wrong_way_are_caught(monkeypatch):
    monkeypatch.setattr(walk_jump, "contrast_of", lambda law, z, walks: -contrast_of(law, z, walks))
    sampler = replace(SAMPLER, num_updates=60)
    draws = ppl.sample(sampler, ppl.from_samples(rows()), num_samples=1, progress=False)
    assert errors(draws.sampler.state)[0] > 1


@pytest.mark.slow
def test_another_kernel_walks_as_well():
    sampler = WalkJump(walk=samplers.MALA(0.3), num_updates=2, num_rows=4, num_steps=3)
    draws = ppl.sample(sampler, ppl.from_samples(rows()), num_samples=5, progress=False)
    assert draws["x"].shape == (1, 5, 4, 3)


def test_what_it_cannot_learn_from_is_refused():
    two = np.array(ONE_HOT)
    two[7, 1] = [1, 0, 1]
    density = ppl.from_log_density(lambda x: -1.0 * x.sum(), ONE_HOT[0])
    for sampler, target, message in [
        (SAMPLER, ppl.from_samples(two), r"one 1 for each place.*row 7 is \[\["),
        (SAMPLER, ppl.from_samples(TOKENS.reshape(4, 81).T), r"one-hot.*int32\[4\].*one_hot"),
        (SAMPLER, ppl.from_samples(ONE_HOT * 1.0), r"integers of shape.*float32\[4, 3\]"),
        (SAMPLER, density, "WalkJump needs 'data'"),
        (WalkJump(walk=samplers.MYULA(0.1)), ppl.from_samples(ONE_HOT), "MYULA needs 'proximal"),
    ]:
        with pytest.raises(ppl.TargetError, match=message):
            ppl.sample(sampler, target, progress=False)
    with pytest.raises(ValueError, match="walk must be a Markov kernel"):
        WalkJump(walk="MALA")


@pytest.mark.parametrize("double", [False, True], ids=["float32", "float64"])
def test_a_step_keeps_its_state_in_both_precisions(double):
    """Traced only."""
    with jax.enable_x64(double):
        target, key = ppl.from_samples(ONE_HOT), random.key(0)
        sampler = WalkJump(num_rows=4).resolve(target)
        state = eqx.filter_eval_shape(sampler.init, key, target)
        after, info = eqx.filter_eval_shape(sampler.step, key, target, state)
        assert shapes(after) == shapes(state)
        assert info.num_evaluations == jax.ShapeDtypeStruct((2,), jnp.int32)
        assert state.walks.dtype == (jnp.float64 if double else jnp.float32)
        drawn, _ = eqx.filter_eval_shape(sampler.draw, key, target, state, 7)
        assert drawn == jax.ShapeDtypeStruct((7, 4, 3), jnp.int32)


def shapes(tree):
    return jax.tree.map(lambda x: (x.shape, x.dtype), eqx.filter(tree, eqx.is_array_like))
