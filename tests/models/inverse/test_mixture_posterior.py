"""The posterior of a mixture is the mixture of the page, also in 800 dimensions."""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pytest
from jax import random
from scipy import stats
from scipy.special import logsumexp

import ppl
import samplers
from models.inverse.mixture_posterior import MixturePosterior, benchmark, kernel_density, stacked
from models.targets.gaussian import Gaussian
from models.targets.gaussian_mixture import GaussianMixture
from ppl.diagnostics.sliced_wasserstein import sliced_wasserstein
from ppl.energy import TargetError

pytestmark = pytest.mark.usefixtures("unoptimized")
WIDE = GaussianMixture([[0.0, 0.0, 1.0], [2.0, -1.0, 0.0]], [0.5, 1.5], [1.0, 3.0])
MATRIX = np.array([[1.0, 0.5, 0.0], [0.0, 0.3, -1.0]])


@eqx.filter_jit
def facts(posterior):
    return (
        posterior.log_shares,
        posterior.log_evidence,
        posterior.means,
        posterior.mean,
        posterior.sample(random.key(0), 400),
    )


def by_hand(prior, matrix, y, noise):
    """Log shares, evidence, means and covariances, with dense matrices in float64."""
    means, sds = np.asarray(prior.means, np.float64), np.asarray(prior.sds, np.float64)
    log_parts, centers, covariances = [], [], []
    for mean, sd, log_share in zip(means, sds, np.asarray(prior.log_shares), strict=True):
        seen = sd**2 * matrix @ matrix.T + noise**2 * np.eye(len(y))
        gain = sd**2 * matrix.T @ np.linalg.inv(seen)
        log_parts.append(log_share + stats.multivariate_normal.logpdf(y, matrix @ mean, seen))
        centers.append(mean + gain @ (y - matrix @ mean))
        covariances.append(sd**2 * (np.eye(len(mean)) - gain @ matrix))
    evidence = logsumexp(log_parts)
    return np.array(log_parts) - evidence, evidence, np.array(centers), np.array(covariances)


def test_shares_means_and_evidence_are_those_of_dense_matrices():
    y = np.array([1.0, 0.2])
    posterior = MixturePosterior(WIDE, ppl.LinearGaussian(MATRIX.astype("f4"), jnp.asarray(y), 0.4))
    log_shares, evidence, means, covariances = by_hand(WIDE, MATRIX, y, 0.4)
    found = facts(posterior)
    expected = log_shares, evidence, means, np.exp(log_shares) @ means
    for one, other in zip(found, expected, strict=False):
        np.testing.assert_allclose(one, other, atol=1e-4)
    x = np.array([0.3, -0.4, 0.2])
    density = logsumexp(
        [w + stats.multivariate_normal.logpdf(x, m, c)
         for w, m, c in zip(log_shares, means, covariances, strict=True)]
    )  # fmt: skip
    found = posterior.log_density(jnp.asarray(x, jnp.float32)) - posterior.log_normalizer
    assert np.isclose(found, density, atol=1e-3)


def test_draws_have_the_moments_of_the_mixture():
    y, n = np.array([1.0, 0.2]), 40_000
    posterior = MixturePosterior(WIDE, ppl.LinearGaussian(MATRIX.astype("f4"), jnp.asarray(y), 0.4))
    log_shares, _, means, covariances = by_hand(WIDE, MATRIX, y, 0.4)
    shares = np.exp(log_shares)
    mean = shares @ means
    spread = np.einsum("k,kij->ij", shares, covariances)
    covariance = spread + np.einsum("k,ki,kj->ij", shares, means - mean, means - mean)
    found = ppl.sample(samplers.ExactDraws(), posterior, 0, num_samples=n, progress=False)["x"][0]
    draws = np.asarray(found, np.float64) - mean
    assert np.all(np.abs(draws.mean(0)) < 4.9 * np.sqrt(np.diag(covariance) / n))
    products = draws[:, :, None] * draws[:, None, :]
    errors = products.std(0) / np.sqrt(n)
    assert np.all(np.abs(products.mean(0) - covariance) < 4.9 * errors)
    # The broken twin keeps the prior's shares.
    twin = np.exp(np.asarray(WIDE.log_shares)) @ means
    assert np.any(np.abs(draws.mean(0) + mean - twin) > 4.9 * np.sqrt(np.diag(covariance) / n))


@pytest.mark.parametrize(("num_dims", "num_observed"), [(8, 1), (800, 4)])
def test_the_benchmark_is_stable_in_any_dimension(num_dims, num_observed):
    prior, likelihood, truth = problem = benchmark(3, num_dims, num_observed)
    assert prior.means.shape == (25, num_dims)
    assert np.abs(np.asarray(prior.means)).max() == 16
    matrix = np.asarray(likelihood.operator.matrix, np.float64)
    values = np.linalg.svd(matrix, compute_uv=False)
    np.testing.assert_allclose(likelihood.svd.singular_values[:num_observed], values, atol=1e-5)
    assert values.max() < 1
    assert likelihood.noise_std < values.max()
    y, noise = np.asarray(likelihood.observation, np.float64), float(likelihood.noise_std)
    log_shares, evidence, means, _ = by_hand(prior, matrix, y, noise)
    found_shares, found_evidence, found_means, _, draws = facts(problem.posterior)
    likely = log_shares > -20
    np.testing.assert_allclose(found_shares[likely], log_shares[likely], atol=0.05)
    np.testing.assert_allclose(found_evidence, evidence, atol=0.05)
    np.testing.assert_allclose(found_means, means, atol=2e-3)
    # In directions that are not seen a draw lies around the mean of its component.
    distance = ((np.asarray(draws, np.float64)[:, None] - means) ** 2).sum(-1).min(1) / num_dims
    assert np.all(distance < 1 + 10 / np.sqrt(num_dims))
    assert truth.shape == (num_dims,)


def test_problems_of_one_shape_stack_and_differ():
    both = stacked([benchmark(0, 8, 1).posterior, benchmark(1, 8, 1).posterior])
    assert both.prior.means.shape == (2, 25, 8)
    found = np.asarray(eqx.filter_vmap(facts)(both)[-1])
    x, other = (np.asarray(facts(benchmark(i, 8, 1).posterior)[-1]) for i in (0, 1))
    np.testing.assert_allclose(found, [x, other], atol=1e-3)
    floor = sliced_wasserstein(x[:200], x[200:], p=1)
    assert sliced_wasserstein(x, other, p=1) > 3 * floor


def test_real_data_make_a_prior_with_a_posterior():
    rows = np.random.default_rng(0).uniform(size=(20, 2, 2))
    prior = kernel_density(rows, 0.1)
    assert prior.means.shape == (20, 4)
    likelihood = ppl.LinearGaussian(np.eye(4, dtype="f4")[:2], jnp.asarray(rows[3, 0]), 0.01)
    posterior = MixturePosterior(prior, likelihood)
    assert posterior.log_shares.argmax() == 3


def test_bad_input_is_refused():
    y = jnp.zeros(2)
    with pytest.raises(TargetError, match="GaussianMixture; got Gaussian"):
        MixturePosterior(Gaussian(3), ppl.LinearGaussian(MATRIX.astype("f4"), y, 0.4))
    function = ppl.LinearGaussian(lambda x: x[:2], y, 0.4, template=jnp.zeros(3))
    with pytest.raises(TargetError, match="needs an operator with singular values"):
        MixturePosterior(WIDE, function)
    with pytest.raises(TargetError, match="posterior of a mixture needs noise_std > 0"):
        MixturePosterior(WIDE, ppl.LinearGaussian(MATRIX.astype("f4"), y, 0.0))
    with pytest.raises(ValueError, match="even number of dimensions .* got num_dims=7"):
        benchmark(0, 7, 1)
