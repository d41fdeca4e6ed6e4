"""Keys of steps: one by one and many at a time, the same."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import random

from ppl import keys


@pytest.mark.parametrize("num_chains", [None, 3])
def test_a_table_holds_the_keys_of_the_steps(num_chains):
    """Also where its room is no whole number of blocks."""
    own = random.key(5)
    own = own if num_chains is None else keys.chain_keys(own, num_chains)
    start, count, capacity = 7, 290, 300
    table = jax.jit(keys.step_key_table, static_argnums=3)(own, start, count, capacity)
    rows = [keys.key_row(table, jnp.int32(i)) for i in (0, 1, 255, 256, count - 1)]
    steps = [keys.step_keys(own, jnp.int32(start + i)) for i in (0, 1, 255, 256, count - 1)]
    for row, step in zip(rows, steps, strict=True):
        np.testing.assert_array_equal(random.key_data(row), random.key_data(step))
    one = own if num_chains is None else own[2]
    expected = random.fold_in(one, start + 256)
    assert (steps[3] if num_chains is None else steps[3][2]) == expected
