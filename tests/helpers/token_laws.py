"""Laws of short sequences that are known exactly, and draws that are to agree with them."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats

from models.targets.token_table import TokenTable


@functools.cache
def table(length=4, num_tokens=3, seed=0):
    """A law whose tokens depend on each other, all sequences possible."""
    shape = (num_tokens,) * length
    return TokenTable(1.5 * np.random.default_rng(seed).normal(size=shape))


def probabilities(table):
    """Of all sequences, in float64, the last token running fastest."""
    log_p = np.asarray(table.log_table, np.float64).ravel()
    return np.exp(log_p - np.logaddexp.reduce(log_p))


def counts(tokens, num_tokens):
    """How often each sequence was drawn."""
    tokens = np.asarray(tokens)
    numbers = np.ravel_multi_index(tuple(tokens.T), (num_tokens,) * tokens.shape[1])
    return np.bincount(numbers, minlength=num_tokens ** tokens.shape[1])


def p_value(tokens, law, num_tokens=3):
    """That draws are from a law, by chi-square; sequences expected less than 5 times are pooled."""
    observed, expected = counts(tokens, num_tokens), law * len(tokens)
    rare = expected < 5
    if rare.any():
        observed = np.append(observed[~rare], observed[rare].sum())
        expected = np.append(expected[~rare], expected[rare].sum())
    return scipy.stats.chisquare(observed, expected).pvalue


def one_by_one(unmask_one, length, num_tokens, orders=None):
    """The law of tokens drawn one by one in random order, by adding up all ways to draw them."""
    orders = list(itertools.permutations(range(length))) if orders is None else orders
    unmask = jax.jit(jax.vmap(lambda tokens: unmask_one(tokens)))
    sequences = np.stack(
        np.unravel_index(np.arange(num_tokens**length), (num_tokens,) * length), axis=1
    )
    law = np.zeros(len(sequences))
    for order in orders:
        log_p = np.zeros(len(sequences))
        for k, place in enumerate(order):
            seen = np.full_like(sequences, num_tokens)
            seen[:, order[:k]] = sequences[:, order[:k]]
            rows = np.asarray(unmask(jnp.asarray(seen, jnp.int32)), np.float64)[:, place]
            log_p += rows[np.arange(len(rows)), sequences[:, place]]
        law += np.exp(log_p) / len(orders)
    return law / law.sum()  # one, up to rounding
