"""STSL: the law of its moves under a Gaussian prior, and the trace in its bound."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gaussian_inverse as g
import ppl
import samplers
import toy_mixture
from samplers.diffusion.inverse.problem import Problem

# Compiling takes longer than running here.
pytestmark = pytest.mark.usefixtures("unoptimized")


def stsl(sampler, factor=1.0, num=2):
    law = g.start(sampler.steps.start.kappa[0])
    for kappa, after, _ in g.levels_of(sampler):
        denoised, ratio = g.denoiser(kappa), (after / kappa) ** 2
        gain = factor * denoised.matrix.T @ g.A.T / g.NOISE**2 * (kappa**2 - after**2) / num
        uphill = g.IDENTITY + g.linear(gain).after(g.residual(denoised))
        guided = g.IDENTITY
        for _ in range(num):
            guided = uphill.after(guided)
        step = g.IDENTITY.scaled(ratio - 1) + denoised.scaled(1 - ratio) + guided
        law = g.push(law, step, after**2 * (1 - ratio) * np.eye(g.D))
    return law


@pytest.fixture(scope="module")
def target():
    return g.problem()


SAMPLER = samplers.STSL(num_steps=150, num_gradients=2, batch_size=g.N)


def test_draws_have_its_law_and_not_that_of_its_twins(target):
    twins = {"half": lambda s: stsl(s, 0.5), "more": lambda s: stsl(s, 1.3)}
    g.check_law(SAMPLER, target, stsl, twins)


@pytest.mark.parametrize(("gain", "diverges"), [(1.8, False), (4.0, True)])
def test_a_gradient_is_stable_while_its_gain_is_below_two(target, gain, diverges):
    """Smaller noise of the data, in the same program, makes the gain what it is here."""

    def of_noise_one(kappa, after):
        product = g.denoiser(kappa).matrix.T @ g.A.T
        return (kappa**2 - after**2) / SAMPLER.num_gradients * np.linalg.norm(product, 2) ** 2

    levels = g.levels_of(SAMPLER.resolve(target))
    noise = max(of_noise_one(kappa, after) / gain for kappa, after, _ in levels) ** 0.5
    draws = ppl.sample(SAMPLER, g.problem(noise=noise), num_samples=g.N, progress=False)["x"]
    assert (np.abs(draws).max() > 1e4) == diverges


def test_the_probe_of_stsl_is_that_of_the_trace_of_the_second_order():
    """Averaged over probes, the bound has the trace of A Cov A' in it."""
    prior = samplers.DiffusionPrior(samplers.EDM(), toy_mixture.denoise, jnp.zeros(2))
    matrix = jnp.array([[1.0, 0.5]])
    likelihood = ppl.LinearGaussian(matrix, jnp.array([0.3]), 0.4)
    problem = Problem(ppl.posterior(prior, likelihood))
    level = prior.path.level(jnp.asarray(0.7))
    z = jnp.array([0.4, -0.3])

    def exact(z, sign):
        jacobian = jax.jacfwd(lambda z: problem.denoise(z, level))(z)
        trace = 0.7**2 * jnp.trace(matrix @ jacobian @ matrix.T) / 0.4**2
        return problem.log_likelihood(problem.denoise(z, level)) + sign * trace / 2

    sampler = samplers.STSL()
    signs = jnp.array([[1.0, 1.0], [1.0, -1.0]])  # all there are, up to the sign of both
    bound = lambda z: sum(sampler.bound(problem, z, level, probe) for probe in signs) / 2
    found, right = jax.jit(jax.grad(bound))(z), jax.jit(jax.grad(exact))
    np.testing.assert_allclose(found, right(z, -1.0), rtol=1e-4)
    for sign in (0.0, 1.0, -2.0):
        assert np.max(np.abs(found - right(z, sign))) > 0.05

    # Above the level up to which it is believed there is no trace.
    plain = samplers.STSL(trusted_below=0.6).bound(problem, z, level, signs[0])
    assert plain == problem.log_likelihood(problem.denoise(z, level))
    assert sampler.bound(problem, z, level, signs[0]) < plain - 0.05
