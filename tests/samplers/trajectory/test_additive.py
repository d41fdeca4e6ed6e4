"""The additive network: zero at first, a function of each coordinate by itself, and no less."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import random

from samplers.trajectory.additive import AdditiveMLP

pytestmark = pytest.mark.usefixtures("unoptimized")


@pytest.fixture(scope="module")
def network():
    return AdditiveMLP(random.key(0), (3,), width=8, depth=1, num_bumps=7, num_waves=2)


def test_it_is_zero_at_first_and_then_the_sum_of_its_formula(network):
    x, t = jnp.array([-1.3, 0.2, 2.5]), jnp.asarray(0.3)
    np.testing.assert_array_equal(network(x, t), np.zeros(3))
    c = np.asarray(random.normal(random.key(1), network.weights.shape))
    moved = eqx.tree_at(lambda n: n.weights, network, jnp.asarray(c))
    angle = 0.5 * np.pi * 0.3 * np.array([1, 2])
    waves = np.concatenate([[1.0], np.sin(angle), np.cos(angle)])
    bumps = np.exp(-0.5 * (np.asarray(x)[:, None] - np.arange(-3.0, 4.0)) ** 2)
    wanted = np.einsum("ikw,w,ik->i", c, waves, bumps)
    np.testing.assert_allclose(moved(x, t), wanted, rtol=1e-4)
    # What couples coordinates is left to the perceptron, which is zero here.
    jacobian = np.asarray(jax.jacfwd(moved)(x, t))
    assert (np.abs(np.diag(jacobian)) > 1e-3).all()
    np.testing.assert_array_equal(jacobian - np.diag(np.diag(jacobian)), np.zeros((3, 3)))


def test_bad_sizes_are_refused():
    with pytest.raises(ValueError, match="num_bumps must be an integer, at least 2; got 1"):
        AdditiveMLP(random.key(0), (3,), num_bumps=1)
    with pytest.raises(ValueError, match="is a network on vectors; got a point of shape"):
        AdditiveMLP(random.key(0), (3, 2))
