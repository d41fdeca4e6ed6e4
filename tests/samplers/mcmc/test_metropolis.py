"""The Metropolis test accepts as often as it says, and never what is no density."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import random

from agreement import z_limit
from samplers.mcmc.metropolis import accept, all_finite, illegal


def test_proposals_are_accepted_as_often_as_the_rate_says():
    ratio, n = jnp.log(0.3), 20_000
    keys = random.split(random.key(0), n)
    chosen, rate, accepted = jax.vmap(lambda k: accept(k, ratio, jnp.ones(()), jnp.zeros(())))(keys)
    assert np.allclose(rate, 0.3)
    np.testing.assert_array_equal(chosen, accepted)
    assert abs(accepted.mean() - 0.3) < z_limit(200) * np.sqrt(0.3 * 0.7 / n)


@pytest.mark.parametrize(
    ("log_ratio", "rate"), [(jnp.nan, 0.0), (-jnp.inf, 0.0), (jnp.inf, 1.0), (0.0, 1.0)]
)
def test_ratios_at_the_edge_are_certain(log_ratio, rate):
    keys = random.split(random.key(0), 500)
    _, rates, accepted = jax.vmap(lambda k: accept(k, jnp.asarray(log_ratio), 1, 0))(keys)
    assert (rates == rate).all()
    assert (accepted == bool(rate)).all()


@pytest.mark.parametrize(
    ("log_density", "slope", "is_illegal"),
    [
        (0.0, 1.0, False),
        (-jnp.inf, 1.0, False),
        (-jnp.inf, jnp.nan, False),
        (jnp.nan, 1.0, True),
        (jnp.inf, 1.0, True),
        (0.0, jnp.nan, True),
        (0.0, jnp.inf, True),
    ],
)
def test_only_densities_with_a_gradient_are_legal(log_density, slope, is_illegal):
    gradient = {"a": jnp.zeros(2), "b": jnp.asarray(slope)}
    assert bool(illegal(jnp.asarray(log_density), gradient)) == is_illegal


def test_an_empty_tree_is_finite():
    assert bool(all_finite(()))
