"""The network of twists: each row sees the tokens before it and no others."""

import jax.numpy as jnp
import numpy as np
import pytest
from jax import random

from samplers.smc.twist_network import prefix_network, prefix_row, prefix_rows


@pytest.mark.usefixtures("unoptimized")
def test_rows_of_the_network_look_back_only():
    params = prefix_network(random.key(0), 5, 4)
    params = params._replace(out=jnp.ones_like(params.out))
    one, other = jnp.array([1, 2, 3, 0, 1]), jnp.array([1, 2, 0, 3, 3])
    rows = prefix_rows(params, one)
    np.testing.assert_allclose(rows[:3], prefix_rows(params, other)[:3], rtol=1e-6)
    assert (np.abs(rows[3:] - prefix_rows(params, other)[3:]) > 1e-4).all()
    np.testing.assert_allclose(rows[3], prefix_row(params, one, jnp.int32(3)), rtol=1e-6)
