"""Gradients of minibatches are unbiased, with the variance that is said; passes are counted."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import random

import conjugate
from agreement import t_scores, z_limit
from chains import NUM_CHECKS
from ppl.energy import TargetError
from samplers.langevin import minibatch

pytestmark = pytest.mark.usefixtures("unoptimized")

N = conjugate.NUM_DATA
POSITION = {"mu": jnp.asarray(0.3)}


def whole_gradient():
    return float(jax.grad(conjugate.target().log_density)(POSITION)["mu"])


def estimates(batch_size, n=4000):
    keys = random.split(random.key(0), n)
    one = lambda key: minibatch.estimated_gradient(key, conjugate.target(), POSITION, batch_size)
    return np.asarray(jax.jit(jax.vmap(one))(keys)["mu"], np.float64)


@pytest.mark.parametrize("batch_size", [1, 5])
def test_the_gradient_is_unbiased_with_the_known_variance(batch_size):
    found, truth = estimates(batch_size), whole_gradient()
    known = conjugate.gradient_variance(batch_size)
    values = np.stack([found, (found - truth) ** 2], axis=1)
    assert (np.abs(t_scores(values, [truth, known])) < z_limit(NUM_CHECKS)).all()
    # Rows that were not scaled up to the data would be far off.
    assert abs(t_scores(found * batch_size / N, truth)) > z_limit(NUM_CHECKS)


def test_all_rows_are_the_data_once_each_and_leave_no_noise():
    found = estimates(N, n=3)
    np.testing.assert_allclose(found, whole_gradient(), rtol=1e-5)
    assert np.ptp(found) == 0


@pytest.mark.parametrize("batch_size", [7, N, 20])
def test_passes_are_whole_data_sets_and_no_row_is_lost(batch_size):
    rows, passes = jnp.int32(0), 0
    for _ in range(33):
        rows, spent = minibatch.count_passes(rows, batch_size, conjugate.target())
        assert spent.dtype == jnp.int32
        assert spent[0] == spent[1]
        passes += int(spent[0])
    assert passes * N + int(rows) == 33 * batch_size
    assert 0 <= rows < N


def test_a_batch_is_at_most_the_data():
    minibatch.check_batch("SGLD", N, conjugate.target())
    with pytest.raises(TargetError, match=rf"SGLD\(batch_size={N + 1}\): .* {N} rows only; write"):
        minibatch.check_batch("SGLD", N + 1, conjugate.target())
