"""Random keys: what users pass, what the driver uses."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax, random
from jaxtyping import Array, Int, Key, PRNGKeyArray


def as_key(rng_key: Any) -> PRNGKeyArray:
    """Return one typed key from an int, a raw uint32 key or a typed key.

    Raises
    ------
    ValueError
        For a batch of keys, a negative int, or anything else.
    """
    if isinstance(rng_key, int) and not isinstance(rng_key, bool):
        if rng_key < 0:
            raise ValueError(f"rng_key must be a key or an int of at least 0; got {rng_key}")
        return random.key(rng_key)
    if not isinstance(rng_key, jax.Array) and not hasattr(rng_key, "__array__"):
        raise ValueError(
            f"rng_key must be an int or a key such as jax.random.key(0); got {rng_key!r}"
        )
    key = jnp.asarray(rng_key)
    if jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        if key.ndim != 0:
            raise ValueError(
                f"rng_key must be one key; got a batch of shape {key.shape}. Pass one key: every "
                "chain folds in its own number."
            )
        return key
    if key.ndim == 0 and jnp.issubdtype(key.dtype, jnp.integer):
        return random.key(int(key))
    words = random.key_data(random.key(0)).shape
    if key.dtype == jnp.uint32 and key.shape == words:
        return random.wrap_key_data(key)
    raise ValueError(
        f"rng_key must be one key; got an array {key.dtype.name}{list(key.shape)}. Pass an int, "
        "jax.random.key(0), or one raw uint32 key."
    )


Keys = Key[Array, "..."]  # any number of keys: one a chain, one a target and chain


def chain_keys(rng_key: PRNGKeyArray, num_chains: int) -> Keys:
    """One key a chain, ``fold_in(rng_key, chain)``; steps fold in their number on top."""
    return _folded(rng_key, np.arange(num_chains))


_folded = jax.jit(jax.vmap(random.fold_in, (None, 0)))


def step_keys(keys: Keys, t: Int[Array, "..."]) -> Keys:
    """Keys of a step: its number folded into each."""
    fold = random.fold_in
    for _ in range(keys.ndim):
        fold = jax.vmap(fold, (0, None))
    return fold(keys, t)


BLOCK = 256  # steps whose keys are made at a time; a short chunk should not pay for a long one


def step_key_table(keys: Keys, start: Int[Array, ""], count: Int[Array, ""], capacity: int) -> Keys:
    """Keys of ``count`` steps from ``start``: the first rows of a table with room for capacity."""
    size = min(BLOCK, capacity)
    rows = -(-capacity // size) * size  # whole blocks

    def fill(block: Int[Array, ""], table: Array) -> Array:
        ts = start + block * size + jnp.arange(size)
        made = jax.vmap(step_keys, (None, 0))(keys, ts)
        return lax.dynamic_update_slice_in_dim(table, random.key_data(made), block * size, 0)

    words = random.key_data(keys)
    table = jnp.zeros((rows, *words.shape), words.dtype)
    table = lax.fori_loop(0, (count + size - 1) // size, fill, table)
    return random.wrap_key_data(table, impl=random.key_impl(keys))


def key_row(table: Keys, i: Int[Array, ""]) -> Keys:
    """One row of a table of keys (indexing it would be a gather)."""
    words = lax.dynamic_index_in_dim(random.key_data(table), i, keepdims=False)
    return random.wrap_key_data(words, impl=random.key_impl(table))


# Uses of a key apart from the steps of a chain, folded in where steps never reach.
START, WARM_UP, COLLECT, LOOK, EXACT = (2**32 - i for i in (1, 2, 3, 4, 5))


def key_for(rng_key: PRNGKeyArray, use: int) -> PRNGKeyArray:
    """Key of the start, of warm-up, of the final collection or of a look at a run on its way."""
    return random.fold_in(rng_key, jnp.uint32(use))


def after(rng_key: PRNGKeyArray, earlier: Any) -> PRNGKeyArray:
    """Key of a run that goes on from an earlier one, whose key data are ``earlier``.

    With the same key it would go through the same random numbers again.
    """
    for number in np.ravel(np.asarray(earlier, np.uint32)):
        rng_key = random.fold_in(rng_key, number)
    return rng_key
