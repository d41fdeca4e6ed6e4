"""The buffer as a ring, priorities by their frequencies, and a local search that stays in place."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from jax import random

import ppl
from samplers.trajectory import replay
from samplers.trajectory.kernels import flattened
from samplers.trajectory.replay import ByRank, ByReward, LocalSearch, Replay

pytestmark = pytest.mark.usefixtures("unoptimized")
POINT = jax.ShapeDtypeStruct((), jnp.float32)


def filled(values, capacity=8, log_reward=None):
    values = jnp.asarray(values, jnp.float32)
    log_reward = values if log_reward is None else jnp.asarray(log_reward, jnp.float32)
    buffer = replay.empty(POINT, capacity, jnp.float32)
    return replay.insert(buffer, values, log_reward, jnp.ones(values.size, bool))


def test_the_newest_overwrite_the_oldest():
    buffer = filled(range(6))
    buffer = jax.jit(replay.insert)(
        buffer, 10.0 + jnp.arange(5), jnp.arange(5.0), jnp.ones(5, bool)
    )
    np.testing.assert_array_equal(buffer.items, [12, 13, 14, 3, 4, 5, 10, 11])
    assert (int(buffer.place), int(buffer.num_held)) == (3, 8)


def test_only_what_is_kept_goes_in_and_of_too_many_the_last():
    keep = jnp.array([True, False, True, False])
    some = replay.insert(filled([]), jnp.arange(4.0), jnp.arange(4.0), keep)
    np.testing.assert_array_equal(some.items[:3], [0, 2, 0])
    assert int(some.num_held) == 2
    many = replay.insert(filled([]), jnp.arange(20.0), jnp.arange(20.0), jnp.ones(20, bool))
    assert sorted(np.asarray(many.items)) == list(range(12, 20))


@pytest.mark.parametrize(
    ("priority", "share"),
    [
        (replay.uniform, lambda rank, log_reward: 1.0 + 0 * rank),
        (ByRank(k=0.1), lambda rank, log_reward: 1 / (0.1 * rank.size + rank)),
        (ByReward(0.5), lambda rank, log_reward: np.exp(0.5 * log_reward)),
    ],
    ids=["uniform", "by rank", "by reward"],
)
def test_draws_have_the_frequencies_of_their_priority(priority, share):
    """By chi-square; of the places that hold nothing none is drawn."""
    log_reward = np.array([0.3, 2.0, -1.0, 1.0, 0.0, 1.5])
    buffer = filled(np.arange(6), capacity=9, log_reward=log_reward)
    drawn, rewards = replay.draw(random.key(0), buffer, 20_000, priority)
    counts = np.bincount(np.asarray(drawn, int), minlength=9)
    np.testing.assert_array_equal(rewards, log_reward.astype(np.float32)[np.asarray(drawn, int)])
    assert (counts[6:] == 0).all()
    rank = np.argsort(np.argsort(-log_reward)).astype(float)
    expected = share(rank, log_reward)
    expected = 20_000 * expected / expected.sum()
    assert scipy.stats.chisquare(counts[:6], expected).pvalue > 1e-6
    wrong = expected[::-1]
    if priority is not replay.uniform:
        assert scipy.stats.chisquare(counts[:6], wrong).pvalue < 1e-6


def two_widths(x):
    """N(0, 0.01^2) near 0 and N(50, 1) far from it, unnormalized."""
    return jnp.sum(jnp.where(x < 25, -0.5 * (x / 0.01) ** 2, -0.5 * (x - 50) ** 2))


@pytest.mark.parametrize(
    "one_size", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["each", "one size"]
)
def test_a_local_search_from_the_target_finds_the_target(one_size, monkeypatch):
    """MALA leaves both modes where they are; the twin, whose step is one for all, loses one."""
    if one_size:
        monkeypatch.setattr(replay, "adjusted", lambda size, *_: size)
    target = flattened(ppl.from_log_density(two_widths, jnp.zeros(1)))
    search = LocalSearch(num_chains=400, num_steps=40, step_size=1.0)
    starts = random.normal(random.key(1), (400, 1))
    starts = jnp.concatenate([0.01 * starts[:200], 50 + starts[200:]])
    room = replay.empty(target.template, 8000, jnp.float32)
    anew = lambda *args: search.search(*args)  # not a compiled one that a twin has left
    found, step_size = eqx.filter_jit(anew)(random.key(2), target, starts, jnp.asarray(1.0), room)
    held = np.asarray(found.items)[: int(found.num_held), 0]
    np.testing.assert_allclose(
        found.log_reward[: held.size], jax.vmap(two_widths)(held[:, None]), rtol=1e-4, atol=1e-4
    )
    narrow, wide = held[held < 25] / 0.01, held[held > 25] - 50
    assert wide.size > 1500
    if one_size:
        assert narrow.size == 0
        return
    # Neighbors in time depend on each other, chains do not: an error of 200 chains.
    assert narrow.size > 1500
    assert abs(np.mean(narrow**2) - 1) < 0.5
    assert abs(np.mean(wide**2) - 1) < 0.5
    assert 0.003 < step_size < 0.3  # between those of both


def test_bad_fields_are_refused():
    with pytest.raises(ValueError, match="capacity must be an integer, at least 1; got 0"):
        Replay(capacity=0)
    with pytest.raises(ValueError, match="share must be a number between 0 and 1; got 1"):
        Replay(share=1.0)
    with pytest.raises(ValueError, match="num_steps must be an integer, at least 2; got 1"):
        LocalSearch(num_steps=1)
