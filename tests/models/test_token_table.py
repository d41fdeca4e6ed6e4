"""The table of all sequences answers as sums over it do."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import random

from models.targets.token_table import TokenTable
from token_laws import p_value, probabilities, table

pytestmark = pytest.mark.usefixtures("unoptimized")


def test_its_conditional_laws_are_sums_over_the_table():
    law = table()
    p = probabilities(law).reshape(law.log_table.shape)
    rows = np.exp(jax.jit(lambda x: law.unmask(x))(jnp.array([3, 1, 3, 3])))
    given = p[:, 1] / p[:, 1].sum()
    np.testing.assert_allclose(rows[0], given.sum((1, 2)), rtol=1e-5)
    np.testing.assert_allclose(rows[3], given.sum((0, 1)), rtol=1e-5)
    np.testing.assert_allclose(rows[1], [0, 1, 0], atol=1e-6)


def test_its_draws_and_its_tilt_are_those_of_the_table():
    law = table()
    assert (
        p_value(jax.jit(lambda key: law.sample(key, 20_000))(random.key(0)), probabilities(law))
        > 1e-4
    )
    reward = lambda tokens: jnp.sum(tokens == 2) * 0.5
    values = np.asarray(jax.jit(jax.vmap(reward))(jnp.asarray(law.sequences)))
    p = probabilities(law) * np.exp(values)
    tilted = law.tilted(reward)
    np.testing.assert_allclose(probabilities(tilted), p / p.sum(), rtol=1e-5)
    assert float(tilted.log_normalizer - law.log_normalizer) == pytest.approx(np.log(p.sum()))
    best = law.modes[0]
    assert float(law.log_density(best)) == float(law.log_table.max())


@pytest.mark.parametrize("shape", [(), (2, 3), (1, 1)])
def test_a_table_of_another_shape_is_refused(shape):
    with pytest.raises(ValueError, match="an axis for each place, all of one size of at least 2"):
        TokenTable(np.zeros(shape))
