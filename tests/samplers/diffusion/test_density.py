"""The log-density of a diffusion prior is that of the exact mixture; a wrong trace is caught."""

from functools import cache

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import random

import ppl
import toy_mixture
from samplers.diffusion import density
from samplers.diffusion.density import ProbabilityFlow
from samplers.diffusion.paths import EDM
from samplers.diffusion.prior import DiffusionPrior

POSITIONS = toy_mixture.sample(np.random.default_rng(0), 16)


@cache
def prior(**options):
    flow = ProbabilityFlow(**options)
    return DiffusionPrior(EDM(), toy_mixture.denoise, jnp.zeros(2), density=flow)


@eqx.filter_jit
def estimates(prior, keys, positions):
    one = lambda key, position: prior.density.estimate(key, prior, position)
    return jax.vmap(one)(keys, positions)


def run(**options):
    keys = random.split(random.key(0), len(POSITIONS))
    return estimates(prior(**options), keys, jnp.asarray(POSITIONS))


def test_it_is_within_a_thousandth_of_a_nat_of_the_mixture_s(x64, unoptimized):
    value, error = run(rtol=1e-7, atol=1e-7)
    assert np.max(np.abs(value - toy_mixture.log_density(POSITIONS))) < 1e-3
    assert np.all(error == 0)


def test_hutchinson_s_estimate_covers_it_with_its_error(x64, unoptimized):
    value, error = run(rtol=1e-5, atol=1e-5, num_probes=64)
    scores = (value - toy_mixture.log_density(POSITIONS)) / error
    assert np.max(np.abs(scores)) < 4.9
    assert np.all(error > 0)
    assert np.mean(np.abs(value - toy_mixture.log_density(POSITIONS))) > 1e-3


@pytest.mark.slow  # half a minute: the gradient of an adaptive solution compiles long
def test_its_gradient_is_the_score():
    mine = prior(rtol=1e-4)
    position = jnp.asarray(POSITIONS[0], jnp.float32)
    score = jax.jit(jax.grad(mine.log_density))(position)
    noisy = toy_mixture.denoise(position, 0.02)  # Tweedie's formula, at a little noise
    np.testing.assert_allclose(score, (noisy - position) / 0.02**2, rtol=0.1, atol=0.3)


def test_a_posterior_under_it_has_a_density(unoptimized):
    mine = prior(rtol=1e-4)
    assert mine.offers == {"denoise", "log_density", "gradient"}
    target = ppl.posterior(mine, lambda x: -jnp.sum(x**2))
    assert {"log_density", "log_parts", "gradient", "denoise"} <= target.offers


@pytest.mark.slow
def test_a_run_that_takes_too_long_is_not_a_number(unoptimized):
    assert np.isnan(prior(max_steps=2).log_density(jnp.asarray(POSITIONS[0], jnp.float32)))


def test_the_trace_is_exact_in_few_dimensions():
    probes = lambda d: ProbabilityFlow()._probes(random.key(0), jnp.zeros(d))
    assert probes(density.EXACT) is None
    assert probes(density.EXACT + 1).shape == (16, density.EXACT + 1)
    with pytest.raises(ValueError, match="rtol must be a positive number"):
        ProbabilityFlow(rtol=-1.0)
