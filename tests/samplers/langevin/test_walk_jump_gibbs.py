"""Walks on smoothed one-hot sequences and jumps back, against the table of all 81 of them."""

import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import random

import ppl
import samplers
from agreement import t_limit, t_scores
from chains import NUM_CHECKS, Known, agrees, run, scores
from samplers.langevin.walk_jump_gibbs import SmoothedSequences, WalkJumpGibbs
from samplers.mcmc.metrics import Identity

LENGTH, LETTERS = 4, 3
TABLE = np.random.default_rng(0).normal(size=(LETTERS,) * LENGTH)
LAW = np.exp(TABLE).ravel() / np.exp(TABLE).sum()
TOKENS = np.array(list(itertools.product(range(LETTERS), repeat=LENGTH)))
ONE_HOT = np.eye(LETTERS, dtype=np.int32)[TOKENS]
MALA = samplers.MALA(0.3, metric=Identity())


def log_density(x, table):
    return table[tuple(jnp.argmax(x, axis=1))]


def target():
    return ppl.from_log_density(log_density, ONE_HOT[0], TABLE)


def pairs(x):
    """Whether two places hold two letters, for all of them: single letters on the diagonal."""
    flat = 1.0 * x.ravel()
    return jnp.outer(flat, flat)[np.triu_indices(flat.size)]


def known():
    def sample(key, n):
        return jnp.asarray(ONE_HOT)[random.choice(key, 81, (n,), p=LAW)]

    truth = LAW @ np.stack([np.asarray(pairs(x)) for x in ONE_HOT])
    return Known(target(), sample, pairs, truth)


def total_variation(positions):
    """Of the frequencies of sequences, from the law in the table."""
    numbers = np.ravel_multi_index(tuple(np.moveaxis(positions.argmax(-1), -1, 0)), TABLE.shape)
    shares = np.bincount(numbers.ravel(), minlength=81) / numbers.size
    return 0.5 * np.abs(shares - LAW).sum()


def long_run(kernel, variant="right"):
    """2e5 sequences: 256 chains that all begin at the first."""
    kernel, starts = kernel.resolve(target()), jnp.asarray(np.repeat(ONE_HOT[:1], 256, axis=0))
    return np.asarray(run(kernel, target(), random.key(0), starts, 800, variant)[0])


def test_the_smoothed_density_and_the_denoiser_are_those_of_the_mixture():
    sigma, z = 0.7, np.random.default_rng(1).normal(size=(LENGTH, LETTERS))
    template = jax.ShapeDtypeStruct(z.shape, jnp.float32)
    law = SmoothedSequences(jnp.log(LAW), jnp.asarray(sigma), template)
    far = ((sigma * z - ONE_HOT) ** 2).sum((1, 2)) / (2 * sigma**2)
    weights = LAW * np.exp(-far)
    # |x| is 2 for all sequences of length 4, so that it is a constant.
    constant = LENGTH / (2 * sigma**2)
    assert law.log_density(jnp.asarray(z)) == pytest.approx(np.log(weights.sum()) + constant)
    mean = np.tensordot(weights / weights.sum(), ONE_HOT, 1)
    np.testing.assert_allclose(law.denoise(jnp.asarray(z)), mean, atol=1e-5)


@pytest.mark.usefixtures("unoptimized")
@pytest.mark.parametrize(
    "kernel",
    [WalkJumpGibbs(num_steps=5), WalkJumpGibbs(sigma=1.0, walk=MALA, num_steps=5)],
    ids=["underdamped", "MALA"],
)
def test_a_sweep_leaves_the_law_invariant(kernel):
    assert kernel.exactness == "exact"
    assert agrees(scores(kernel, known(), num_steps=60))


def test_every_sequence_comes_as_often_as_the_table_says():
    found = total_variation(long_run(WalkJumpGibbs(walk=MALA, num_steps=5)))
    assert found < 0.02


def with_noise(law, factor):
    return eqx.tree_at(lambda law: law.sigma, law, law.sigma * factor)


@pytest.mark.slow
def test_a_jump_with_another_noise_is_caught(monkeypatch):
    # The density keeps the right weights: only the jump has others.
    right = SmoothedSequences.log_weights
    density = lambda law, z: jax.nn.logsumexp(right(law, z)) - jnp.sum(z**2) / 2
    monkeypatch.setattr(SmoothedSequences, "log_density", density)
    monkeypatch.setattr(
        SmoothedSequences, "log_weights", lambda law, z: right(with_noise(law, 0.5), z)
    )
    kernel = WalkJumpGibbs(sigma=1.0, walk=MALA, num_steps=5)
    assert not agrees(scores(kernel, known(), num_steps=60, variant="jump"))


@pytest.mark.slow
def test_a_walk_with_another_noise_is_caught(monkeypatch):
    right = SmoothedSequences.log_density
    monkeypatch.setattr(
        SmoothedSequences, "log_density", lambda law, z: right(with_noise(law, 2.0), z / 2)
    )
    kernel = WalkJumpGibbs(sigma=1.0, walk=MALA, num_steps=5)
    assert not agrees(scores(kernel, known(), num_steps=60, variant="walk"))


@pytest.mark.slow
def test_the_likeliest_letters_have_the_law_of_jumps_from_exact_walks():
    """Biased, by a total variation of 0.13 at a sigma of 1, and no more and no less than known."""
    kernel = WalkJumpGibbs(sigma=1.0, walk=MALA, num_steps=5, argmax=True)
    assert kernel.exactness == "biased"
    known_, (key_x, key_noise, key_run) = known(), random.split(random.key(2), 3)
    x = known_.sample(key_x, 20_000)
    z = x + random.normal(key_noise, x.shape)
    law = SmoothedSequences(jnp.log(LAW), jnp.ones(()), jax.ShapeDtypeStruct(z.shape[1:], z.dtype))
    jumped = jax.nn.one_hot(jnp.argmax(jax.vmap(law.denoise)(z), axis=2), LETTERS)
    positions, _ = run(kernel.resolve(target()), target(), key_run, x[:256], 150)
    assert set(np.unique(positions)) == {0, 1}
    assert (positions.sum(-1) == 1).all()
    truth = jax.vmap(pairs)(jumped).mean(0)
    found = jax.vmap(jax.vmap(pairs))(positions).mean(0)
    # The truth is a mean over draws as well: its error joins that of the chains.
    score = t_scores(found, truth)
    relative = np.sqrt(1 + found.var(0) / 256 / (jax.vmap(pairs)(jumped).var(0) / 20_000 + 1e-12))
    assert (np.abs(score) * relative / np.sqrt(1 + relative**2) < t_limit(NUM_CHECKS, 255)).all()
    assert 0.12 < total_variation(np.asarray(positions)) < 0.14


@pytest.mark.usefixtures("unoptimized")
def test_a_sequence_of_density_zero_is_never_drawn_and_the_walk_is_what_draws_cost():
    table = np.where(np.arange(81).reshape(TABLE.shape) % 2, -np.inf, TABLE)
    some = ppl.from_log_density(log_density, ONE_HOT[0], table)
    draws = ppl.sample(
        WalkJumpGibbs(num_steps=3), some, num_samples=200, num_warmup=0, init=ONE_HOT[0],
        progress=False,
    )  # fmt: skip
    assert draws["x"].dtype == np.int32
    assert (draws["x"] @ np.arange(3) @ 3 ** np.arange(3, -1, -1) % 2 == 0).all()
    assert np.isfinite(draws.stats["lp"]).all()
    assert draws.num_evaluations == (4 * 200 * 3 + 8, 4 * 200 * 3)


def test_what_it_cannot_list_or_walk_is_refused():
    tokens = ppl.from_log_density(lambda t: -1.0 * t.sum(), jnp.zeros(4, jnp.int32))
    reals = ppl.from_log_density(lambda x: -1.0 * x.sum(), jnp.zeros((4, 3)))
    long = ppl.from_log_density(lambda x: -1.0 * x.sum(), jnp.zeros((17, 2), jnp.int32))
    for kernel, of, message in [
        (WalkJumpGibbs(), tokens, r"one-hot sequences.*int32\[4\].*jax.nn.one_hot"),
        (WalkJumpGibbs(), reals, r"integers of shape.*float32\[4, 3\]"),
        (WalkJumpGibbs(), long, r"at most 65536; this target has 2\^17.*WalkJump"),
        (WalkJumpGibbs(walk=samplers.MYULA(0.1)), target(), "MYULA needs 'proximal_map'"),
    ]:
        with pytest.raises(ppl.TargetError, match=message):
            ppl.sample(kernel, of, progress=False)
    with pytest.raises(ValueError, match="walk must be a Markov kernel"):
        WalkJumpGibbs(walk="MALA")
    with pytest.raises(ValueError, match="sigma must be a positive number; got 0"):
        WalkJumpGibbs(sigma=0)


@pytest.mark.usefixtures("unoptimized")
@pytest.mark.parametrize("double", [False, True], ids=["float32", "float64"])
def test_a_step_keeps_its_state_in_both_precisions(double):
    """Traced only."""
    with jax.enable_x64(double):
        kernel, key = WalkJumpGibbs().resolve(target()), random.key(0)
        state = jax.eval_shape(lambda key: kernel.init(key, target(), jnp.asarray(ONE_HOT[0])), key)
        after, _ = jax.eval_shape(lambda key, s: kernel.step(key, target(), s), key, state)
        assert after == state
        assert state.walk.position.dtype == (jnp.float64 if double else jnp.float32)
