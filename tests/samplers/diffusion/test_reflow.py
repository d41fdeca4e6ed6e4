"""Reflow makes paths straight and keeps what they connect."""

from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import random
from scipy import integrate

import ppl
import samplers
import toy_mixture
from ppl.diagnostics.energy_distance import energy_distance, energy_test
from samplers.diffusion.reflow import couple, straightness


def flow():
    template = jax.ShapeDtypeStruct((2,), jnp.float32)
    return samplers.DiffusionPrior(samplers.StraightFlow(), toy_mixture.denoise, template)


def test_pairs_and_straightness_of_a_gaussian_are_the_known_ones():
    """The flow of N(0, s^2) takes z to s z along z sqrt(((1 - t) s)^2 + t^2)."""
    s = 0.3
    denoise = lambda y, kappa: s**2 / (s**2 + kappa**2) * y
    prior = samplers.DiffusionPrior(samplers.StraightFlow(), denoise, jnp.zeros(()))
    noise, data = couple(random.key(0), prior, 500, num_steps=800)
    np.testing.assert_allclose(data, s * noise, rtol=0.02, atol=2e-3)
    rate = lambda t: (t - (1 - t) * s**2) / np.sqrt(((1 - t) * s) ** 2 + t**2)
    exact, _ = integrate.quad(lambda t: (1 - s - rate(t)) ** 2, 0, 1)
    found = straightness(random.key(0), prior, 500, num_steps=800)
    np.testing.assert_allclose(found / np.mean(noise**2), exact, rtol=0.03)


@eqx.filter_jit
def train(sampler, target, rng_key):
    arrays, rest = eqx.partition(sampler.init(rng_key, target), eqx.is_array)

    def step(arrays, t):
        state, info = sampler.step(random.fold_in(rng_key, t), target, eqx.combine(arrays, rest))
        return eqx.filter(state, eqx.is_array), info.loss

    arrays, losses = jax.lax.scan(step, arrays, jnp.arange(sampler.num_updates))
    return eqx.combine(arrays, rest), losses


def reflowed(noise, data, num_updates, width=64):
    sampler = samplers.DenoisingDiffusion(
        partial(samplers.MLP, width=width, depth=2),
        path=samplers.StraightFlow(),
        predicts=samplers.PredictsVelocity,
        times=samplers.UniformTime(),
        num_updates=num_updates,
        noise=noise,
    )
    target = ppl.from_samples(data)
    sampler = sampler.resolve(target)
    return sampler.prior(train(sampler, target, random.key(1))[0])


def curvatures(*priors):
    """Straightness of several flows of one kind, by one program."""
    arrays = [eqx.filter(prior.denoiser, eqx.is_array) for prior in priors]

    def one(arrays):
        denoiser = eqx.combine(arrays, priors[0].denoiser)
        prior = eqx.tree_at(lambda prior: prior.denoiser, priors[0], denoiser)
        return straightness(random.key(2), prior, 1000)

    return jax.lax.map(one, jax.tree.map(lambda *x: jnp.stack(x), *arrays)).tolist()


@pytest.fixture(scope="module")
def pairs():
    return couple(random.key(0), flow(), 5000)


@pytest.mark.slow  # 15 seconds
def test_reflow_straightens_paths_and_not_those_of_pairs_that_were_torn_apart(pairs):
    """The broken twin: data with the noise of other rows is the first flow again."""
    noise, data = pairs
    first = float(straightness(random.key(2), flow(), 1000))
    torn_apart = jnp.roll(noise, 7, axis=0)
    second, torn = curvatures(*(reflowed(z, data, 500, width=32) for z in (noise, torn_apart)))
    assert second < first / 3, (first, second)
    assert torn > first / 2, (first, torn)


@pytest.mark.slow
def test_reflow_keeps_the_coupling_and_the_law_and_needs_few_steps(pairs):
    second = reflowed(*pairs, 1500)
    first_s, second_s = (float(straightness(random.key(2), p, 1000)) for p in (flow(), second))
    assert second_s < first_s / 4, (first_s, second_s)
    # The same noise comes to the same point, the law is that of the data, transport costs no more.
    noise, ends = couple(random.key(3), flow(), 1000)
    again, found = couple(random.key(3), second, 1000)
    np.testing.assert_array_equal(noise, again)
    spread = np.mean(np.sum((ends - jnp.roll(ends, 1, 0)) ** 2, 1))
    assert np.mean(np.sum((ends - found) ** 2, 1)) < 0.05 * spread
    exact = toy_mixture.sample(np.random.default_rng(4), 1000)
    assert energy_test(np.asarray(found), exact)[1] > 0.01
    cost = lambda x: float(np.mean(np.sum((noise - x) ** 2, 1)))
    assert cost(found) < 1.02 * cost(ends)
    # Three steps: the straight flow is nearer to the data than the first.
    few = [np.asarray(couple(random.key(5), p, 1000, num_steps=3)[1]) for p in (flow(), second)]
    far, near = (energy_distance(x, exact) for x in few)
    assert near < far / 2, (near, far)


def test_what_does_not_fit_is_refused():
    other = samplers.DiffusionPrior(samplers.EDM(), lambda y, s: 0 * y, jnp.zeros(()))
    with pytest.raises(ppl.TargetError, match="is for priors on StraightFlow; this one is on EDM"):
        couple(random.key(0), other, 3)
    sampler = samplers.DenoisingDiffusion(noise=jnp.zeros((4, 2)))
    with pytest.raises(ppl.TargetError, match="noise is one position for each row"):
        ppl.sample(sampler, ppl.from_samples(jnp.zeros((5, 2))))
