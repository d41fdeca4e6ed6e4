"""Policies of networks begin even, and see of a state what they are made to see."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import random

import samplers
from models.environments.sets import Sets
from samplers.gflownet.policies import masked

pytestmark = pytest.mark.usefixtures("unoptimized")
ENVIRONMENT = Sets(jnp.arange(4.0), 2)
STATE = jnp.array([True, False, False, False])
POLICIES = {
    "transformer": samplers.TransformerPolicy(8, 1, 2),
    "sum over parts": samplers.DeepSetsPolicy(8),
}


@pytest.mark.parametrize("name", POLICIES)
def test_a_network_begins_with_all_legal_moves_alike(name):
    policy = POLICIES[name].start(random.key(0), ENVIRONMENT)
    said = eqx.filter_jit(policy)(ENVIRONMENT, STATE)
    p = np.exp(masked(said.forward, ENVIRONMENT.forward_mask(STATE)))
    np.testing.assert_allclose(p, [0, 1 / 3, 1 / 3, 1 / 3, 0], atol=1e-6)
    assert said.log_flow == 0


@pytest.mark.parametrize("name", ["transformer", "sum over parts"])
def test_only_a_sum_over_parts_forgets_their_order(name):
    policy, rng = POLICIES[name].start(random.key(0), ENVIRONMENT), np.random.default_rng(0)
    shifted = lambda x: x + 0.3 * rng.normal(size=x.shape).astype(x.dtype)
    policy = jax.tree.map(lambda x: shifted(x) if eqx.is_array(x) else x, policy)
    rows = rng.normal(size=(4, 5)).astype(np.float32)
    of_all = eqx.filter_jit(lambda network, rows: jax.vmap(network)(rows))
    three = of_all(policy.network, np.stack([rows, rows[::-1], 2 * rows]))
    forgets = np.abs(three[0] - three[1]).max() < 1e-4
    assert forgets == (name == "sum over parts")
    assert np.abs(three[0] - three[2]).max() > 1e-2
