"""Adjoint sampling: its fixed point on a Gaussian is known, its weights are exact."""

from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import random
from scipy.special import expit

import ppl
from models.targets.gaussian_mixture import GaussianMixture
from samplers.networks import MLP
from samplers.trajectory.adjoint import AdjointSampling
from samplers.trajectory.matching import Ends

pytestmark = pytest.mark.usefixtures("unoptimized")
SOFT = GaussianMixture([[1.5, 1.5], [1.5, -1.5], [-1.5, 1.5], [-1.5, -1.5]])
LOG_Z = float(SOFT.log_normalizer)
SMALL = AdjointSampling(
    num_steps=6, num_updates=30, num_paths=64, every=10, batch=64, capacity=128,
    network=partial(MLP, width=8, depth=1),
)  # fmt: skip


def test_the_optimal_control_of_a_gaussian_has_no_residual_on_average():
    """Target N(0, r^2): the optimal u at x_t is linear, and the regression's mean there is it.

    With v = h(t) / h(1), x_t = v x_1 + noise of variance s^2 v (1 - v), E[x_1 | x_t] = k x_t; the
    label is s (1 / s^2 - 1 / r^2) x_1, and its mean given x_t the control.
    """
    r, s, n = 0.7, 2.0, 3
    target = ppl.from_log_density(lambda x: -0.5 * jnp.vdot(x, x) / r**2, jnp.zeros(1))
    sampler = AdjointSampling(scale=s, num_steps=6)
    state = sampler.init(random.key(0), target)
    bridge = sampler.kernels(target, state.learned)
    v = float(bridge.shares[n])
    x1 = r * random.normal(random.key(1), (40_000, 1))
    noise = random.normal(random.key(2), x1.shape)
    residual = jax.vmap(sampler._residual, (None, None, 0, None, 0))(
        0, bridge, Ends(0 * x1, x1, -x1 / r**2), jnp.int32(n), noise
    )
    xt = v * x1 + s * np.sqrt(v * (1 - v)) * noise
    label = -np.asarray(residual)[:, 0]  # the control begins as zero
    xt = np.asarray(xt)[:, 0]
    k = v * r**2 / (v**2 * r**2 + s**2 * v * (1 - v))
    slope = s * (1 / s**2 - 1 / r**2) * k
    left = (label - slope * xt) * xt
    assert abs(left.mean()) < 4.9 * left.std() / 200
    wrong = (label - 1.1 * slope * xt) * xt
    assert abs(wrong.mean()) > 4.9 * wrong.std() / 200


@pytest.fixture(scope="module")
def draws():
    return ppl.sample(SMALL, SOFT, num_samples=4096, progress=False)


@pytest.mark.slow
def test_training_pays_for_its_simulations_alone(draws):
    assert draws.num_evaluations == (3 * 64 * 2 + 4096, 3 * 64)
    assert np.isfinite(draws.history["loss"]).all()
    assert not draws.history["diverging"].any()


@pytest.mark.slow  # as those of ASBS, which has the same training, do in the gate
def test_weights_obey_the_bounded_identity(draws):
    exact = SOFT.sample(random.key(1), 4096)
    back = eqx.filter_jit(lambda s, x: s.log_weights(random.key(2), SOFT, x))(draws.sampler, exact)
    forward = draws.log_weights.ravel()
    for shift in (0.0, 0.3):
        a, b = expit(forward + shift - LOG_Z), expit(LOG_Z - np.asarray(back) - shift)
        z = (a.mean() - b.mean()) / np.sqrt((a.var() + b.var()) / 4096)
        assert (abs(z) < 4.9) == (shift == 0)


def test_a_buffer_smaller_than_a_simulation_is_refused():
    with pytest.raises(ValueError, match="the buffer holds 10 ends, fewer than the 256 paths"):
        ppl.sample(AdjointSampling(capacity=10), SOFT, progress=False)
