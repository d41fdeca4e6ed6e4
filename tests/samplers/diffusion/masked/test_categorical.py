"""Tokens are drawn as often as they should be, where the usual draw in float32 is too cold."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from jax import random

from agreement import z_limit
from samplers.diffusion.masked.categorical import draw_tokens, two_words

LIMIT = z_limit(100)
FLOAT32 = 2.0**-23  # of which the usual draw's uniform numbers are multiples


def on_a_grid(p, h):
    """Probability of a rare token in the usual draw: the module's formula."""
    return h / np.expm1(h / p)


def zipf():
    p = np.arange(1, 50_258) ** -1.5
    return p / p.sum()


def draws(p, n, seed=0):
    log_p = jnp.log(jnp.asarray(p, jnp.float32))
    keys = random.split(random.key(seed), n)
    return np.asarray(jax.jit(jax.vmap(lambda key: draw_tokens(key, log_p)))(keys))


def test_draws_have_the_law_for_any_number_of_tokens():
    assert (draws([1.0], 10) == 0).all()
    for size in (3, 8):
        p = np.random.default_rng(size).dirichlet(np.ones(size))
        observed = np.bincount(draws(p, 20_000), minlength=size)
        assert scipy.stats.chisquare(observed, 20_000 * p).pvalue > 1e-5


def test_rows_are_independent_and_what_cannot_be_is_not_drawn():
    log_p = jnp.log(jnp.array([[0.0, 1.0, 0.0], [0.0, 0.5, 0.5]]))
    many = jax.jit(jax.vmap(draw_tokens, (0, None)))
    tokens = np.asarray(many(random.split(random.key(0), 4000), log_p))
    assert (tokens[:, 0] == 1).all()
    assert set(tokens[:, 1]) == {1, 2}
    assert abs(tokens[:, 1].mean() - 1.5) < LIMIT * 0.5 / np.sqrt(4000)
    pair = jnp.log(jnp.full((2, 2), 0.5))
    two = np.asarray(many(random.split(random.key(1), 4000), pair))
    assert abs((two[:, 0] == two[:, 1]).mean() - 0.5) < LIMIT * 0.5 / np.sqrt(4000)


def test_a_uniform_number_is_precise_near_zero():
    u = np.asarray(two_words(random.key(0), (1_000_000,), jnp.float32), np.float64)
    assert abs(u.mean() - 0.5) < LIMIT * np.sqrt(1 / 12 / len(u))
    small = u[u < 2.0**-10]
    assert (small * 2**32 % 1 != 0).any()  # finer than a word


def test_rare_tokens_are_as_frequent_as_they_should_be_where_float32_gumbels_are_too_cold():
    p = zipf()
    n, rare = 100_000, p < 1e-7
    true, cold = n * p[rare].sum(), n * on_a_grid(p[rare], FLOAT32).sum()
    assert abs(rare[draws(p, n)].sum() - true) < LIMIT * np.sqrt(true)
    assert (true - cold) / np.sqrt(true) > LIMIT


def test_the_law_of_gumbels_on_a_grid_is_the_formula():
    h, rare = 2.0**-9, 2.0**-10
    p = np.append(np.full(32, rare), 1 - 32 * rare)
    u = np.random.default_rng(0).integers(1, 2**9, size=(100_000, 33)) * h
    found = np.sum(np.argmax(np.log(p) - np.log(-np.log(u)), axis=1) < 32)
    cold = 100_000 * 32 * on_a_grid(rare, h)
    assert abs(found - cold) < LIMIT * np.sqrt(cold) + 0.05 * cold  # of first order in 32 rare
    assert found < 0.5 * 100_000 * 32 * rare


@pytest.mark.slow  # 85 seconds: 9e8 random numbers
def test_the_usual_draw_in_float32_misses_rare_tokens():
    size, rare = 2**16, 6e-8
    p = np.append(np.full(size, rare), 1 - size * rare)
    log_p = jnp.log(jnp.asarray(p, jnp.float32))

    @jax.jit
    def usual(key):
        return jnp.sum(random.categorical(key, log_p, shape=(1024,), mode="low") < size)

    n = 14 * 1024
    found = sum(int(usual(random.key(i))) for i in range(14))
    true, cold = n * size * rare, n * size * on_a_grid(rare, FLOAT32)
    print(found, cold, true)
    assert abs(found - cold) < LIMIT * np.sqrt(cold)
    assert (true - found) / np.sqrt(true) > 4
    assert abs((draws(p, n) < size).sum() - true) < LIMIT * np.sqrt(true)
