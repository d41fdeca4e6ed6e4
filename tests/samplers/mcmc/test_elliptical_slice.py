"""Elliptical slice sampling on posteriors known in closed form, and the priors it asks for."""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from jax import random

import ppl
from chains import Known, agrees, run, scores
from samplers.mcmc import elliptical_slice
from samplers.mcmc.elliptical_slice import EllipticalSlice, prior_mean

pytestmark = pytest.mark.usefixtures("unoptimized")

MEAN = np.array([1.0, -2.0, 3.0])
COVARIANCE = np.array([[1.0, 0.6, 0.2], [0.6, 2.0, -0.3], [0.2, -0.3, 0.5]])
DATA, NOISE = np.array([0.0, -1.0, 4.0]), 0.8


def log_likelihood(x, y):
    return -0.5 * jnp.sum(((x - y) / NOISE) ** 2)


def conjugate():
    """Gaussian prior, Gaussian noise: the posterior has precision C^-1 + I / noise^2."""
    prior = dist.MultivariateNormal(jnp.asarray(MEAN), jnp.asarray(COVARIANCE))
    precision = np.linalg.inv(COVARIANCE)
    covariance = np.linalg.inv(precision + np.eye(3) / NOISE**2)
    mean = covariance @ (precision @ MEAN + DATA / NOISE**2)
    factor, upper = np.linalg.cholesky(covariance), np.triu_indices(3)

    def functions(x):
        return jnp.concatenate([x, jnp.outer(x, x)[upper]])

    def sample(key, n):
        return mean + random.normal(key, (n, 3)) @ factor.T

    truth = np.concatenate([mean, (covariance + np.outer(mean, mean))[upper]])
    return Known(ppl.posterior(prior, log_likelihood, DATA), sample, functions, truth)


def test_elliptical_slice_leaves_a_conjugate_posterior_invariant():
    assert agrees(scores(EllipticalSlice(), conjugate()))


def test_an_ellipse_about_another_mean_is_caught(monkeypatch):
    monkeypatch.setattr(elliptical_slice, "prior_mean", lambda target: jnp.zeros(3))
    assert not agrees(scores(EllipticalSlice(), conjugate(), variant="mean zero"))


def pooled(y):
    mu = numpyro.sample("mu", dist.Normal(1.0, 2.0))
    with numpyro.plate("group", 3):
        theta = numpyro.sample("theta", dist.Normal(mu, 0.5))
        numpyro.sample("y", dist.Normal(theta, 1.0), obs=y)


@pytest.mark.slow
def test_sites_of_a_model_that_are_jointly_normal_are_a_gaussian_prior():
    """Positions are flattened by name: mu, then theta. All have the prior mean 1."""
    y = np.array([2.0, 0.0, 5.0])
    target = ppl.from_numpyro(pooled, y)
    np.testing.assert_allclose(prior_mean(target), np.ones(4), atol=1e-5)
    design = np.eye(4)[1:]
    prior = np.full((4, 4), 4.0) + np.diag([0, 0.25, 0.25, 0.25])
    covariance = np.linalg.inv(np.linalg.inv(prior) + design.T @ design)
    mean = covariance @ (np.linalg.solve(prior, np.ones(4)) + design.T @ y)
    factor = np.linalg.cholesky(covariance)

    def sample(key, n):
        z = mean + random.normal(key, (n, 4)) @ factor.T
        return {"mu": z[:, 0], "theta": z[:, 1:]}

    def functions(p):
        return jnp.concatenate([p["mu"][None], p["theta"], p["theta"] ** 2])

    truth = np.concatenate([mean, np.diag(covariance)[1:] + mean[1:] ** 2])
    assert agrees(scores(EllipticalSlice(), Known(target, sample, functions, truth)))


def test_draws_come_without_warm_up_and_are_counted():
    draws = ppl.sample(
        EllipticalSlice(), conjugate().target, num_samples=300, num_warmup=0, progress=False
    )
    assert draws["x"].shape == (4, 300, 3)
    evaluations, gradients = draws.num_evaluations
    assert gradients == 0
    assert 1.0 <= evaluations / 1200 < 8
    rates = draws.stats["acceptance_rate"]
    assert ((rates > 0) & (rates <= 1)).all()
    lp = [conjugate().target.log_density(x) for x in jnp.asarray(draws["x"])[0, -3:]]
    np.testing.assert_allclose(draws.stats["lp"][0, -3:], lp, rtol=1e-5)


def test_a_likelihood_that_is_nan_is_a_divergence_and_never_a_draw():
    target = ppl.posterior(
        dist.Normal(0, 1).expand([2]), lambda x: jnp.where(x[0] > 0.5, jnp.nan, 0.0)
    )
    positions, infos = run(EllipticalSlice(), target, random.key(0), jnp.zeros((16, 2)), 100)
    assert (positions[..., 0] <= 0.5).all()
    assert infos.diverging.any()
    assert not infos.exhausted.any()


def hierarchy(y):
    scale = numpyro.sample("scale", dist.Normal(0, 1))
    theta = numpyro.sample("theta", dist.Normal(0, jnp.exp(scale)))
    numpyro.sample("y", dist.Normal(theta, 1), obs=y)


def test_a_prior_that_is_not_gaussian_is_refused():
    for target, reason in [
        (ppl.posterior(dist.StudentT(3.0), lambda x: -(x**2)), "no quadratic form"),
        (ppl.from_numpyro(hierarchy, 1.0), "no quadratic form"),
        (ppl.posterior(dist.Laplace().expand([2]), lambda x: -x @ x), "no quadratic form"),
    ]:
        with pytest.raises(ppl.TargetError, match=f"needs a Gaussian prior.*{reason}"):
            EllipticalSlice().check(target)
    plain = ppl.from_log_density(lambda x: -jnp.sum(x**2), jnp.zeros(2))
    with pytest.raises(ppl.TargetError, match="needs 'log_parts'"):
        ppl.sample(EllipticalSlice(), plain, progress=False)


def test_a_normal_law_in_the_unconstrained_space_will_do():
    target = ppl.posterior(dist.LogNormal(0.3, 0.7), lambda x: -0.5 * (x - 2) ** 2)
    EllipticalSlice().check(target)
    np.testing.assert_allclose(prior_mean(target), [0.3], rtol=1e-4)
