"""Suffix proposals over all binary sequences up to length 4: the transition matrix is known."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import random

import ppl
from chains import Known, agrees, run, scores
from samplers.mcmc import sequence_metropolis
from samplers.mcmc.random_walk import RandomWalk
from samplers.mcmc.sequence_metropolis import SequenceMetropolis, log_proposal_ratio

pytestmark = pytest.mark.usefixtures("unoptimized")

LENGTH, END = 5, 2  # up to four tokens, then the end


def steady(params, tokens):
    """Stop with probability 0.3; else 1 with probability 0.4, 0 with 0.6: whatever came before."""
    return jnp.broadcast_to(params, (LENGTH, 3))


def ones(tokens):
    return 1.0 * jnp.sum(tokens == 1)


def model():
    return ppl.SequenceModel(steady, np.log([0.42, 0.28, 0.3]), LENGTH, END)


def states():
    sequences = [t for n in range(LENGTH) for t in itertools.product((0, 1), repeat=n)]
    return jnp.asarray([[*t, *[END] * (LENGTH - len(t))] for t in sequences], jnp.int32)


def alone():
    """The law exp(reward), without the model in it."""
    return ppl.from_log_density(ones, jnp.zeros(LENGTH, jnp.int32))


TARGETS = {"reward alone": alone, "reward times model": lambda: ppl.tilt(model(), ones)}


def mean_ratio(log_probs, new_log_probs, size, new_size, first):
    """The ratio of the public release: means over the suffixes in place of sums."""

    def mean(log_p, size):
        place = jnp.arange(log_p.size)
        return jnp.sum(jnp.where(place >= first, log_p, 0.0)) / (size - first)

    return jnp.log(size / new_size) + mean(log_probs, size) - mean(new_log_probs, new_size)


def transition_matrix(log_density, ratio):
    """Of the kernel, with its own ratio; and the target's probabilities."""
    law, y = model(), states()
    log_probs, sizes = jax.vmap(law.log_probs)(y), np.asarray(jax.vmap(law.size)(y))
    levels = np.asarray(jax.vmap(log_density)(y))
    y, n = np.asarray(y), len(y)
    matrix = np.zeros((n, n))
    for first in range(LENGTH):
        pairs = jax.vmap(jax.vmap(ratio, (None, 0, None, 0, None)), (0, None, 0, None, None))
        log_ratio = pairs(log_probs, log_probs, sizes, sizes, jnp.int32(first))
        rates = np.exp(np.minimum(0, levels[None] - levels[:, None] + np.asarray(log_ratio)))
        reachable = (y[:, None, :first] == y[None, :, :first]).all(2)
        reachable &= (sizes > first)[:, None] & (sizes > first)[None]
        drawn = np.exp(np.asarray(log_probs)[:, first:].sum(1))
        matrix += np.where(reachable, drawn[None] * rates, 0) / sizes[:, None]
    matrix += np.diag(1 - matrix.sum(1))
    p = np.exp(levels - levels.max())
    return matrix, p / p.sum()


def stationary(matrix):
    values, vectors = np.linalg.eig(matrix.T)
    p = vectors[:, np.argmax(values.real)].real
    return p / p.sum()


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", TARGETS)
def test_the_transition_matrix_leaves_the_target_invariant(name):
    matrix, p = transition_matrix(TARGETS[name]().log_density, log_proposal_ratio)
    assert np.abs(p @ matrix - p).max() < 1e-12
    # In detail, even.
    np.testing.assert_allclose(p[:, None] * matrix, (p[:, None] * matrix).T, atol=1e-15)


@pytest.mark.usefixtures("x64")
def test_means_in_place_of_sums_lead_to_another_law():
    """Total variation 0.308 from exp(reward), and 0.098 from the model times it."""
    matrix, p = transition_matrix(alone().log_density, mean_ratio)
    reached = stationary(matrix)
    _, with_model = transition_matrix(TARGETS["reward times model"]().log_density, mean_ratio)
    assert np.abs(reached - p).sum() / 2 == pytest.approx(0.308, abs=5e-4)
    assert np.abs(reached - with_model).sum() / 2 == pytest.approx(0.098, abs=5e-4)


def known(name):
    target, y = TARGETS[name](), states()
    p = np.exp(np.asarray(jax.vmap(target.log_density)(y), np.float64))
    p /= p.sum()

    def sample(key, n):
        return y[random.choice(key, len(y), (n,), p=jnp.asarray(p))]

    return Known(target, sample, lambda x: jnp.all(x == y, axis=1).astype(float), p)


@pytest.mark.parametrize("name", TARGETS)
def test_every_sequence_is_visited_as_often_as_it_should(name):
    assert agrees(scores(SequenceMetropolis(model()), known(name)))


def test_a_chain_with_means_is_caught(monkeypatch):
    monkeypatch.setattr(sequence_metropolis, "log_proposal_ratio", mean_ratio)
    found = scores(SequenceMetropolis(model()), known("reward alone"), variant="means")
    assert not agrees(found)


@pytest.mark.slow
def test_chains_from_the_model_reach_the_target():
    truth = known("reward times model")
    draws = ppl.sample(
        SequenceMetropolis(), truth.target, num_chains=128, num_samples=3000, num_warmup=100,
        progress=False,
    )  # fmt: skip
    frequencies = (draws["x"][:, :, None] == np.asarray(states())).all(3).mean((0, 1))
    assert np.abs(frequencies - truth.truth).sum() / 2 < 0.02
    assert draws.num_evaluations[1] == 0
    assert 0 < draws.stats["acceptance_rate"].mean() < 1


def test_what_follows_the_end_of_a_start_is_cut_off():
    kernel = SequenceMetropolis().resolve(model())
    positions, _ = run(kernel, model(), random.key(0), jnp.array([[1, END, 0, 1, 1]]), 20)
    after = np.cumsum(np.asarray(positions) == END, axis=-1)[..., :-1] > 0
    assert (np.asarray(positions)[..., 1:][after] == END).all()


def test_targets_that_are_no_sequences_of_the_model_are_refused():
    real = ppl.from_log_density(lambda x: -jnp.sum(x**2), jnp.zeros(LENGTH))
    other = ppl.from_log_density(ones, jnp.zeros(3, jnp.int32))
    for kernel, target, message in [
        (SequenceMetropolis(), alone(), r"needs a model that writes suffixes.*LogDensity"),
        (SequenceMetropolis(model()), real, r"int32\[5\].*float32\[5\]"),
        (SequenceMetropolis(model()), other, r"int32\[5\].*int32\[3\]"),
        (RandomWalk(), TARGETS["reward times model"](), "must be floating"),
    ]:
        with pytest.raises(ppl.TargetError, match=message):
            ppl.sample(kernel, target, progress=False)
