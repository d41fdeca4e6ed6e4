"""Positions as points: arrays as they are, trees as vectors, and back."""

import jax.numpy as jnp
import numpy as np

from samplers.diffusion import points


def test_arrays_stay_and_trees_are_raveled():
    image, tree = jnp.arange(6.0).reshape(2, 3), {"a": jnp.array(1.0), "b": jnp.array([2.0, 3.0])}
    assert points.flat(image) is image
    np.testing.assert_array_equal(points.flat(tree), [1, 2, 3])
    assert not points.is_array(tree)
    np.testing.assert_array_equal(points.zeros(tree)["b"], [0, 0])
    back = points.position(tree, points.flat(tree))
    np.testing.assert_array_equal(back["b"], tree["b"])
    assert points.position(image, image) is image
