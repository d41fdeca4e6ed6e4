"""A mixture of fields is one of Gaussians with dense covariances, and so is its posterior."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import random
from scipy import stats
from scipy.special import logsumexp, softmax

import ppl
from models.inverse.field_mixture import FieldMixture, field_mixture_posterior
from models.inverse.gaussian_field import GaussianField
from models.inverse.operators import Masking, random_mask

pytestmark = pytest.mark.usefixtures("unoptimized")
SHAPE = (4, 6)
FIELDS = [GaussianField(SHAPE, kappa=1), GaussianField(SHAPE, kappa=2)]
MEANS = np.stack([np.zeros(SHAPE), 0.5 * np.ones(SHAPE)])
PRIOR = FieldMixture(FIELDS, MEANS, [1.0, 2.0])
SHARES = np.log([1 / 3, 2 / 3])


def covariances():
    column = lambda field: jax.vmap(lambda x: field.covariance(x.reshape(SHAPE)).reshape(-1))
    return [np.asarray(column(field)(jnp.eye(24)), np.float64) for field in FIELDS]


def log_parts(x, centers, spreads):
    return np.array(
        [stats.multivariate_normal.logpdf(x, m, c) for m, c in zip(centers, spreads, strict=True)]
    )


def test_density_and_denoiser_are_those_of_dense_matrices():
    x, spreads, centers = random.normal(random.key(0), SHAPE), covariances(), MEANS.reshape(2, 24)
    flat = np.asarray(x, np.float64).reshape(-1)
    found = eqx.filter_jit(PRIOR.log_density)(x) - PRIOR.log_normalizer
    assert np.isclose(found, logsumexp(SHARES + log_parts(flat, centers, spreads)), rtol=1e-4)
    for sigma in (0.1, 1.0, 20.0):
        noisy = [c + sigma**2 * np.eye(24) for c in spreads]
        shares = softmax(SHARES + log_parts(flat, centers, noisy))
        gains = [c @ np.linalg.inv(n) for c, n in zip(spreads, noisy, strict=True)]
        parts = [m + g @ (flat - m) for m, g in zip(centers, gains, strict=True)]
        denoised = eqx.filter_jit(PRIOR.denoise)(x, jnp.asarray(sigma))
        np.testing.assert_allclose(np.asarray(denoised).reshape(-1), shares @ parts, atol=1e-4)


def test_draws_have_the_moments_of_the_mixture():
    n = 20_000
    draws = np.asarray(PRIOR.sample(random.key(1), n), np.float64).reshape(n, 24)
    mean = MEANS.reshape(2, 24)[1] * 2 / 3
    second = sum(
        w * (c + np.outer(m, m))
        for w, c, m in zip([1 / 3, 2 / 3], covariances(), MEANS.reshape(2, 24), strict=True)
    )
    products = draws[:, :, None] * draws[:, None, :]
    error = products.std(0) / np.sqrt(n)
    assert np.all(np.abs(draws.mean(0) - mean) < 4.9 * draws.std(0) / np.sqrt(n))
    assert np.all(np.abs(products.mean(0) - second) < 4.9 * error)


def test_the_posterior_weighs_kinds_by_their_evidence():
    operator = Masking(random_mask(random.key(1), SHAPE, 0.5))
    truth = PRIOR.sample(random.key(2), 1)[0]
    likelihood = ppl.LinearGaussian(operator, operator(truth), 0.8).observe(random.key(3), truth)
    posterior = field_mixture_posterior(PRIOR, likelihood)
    matrix = np.eye(24)[np.asarray(operator.chosen.indices)]
    y, centers = np.asarray(likelihood.observation, np.float64), MEANS.reshape(2, 24)
    seen = [matrix @ c @ matrix.T + 0.64 * np.eye(12) for c in covariances()]
    evidence = SHARES + log_parts(y, centers @ matrix.T, seen)
    gains = [c @ matrix.T @ np.linalg.inv(k) for c, k in zip(covariances(), seen, strict=True)]
    means = [m + g @ (y - matrix @ m) for m, g in zip(centers, gains, strict=True)]
    shares = softmax(evidence)

    @eqx.filter_jit
    def facts(posterior):
        draws = posterior.sample(random.key(4), 20_000)
        return posterior.log_evidence, posterior.log_shares, posterior.mean, posterior.sd, draws

    log_evidence, log_shares, mean, sd, draws = facts(posterior)
    assert np.isclose(log_evidence, logsumexp(evidence), atol=1e-3)
    np.testing.assert_allclose(np.exp(log_shares), shares, atol=1e-4)
    assert 0.01 < shares[0] < 0.99
    np.testing.assert_allclose(np.asarray(mean).reshape(-1), shares @ means, atol=1e-4)
    draws = np.asarray(draws, np.float64)
    assert np.all(np.abs(draws.mean(0) - mean) < 4.9 * np.asarray(sd) / np.sqrt(20_000))
    fourth = ((draws - draws.mean(0)) ** 2).std(0) / np.sqrt(20_000)
    assert np.all(np.abs(draws.var(0) - np.asarray(sd) ** 2) < 4.9 * fourth)
    # The broken twin keeps the prior's shares.
    twin = np.exp(SHARES) @ means
    assert np.any(np.abs(draws.mean(0).reshape(-1) - twin) > 4.9 * sd.reshape(-1) / np.sqrt(20_000))


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match=r"one shape; got \[\(4, 4\), \(4, 6\)\]"):
        FieldMixture([*FIELDS, GaussianField((4, 4))])
    with pytest.raises(ValueError, match=r"2 positive weights; got .* and \[1. 2. 3.\]"):
        FieldMixture(FIELDS, weights=[1.0, 2.0, 3.0])
