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
FLOAT32_CAP = -np.log(-np.log1p(-(2.0**-23)))  # of -log(-log u), u a multiple of 2^-23


def capped_law(p, cap):
    """The law of the largest of log p + g, with g no greater than the cap: the module's formula."""
    order = np.argsort(p, kind="stable")
    q, i, e = p[order], np.arange(len(p)), np.exp(-cap)
    tail = np.cumsum(q[::-1])[::-1]
    first = np.exp(-(tail / q - (len(p) - i)) * e)
    second = np.append(0, np.exp(-(tail[1:] / q[:-1] - (len(p) - i[1:])) * e))
    law = np.empty(len(p))
    law[order] = q * np.cumsum((first - second) / tail)
    return law


def zipf():
    p = np.arange(1, 50_258) ** -1.5
    return p / p.sum()


def draws(p, n, seed=0):
    log_p = jnp.log(jnp.asarray(p, jnp.float32))
    keys = random.split(random.key(seed), n)
    return np.asarray(jax.jit(jax.vmap(lambda key: draw_tokens(key, log_p)))(keys))


def test_draws_have_the_law_for_any_number_of_tokens():
    assert (draws([1.0], 10) == 0).all()
    for size in (2, 3, 7, 8):
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
    surprise = -np.log(p)
    entropy = p @ surprise
    n = 200_000
    error = np.sqrt((p @ surprise**2 - entropy**2) / n)
    assert abs(surprise[draws(p, n)].mean() - entropy) < LIMIT * error
    # The usual draw has this law: of a lower temperature, and seen with as many draws.
    cold = capped_law(p, FLOAT32_CAP)
    assert cold.sum() == pytest.approx(1)
    assert (entropy - cold @ surprise) / error > LIMIT


def test_the_law_of_capped_gumbels_is_the_formula():
    p = np.array([0.6, 0.25, 0.1, 0.04, 0.01])
    rng = np.random.default_rng(0)
    gumbels = -np.log(-np.log(rng.uniform(0, np.exp(-np.exp(-2.0)), size=(200_000, 5))))
    observed = np.bincount(np.argmax(np.log(p) + gumbels, 1), minlength=5)
    law = capped_law(p, 2.0)
    # The formula lets u end at the cap; here it was drawn below, which is the same law.
    assert np.all(np.abs(observed - 200_000 * law) < LIMIT * np.sqrt(200_000 * law + 1))


@pytest.mark.slow  # 60 to 120 seconds: 9e8 random numbers
def test_the_usual_draw_in_float32_misses_half_of_the_rare_tokens():
    size, rare = 2**16, 1.2e-7
    p = np.append(np.full(size, rare), 1 - size * rare)
    log_p = jnp.log(jnp.asarray(p, jnp.float32))

    @jax.jit
    def usual(key):
        return jnp.sum(random.categorical(key, log_p, shape=(1024,), mode="low") < size)

    n = 14 * 1024
    found = sum(int(usual(random.key(i))) for i in range(14))
    true, cold = n * size * rare, n * capped_law(p, FLOAT32_CAP)[:-1].sum()
    assert abs(found - cold) < LIMIT * np.sqrt(cold)
    assert (true - found) / np.sqrt(true) > LIMIT
    assert abs((draws(p, n) < size).sum() - true) < LIMIT * np.sqrt(true)
