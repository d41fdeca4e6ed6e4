"""P-MALA leaves densities with kinks and walls invariant; a wrong test does not."""

from functools import cache

import jax.numpy as jnp
import numpy as np
import pytest
from jax import random

import ppl
import samplers
from chains import Known, agrees, gaussian, scores
from samplers.langevin import proximal_mala
from samplers.langevin.proximal_mala import ProximalMALA
from samplers.mcmc.metropolis import accept

pytestmark = pytest.mark.usefixtures("unoptimized")


def moments(x):
    return jnp.concatenate([jnp.abs(x), x, x**2])


@cache
def laplace():
    """Laplace densities of the scales 1, 1/2, 1/3; the variance of the first is 2."""
    rates = np.array([1.0, 2.0, 3.0])
    flat = ppl.from_log_density(lambda x: 0.0 * jnp.sum(x), jnp.zeros(3))

    def sample(key, n):
        return random.laplace(key, (n, 3)) / rates

    truth = np.concatenate([1 / rates, np.zeros(3), 2 / rates**2])
    return Known(ppl.composite(flat, samplers.L1(rates)), sample, moments, truth)


@cache
def half_normal():
    smooth = ppl.from_log_density(lambda x: -0.5 * jnp.sum(x**2), jnp.zeros(2))
    mean = np.sqrt(2 / np.pi) * np.ones(2)
    return Known(
        ppl.composite(smooth, samplers.Box(lower=0.0)),
        lambda key, n: jnp.abs(random.normal(key, (n, 2))),
        moments,
        np.concatenate([mean, mean, np.ones(2)]),
    )


@cache
def split_gaussian():
    """A correlated Gaussian, part of whose log-density is counted as g."""
    known = gaussian([1.0, 0.5], 0.6)

    def rest(x, precision):
        return -0.5 * x @ precision @ x + 0.15 * jnp.sum(x**2)

    (precision,) = known.target.data
    smooth = ppl.from_log_density(rest, jnp.zeros(2), precision)
    return known._replace(target=ppl.composite(smooth, samplers.Quadratic(0.3)))


@pytest.mark.parametrize("smoothing", [None, 0.05, 2.0])
def test_laplace_densities_are_left_invariant(smoothing):
    assert agrees(scores(ProximalMALA(step_size=0.1, smoothing=smoothing), laplace()))


@pytest.mark.parametrize("known", [half_normal, split_gaussian])
def test_a_wall_and_a_split_gaussian_are_left_invariant(known):
    assert agrees(scores(ProximalMALA(step_size=0.2), known()))


def no_ratio_of_proposals(rng_key, log_ratio, proposed, current):
    return accept(rng_key, proposed.log_density - current.log_density, proposed, current)


def everything(rng_key, log_ratio, proposed, current):
    return accept(rng_key, jnp.zeros(()), proposed, current)


@pytest.mark.parametrize("wrong", [no_ratio_of_proposals, everything])
def test_a_wrong_test_is_caught(monkeypatch, wrong):
    monkeypatch.setattr(proximal_mala, "accept", wrong)
    kernel = ProximalMALA(step_size=0.2, smoothing=0.5)
    assert not agrees(scores(kernel, laplace(), variant=wrong.__name__))


def test_warm_up_reaches_the_acceptance_it_is_asked_for():
    draws = ppl.sample(
        ProximalMALA(), laplace().target, rng_key=0, num_samples=1000, progress=False
    )
    assert abs(np.mean(draws.stats["acceptance_rate"]) - 0.574) < 0.1
    assert abs(np.var(draws["x"][..., 0]) - 2) < 0.6


def test_retuning_follows_the_acceptance():
    kernel = ProximalMALA(step_size=0.1)
    info = proximal_mala.ProximalMALAInfo(
        jnp.array([0.9, 0.7]), jnp.ones(2, bool), jnp.zeros(2, bool), jnp.ones((2, 2), jnp.int32)
    )
    retuned = kernel.retune(jnp.zeros((2, 3)), jnp.zeros(2), info)
    np.testing.assert_allclose(retuned.step_size, 0.1 * np.exp(0.8 - 0.574), rtol=1e-5)
    assert kernel.retune(jnp.zeros((2, 3)), jnp.zeros(2), None).step_size == kernel.step_size
