"""The continuous box."""

import jax.numpy as jnp
import pytest

from models.environments.box import Box
from ppl.environment import check


def hump(x, center):
    return -0.5 * jnp.sum((x - center) ** 2) / 0.3**2


def box():
    return Box(hump, [-1.0, 0.0], [1.0, 3.0], jnp.array([0.2, 2.0]))


def test_it_passes_the_checker(unoptimized):
    assert check(box()) == (3, True)


def test_corners_that_are_none_are_refused():
    with pytest.raises(ValueError, match="low and high are finite vectors of one length"):
        Box(hump, [0.0, 0.0], [1.0])
    with pytest.raises(ValueError, match="each number of low below that of high"):
        Box(hump, [0.0], [0.0])
