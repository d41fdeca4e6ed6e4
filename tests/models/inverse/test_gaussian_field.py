"""The random field is the Gaussian it says it is, and its posterior that of dense matrices."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import random
from scipy import stats

import ppl
import samplers
from models.inverse.gaussian_field import GaussianField
from models.inverse.gaussian_posterior import as_reals, from_reals, gaussian_posterior
from models.inverse.operators import FourierSampling, Masking, cartesian_mask, random_mask
from models.targets.funnel import Funnel
from ppl.energy import TargetError

pytestmark = pytest.mark.usefixtures("unoptimized")
KEY = random.key(5)
FIELD = GaussianField((6, 8), kappa=2)
SIZE = 48


def covariance_of(field):
    size = int(np.prod(field.template.shape))
    column = lambda x: field.covariance(x.reshape(field.template.shape))
    columns = jax.jit(jax.vmap(column))(jnp.eye(size))
    return np.asarray(columns, np.float64).reshape(size, size)


@pytest.mark.parametrize("shape", [(6, 8), (2, 4, 6), (16,)])
def test_spectrum_density_and_denoiser_are_those_of_one_gaussian(shape):
    field = GaussianField(shape, kappa=2)
    covariance = covariance_of(field)
    assert np.allclose(np.diag(covariance), 1, atol=1e-5)
    assert np.allclose(covariance, covariance.T, atol=1e-5)
    x = np.asarray(random.normal(KEY, shape), np.float64)
    expected = stats.multivariate_normal.logpdf(x.reshape(-1), cov=covariance)
    found = field.log_density(jnp.asarray(x, jnp.float32)) - field.log_normalizer
    assert np.isclose(found, expected, rtol=1e-4)
    for sigma in (1e-3, 0.3, 50.0):
        gain = covariance @ np.linalg.inv(covariance + sigma**2 * np.eye(x.size))
        denoised = field.denoise(jnp.asarray(x, jnp.float32), sigma)
        assert np.allclose(np.asarray(denoised).reshape(-1), gain @ x.reshape(-1), atol=2e-5)


def test_draws_have_the_spectrum():
    field, n = GaussianField((16, 16)), 2000
    draws = np.asarray(field.sample(KEY, n))
    power = np.mean(np.abs(np.fft.fft2(draws, norm="ortho")) ** 2, axis=0)
    ratio = power / np.asarray(field.spectrum)
    # A real mode has one degree of freedom, a complex one two: at most sqrt(2 / n) either way.
    assert np.all(np.abs(ratio - 1) < 4.9 * np.sqrt(2 / n))
    broken_twin = power / np.asarray(GaussianField((16, 16), kappa=3.5).spectrum)
    assert not np.all(np.abs(broken_twin - 1) < 4.9 * np.sqrt(2 / n))


def test_it_is_the_denoiser_of_a_diffusion_prior():
    prior = samplers.DiffusionPrior(samplers.VPLinear(), FIELD.denoise, FIELD.template)
    x = random.normal(KEY, (6, 8))
    np.testing.assert_allclose(prior.denoise(x, 0.4), FIELD.denoise(x, 0.4), atol=1e-5)
    draws = ppl.sample(samplers.ExactDraws(), FIELD, 0, num_samples=10, progress=False)
    assert draws["x"].shape == (1, 10, 6, 8)


def mask_problem(rng_key=KEY):
    operator = Masking(random_mask(random.key(1), (6, 8), 0.25))
    truth = FIELD.sample(rng_key, 1)[0]
    likelihood = ppl.LinearGaussian(operator, operator(truth), 0.3)
    return FIELD, likelihood.observe(random.key(2), truth)


def resonance_problem():
    field = GaussianField((2, 4, 6), kappa=2)
    operator = FourierSampling(cartesian_mask(KEY, (4, 6), 2, center=0.3))
    truth = field.sample(KEY, 1)[0]
    likelihood = ppl.LinearGaussian(operator, operator(truth), 0.3)
    return field, likelihood.observe(random.key(2), truth)


def by_hand(field, likelihood):
    """Mean, covariance and evidence with dense matrices, in float64."""
    covariance, size = covariance_of(field), int(np.prod(field.template.shape))
    forward = lambda x: as_reals(likelihood.forward(x.reshape(field.template.shape)))
    columns = jax.jit(jax.vmap(forward))(jnp.eye(size))
    matrix = np.asarray(columns, np.float64).T
    y = np.asarray(as_reals(likelihood.observation), np.float64)
    seen = matrix @ covariance @ matrix.T + 0.3**2 * np.eye(len(y))
    gain = covariance @ matrix.T @ np.linalg.inv(seen)
    evidence = stats.multivariate_normal.logpdf(y, cov=seen)
    return gain @ y, covariance - gain @ matrix @ covariance, evidence


@pytest.mark.parametrize("problem", [mask_problem, resonance_problem])
def test_the_posterior_is_that_of_dense_matrices(problem):
    field, likelihood = problem()
    posterior, target = gaussian_posterior(field, likelihood), ppl.posterior(field, likelihood)
    x = field.sample(random.key(7), 1)[0]

    @eqx.filter_jit
    def facts(p):
        return p.mean, p.sd, p.log_evidence, p.log_normalizer, p.log_density(x)

    found_mean, found_sd, found_evidence, log_normalizer, log_density = facts(posterior)
    mean, covariance, evidence = by_hand(field, likelihood)
    assert np.allclose(found_mean.reshape(-1), mean, atol=1e-4)
    assert np.allclose(found_sd.reshape(-1), np.sqrt(np.diag(covariance)), atol=1e-4)
    assert np.isclose(found_evidence, evidence, atol=1e-2)
    assert np.isclose(log_density, eqx.filter_jit(target.log_density)(x), rtol=1e-5)
    truth = stats.multivariate_normal.logpdf(
        np.asarray(x, np.float64).reshape(-1), mean, covariance
    )
    assert np.isclose(log_density - log_normalizer, truth, atol=2e-2)


def test_draws_by_perturbation_have_the_law_of_the_posterior():
    field, likelihood = mask_problem()
    posterior, n = gaussian_posterior(field, likelihood), 20_000
    mean, covariance, _ = by_hand(field, likelihood)
    found = ppl.sample(samplers.ExactDraws(), posterior, 3, num_samples=n, progress=False)["x"]
    draws = np.asarray(found, np.float64).reshape(n, SIZE)
    whiten = np.linalg.inv(np.linalg.cholesky(covariance))
    scale = 4.9 / np.sqrt(n)

    def passes(draws):
        white = (draws - mean) @ whiten.T
        off = white.T @ white / n - np.eye(SIZE)
        return np.all(np.abs(white.mean(0)) < scale) and np.all(np.abs(off) < scale * np.sqrt(2))

    assert passes(draws)
    # The broken twin forgets the noise of the perturbed observation.
    shifts = field.sample(random.key(8), n)
    moved = eqx.filter_jit(jax.vmap(lambda x: posterior._moved(x, likelihood.residual(x))))(shifts)
    assert not passes(np.asarray(moved, np.float64).reshape(n, SIZE))


def test_new_data_need_no_new_factors():
    field, likelihood = mask_problem()
    other = mask_problem(random.key(9))[1]
    posterior = gaussian_posterior(field, likelihood).given(other.observation)
    np.testing.assert_allclose(posterior.mean, gaussian_posterior(field, other).mean, atol=1e-5)


def test_real_vectors_of_observations_come_back():
    tree = {"a": jnp.array([[1 + 2j, 3 - 1j]]), "b": jnp.arange(3.0)}
    back = from_reals(as_reals(tree), tree)
    assert jax.tree.all(jax.tree.map(lambda x, y: bool(jnp.all(x == y)), tree, back))


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match=r"one to three axes of positive size; got \(0, 4\)"):
        GaussianField((0, 4))
    with pytest.raises(ValueError, match="kappa must be positive; got 2.0 and -1"):
        GaussianField((4, 4), kappa=-1)
    field, likelihood = mask_problem()
    with pytest.raises(TargetError, match="must be Gaussian, with mean, .* got Funnel"):
        gaussian_posterior(Funnel(4), likelihood)
    noiseless = ppl.LinearGaussian(likelihood.operator, likelihood.observation, 0.0)
    with pytest.raises(TargetError, match="a Gaussian posterior needs noise_std > 0"):
        gaussian_posterior(field, noiseless)
