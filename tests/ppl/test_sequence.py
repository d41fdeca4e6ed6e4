"""Sequence models: normalized by enumeration, drawn as they say, refused where they are none."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import random

import ppl
from agreement import z_limit

pytestmark = pytest.mark.usefixtures("unoptimized")

LENGTH, END = 4, 2


def markov(params, tokens):
    """Logits of a Markov chain: row t looks at token t - 1."""
    before = jnp.concatenate([jnp.zeros(1, jnp.int32), tokens[:-1]])
    return params[before]


TABLE = np.log([[0.2, 0.5, 0.3], [0.6, 0.1, 0.3], [0.1, 0.1, 0.8]])
MODEL = ppl.SequenceModel(markov, TABLE, LENGTH, END)


def everything():
    """All sequences that end, padded."""
    found = []
    for n in range(LENGTH):
        for tokens in itertools.product(range(END), repeat=n):
            found.append([*tokens, *[END] * (LENGTH - n)])
    return jnp.asarray(found, jnp.int32)


def test_probabilities_of_all_sequences_add_up_to_one():
    log_p = jax.vmap(MODEL.log_density)(everything())
    np.testing.assert_allclose(np.exp(log_p).sum(), 1, rtol=1e-5)
    assert float(MODEL.log_normalizer) == 0


def test_the_log_probability_is_that_of_the_tokens_up_to_the_end():
    tokens = jnp.array([1, 0, END, END])
    log_p = [TABLE[0, 1], TABLE[1, 0], TABLE[0, END], 0]
    np.testing.assert_allclose(MODEL.log_probs(tokens), log_p, rtol=1e-5)
    assert int(MODEL.size(tokens)) == 3
    # At the last place the end is certain.
    np.testing.assert_allclose(MODEL.log_probs(jnp.array([1, 0, 1, END]))[3], 0)
    assert float(MODEL.log_density(jnp.array([1, END, 0, END]))) == -np.inf
    assert float(MODEL.log_density(jnp.array([1, 0, 0, 1]))) == -np.inf


def test_draws_have_the_probabilities_of_the_model():
    n = 20_000
    draws = np.asarray(MODEL.sample(random.key(0), n))
    states = np.asarray(everything())
    p = np.exp(jax.vmap(MODEL.log_density)(everything()))
    found = (draws[:, None] == states).all(2)
    assert found.any(1).all()
    scores = (found.mean(0) - p) / np.sqrt(p * (1 - p) / n)
    assert np.abs(scores).max() < z_limit(200)


def test_a_suffix_is_new_and_what_comes_before_stays():
    tokens = jnp.array([1, 1, 0, END])
    new = jax.vmap(lambda key: MODEL.redraw(key, tokens, jnp.int32(2)))(
        random.split(random.key(0), 50)
    )
    assert (new[:, :2] == tokens[:2]).all()
    assert len(np.unique(new, axis=0)) > 2


def test_without_an_end_token_all_places_are_used():
    model = ppl.SequenceModel(markov, TABLE, LENGTH)
    total = sum(
        np.exp(model.log_density(jnp.asarray(t, jnp.int32)))
        for t in itertools.product(range(3), repeat=2)
        for t in [[*t, 0, 1]]
    )
    expected = np.exp(TABLE[0]) @ np.exp(TABLE) @ (np.exp(TABLE[:, 0]) * np.exp(TABLE[0, 1]))
    np.testing.assert_allclose(total, expected, rtol=1e-5)
    assert int(model.size(jnp.zeros(LENGTH, jnp.int32))) == LENGTH


def one_row(params, tokens, t):
    return params[jnp.where(t > 0, tokens[t - 1], 0)]


def test_rows_one_at_a_time_are_those_of_all():
    model = ppl.SequenceModel(markov, TABLE, LENGTH, END, row_fn=one_row)
    for tokens in everything():
        rows = jax.vmap(model.log_row, (None, 0))(tokens, jnp.arange(LENGTH))
        np.testing.assert_allclose(rows, MODEL.log_rows(tokens), rtol=1e-6)
        log_p = np.take_along_axis(rows, np.asarray(tokens)[:, None], 1).sum()
        np.testing.assert_allclose(log_p, MODEL.log_density(tokens), rtol=1e-6)
    drawn = [m.sample(random.key(1), 100) for m in (model, MODEL)]
    np.testing.assert_array_equal(*drawn)


def test_a_reward_on_a_model_is_a_target():
    target = ppl.tilt(MODEL, lambda y: 0.1 * jnp.sum(y == 1), strength=2.0)
    assert "gradient" not in target.offers
    tokens = jnp.array([1, 1, END, END])
    np.testing.assert_allclose(target.log_density(tokens), MODEL.log_density(tokens) + 0.4)


def test_independent_draws_of_a_model():
    import samplers

    draws = ppl.sample(samplers.ExactDraws(), MODEL, num_samples=50, progress=False)
    assert draws["x"].shape == (1, 50, LENGTH)


BAD = np.where(np.arange(3) == 1, np.nan, 0.0) * np.ones((3, 1))


@pytest.mark.parametrize(
    ("fn", "params", "options", "message"),
    [
        (lambda p, y: p, jnp.zeros(3), {}, r"shape \(length, num_tokens\) = \(4, ...\).*\(3,\)"),
        (markov, BAD, {}, "do not normalize: at place 0.*never NaN"),
        (markov, np.full((3, 3), -np.inf), {}, "do not normalize"),
        (lambda p, y: p[y], TABLE, {}, "looks ahead"),
        (markov, TABLE, {"row_fn": lambda p, y, t: p[y[t]]}, "row_fn must return the row of"),
        (markov, TABLE, {"end_token": 3}, "end_token must be one of the 3 tokens"),
        (markov, TABLE, {"length": 0}, "length must be an integer, at least 1"),
    ],
)
def test_what_is_no_sequence_model_is_refused(fn, params, options, message):
    with pytest.raises(ppl.TargetError, match=message):
        ppl.SequenceModel(fn, params, **({"length": LENGTH} | options))
