"""SCLD: its population is unbiased for Z with resampling, and its segments are those of CMCD."""

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
from samplers.trajectory.kernels import score_steps
from samplers.trajectory.scld import SCLD, Segments

pytestmark = pytest.mark.usefixtures("unoptimized")
SOFT = GaussianMixture([[1.5, 1.5], [1.5, -1.5], [-1.5, 1.5], [-1.5, -1.5]])
Z = float(np.exp(SOFT.log_normalizer))
SMALL = SCLD(
    num_segments=3, steps_per_segment=2, num_particles=16, num_updates=3, step_size=0.05,
    ess_threshold=0.9, network=partial(MLP, width=8, depth=1),
)  # fmt: skip


@eqx.filter_jit
def runs(sampler, key, factor=1.0):
    """Estimates of Z of 2,000 populations of 16, untrained but with random parameters."""
    state = sampler.init(key, SOFT)
    learned = jax.tree.map(
        lambda x: x + 0.05 * jnp.cos(jnp.arange(x.size, dtype=x.dtype)).reshape(x.shape)
        if eqx.is_inexact_array(x) else x, state.learned,
    )  # fmt: skip
    kernels = sampler._model(SOFT, learned).kernels
    kernels = eqx.tree_at(lambda k: k.reward.target.target, kernels, SOFT)
    model = Weighed(kernels, sampler.steps_per_segment, factor)

    def one(key):
        run = sampler._run(key, model, 16, keep_path=False)
        return run.log_evidence, jnp.mean(run.history.resampled)

    return jax.lax.map(one, random.split(key, 2000), batch_size=200)


class Weighed(Segments):
    """The model, or one whose backward kernels are multiplied by a power of themselves."""

    factor: float = 1.0

    def log_potentials(self, row, states, looks, log_pf, log_pb):
        return Segments.log_potentials(self, row, states, looks, log_pf, self.factor * log_pb)


def test_the_mean_weight_of_a_population_is_unbiased_for_z():
    log_evidence, resampled = runs(SMALL, random.key(0))
    ratio = np.exp(np.asarray(log_evidence)) / Z
    assert resampled.mean() > 0.1  # it was at work
    assert abs(ratio.mean() - 1) < 4.9 * ratio.std() / 2000**0.5


def test_a_wrong_backward_kernel_is_caught():
    log_evidence, _ = runs(SMALL, random.key(0), jnp.asarray(1.03))
    ratio = np.exp(np.asarray(log_evidence)) / Z
    assert abs(ratio.mean() - 1) > 4.9 * ratio.std() / 2000**0.5


@pytest.fixture(scope="module")
def draws():
    return ppl.sample(SMALL, SOFT, num_samples=2048, progress=False)


@pytest.mark.slow
def test_it_trains_and_draws_through_the_driver(draws):
    assert np.isfinite(draws.history["loss"]).all()
    assert not draws.history["diverging"].any()
    assert draws["x"].shape == (1, 2048, 2)
    assert abs(draws.log_evidence.value - np.log(Z)) < 0.3
    trained = 3 * 16 * (1 + 3 * 6)
    assert draws.num_evaluations == (trained + 2048 * 19,) * 2


@pytest.mark.slow
def test_segments_are_scored_as_they_were_made():
    state = SMALL.init(random.key(1), SOFT)
    model = SMALL._model(SOFT, state.learned)
    start, _ = model.start(random.key(2), 5)
    after, log_g = model.advance(random.key(3), start, jnp.int32(2))
    states, looks = jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), (after.trail, after.trail_looks))
    np.testing.assert_array_equal(states[0], start.x)
    scores = score_steps(model.kernels, states, looks, jnp.int32(2))
    again = model.log_potentials(jnp.int32(2), states, looks, *scores)
    np.testing.assert_allclose(log_g, again, rtol=1e-4, atol=1e-3)
