"""DGFS: its flow begins as the interpolation from the reference to the reward."""

from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import random

import ppl
from models.targets.gaussian_mixture import GaussianMixture
from samplers.networks import MLP
from samplers.trajectory.dgfs import DGFS
from samplers.trajectory.kernels import Reward, flattened, forward_paths
from samplers.trajectory.objectives import SubTrajectoryBalance
from samplers.trajectory.pis import geometric_shares

pytestmark = pytest.mark.usefixtures("unoptimized")
SOFT = GaussianMixture([[1.5, 1.5], [-1.5, -1.5]])
SMALL = DGFS(num_steps=4, num_updates=2, num_paths=8, network=partial(MLP, width=8, depth=1))


def test_the_flow_looks_ahead_from_the_reference_to_the_reward():
    @eqx.filter_jit
    def made(key):
        state = SMALL.init(key, SOFT)
        kernels = SMALL.kernels(
            Reward(flattened(SOFT), jnp.asarray(100.0)), state.parameters.kernels
        )
        paths, scores = forward_paths(key, kernels, 5)
        flow = jnp.zeros_like(scores.log_flow)  # of a network that begins at zero
        return paths, SMALL._with_flow(kernels, scores, paths, flow, jnp.asarray(0.7))

    paths, scores = made(random.key(0))
    log_reward = np.asarray(jax.vmap(jax.vmap(SOFT.log_density))(paths.states))
    shares = geometric_shares(4, SMALL.ratio, jnp.float32)
    for n in range(1, 5):
        t, sd = n / 4, 2 * np.sqrt(float(shares[n]))
        x = np.asarray(paths.states[n])
        reference = -0.5 * (x**2).sum(1) / sd**2 - 2 * np.log(sd) - np.log(2 * np.pi)
        expected = (1 - t) * (0.7 + reference) + t * log_reward[n]
        np.testing.assert_allclose(scores.log_flow[n], expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(scores.log_flow[0], 0.7, rtol=1e-5)


@pytest.mark.slow
def test_it_trains_by_subtrajectories_through_the_driver():
    assert isinstance(SMALL.objective, SubTrajectoryBalance)
    assert float(SMALL.objective.lam) == 2.0
    draws = ppl.sample(SMALL, SOFT, num_samples=64, progress=False)
    assert np.isfinite(draws.history["loss"]).all()
    assert not draws.history["diverging"].any()


def test_without_the_target_along_the_way_it_is_refused():
    with pytest.raises(ValueError, match="it has no guided=False"):
        ppl.sample(DGFS(guided=False), SOFT, progress=False)
