"""Power-scaling on conjugate Gaussians, whose scaled posteriors are known."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
import scipy.stats

import ppl
from made_draws import make, of_values
from ppl.diagnostics.sensitivity import power_scaling

DATA = np.array([0.4, 1.3, 0.9, 1.8, 0.6], np.float32)


def log_likelihood(x, y):
    return jnp.sum(dist.Normal(x, 1.0).log_prob(y))


def law(y, scale, prior=1.0, likelihood=1.0):
    """Posterior of ``N(0, scale)^prior prod N(y | x, 1)^likelihood``: mean and sd."""
    precision = prior / scale**2 + likelihood * len(y)
    return likelihood * y.sum() / precision, precision**-0.5


def conjugate(y, scale, size=4000):
    """Exact posterior draws."""
    target = ppl.posterior(dist.Normal(0.0, scale), log_likelihood, y)
    mean, sd = law(y, scale)
    x = mean + sd * np.random.default_rng(0).normal(size=(4, size // 4)).astype(np.float32)
    return make(x, target=target)


def distance(one, other):
    """Cumulative Jensen-Shannon distance of two normals on the range of 4,000 draws."""
    mean, sd = one
    grid = np.linspace(mean - 3.6 * sd, mean + 3.6 * sd, 20_001)

    def directed(p, q):
        middle = (p + q) / 2
        return np.trapezoid(p * np.log2(p / middle) + (q - p) / (2 * math.log(2)), grid)

    def cjs(p, q):
        bound = np.trapezoid(p + q, grid)
        return math.sqrt((directed(p, q) + directed(q, p)) / bound)

    p, q = (scipy.stats.norm(*law) for law in (one, other))
    return max(cjs(p.cdf(grid), q.cdf(grid)), cjs(p.sf(grid), q.sf(grid)))


@pytest.mark.parametrize(
    ("shift", "scale", "diagnosis"),
    [
        pytest.param(0.0, 10.0, "", id="weak prior"),
        pytest.param(8.0, 1.0, "prior-data conflict", id="conflict"),
        pytest.param(0.0, 0.05, "strong prior or weak likelihood", id="strong prior"),
    ],
)
def test_sensitivity_and_diagnosis_are_the_known_ones(shift, scale, diagnosis):
    y = DATA + shift
    row = power_scaling(conjugate(y, scale)).loc["x"]
    here = law(y, scale)
    for component in ("prior", "likelihood"):
        expected = sum(
            distance(here, law(y, scale, **{component: a})) / abs(math.log2(a))
            for a in (0.99, 1.01)
        )
        assert row[component] == pytest.approx(expected / 2, rel=0.1, abs=0.004)
    assert row["diagnosis"] == diagnosis


def positive(x, y):
    return jnp.sum(dist.Exponential(1 / x).log_prob(y))


def test_the_log_jacobian_is_not_scaled():
    """A flat prior on (0, 10) of a scale: no power of it changes anything."""
    target = ppl.posterior(dist.Uniform(0.0, 10.0), positive, np.array([2.0, 3.0, 1.0, 4.0]))
    z = np.random.default_rng(0).normal(-1.0, 0.5, size=(4, 500)).astype(np.float32)
    draws = make(z, target=target)
    assert power_scaling(draws).loc["x", "prior"] < 1e-6
    # The broken twin: with its Jacobian the "prior" moves.
    from ppl.diagnostics import sensitivity

    log_prior = np.asarray(jax.vmap(lambda v: target.log_parts(v)[0])(jnp.asarray(z[0])))
    assert log_prior.std() > 0.1
    assert np.ptp(sensitivity._parts(target, z, None)[0]) < 1e-5


def hierarchy(y):
    mu = numpyro.sample("mu", dist.Normal(0, 10))
    with numpyro.plate("group", len(y)):
        theta = numpyro.sample("theta", dist.Normal(mu, 0.2))
        numpyro.sample("y", dist.Normal(theta, 1), obs=y)


def test_priors_in_question_can_be_named():
    """Group effects close together are the model; the prior on their mean is what is asked."""
    target = ppl.from_numpyro(hierarchy, DATA + np.array([0, 9, -9, 3, -3], np.float32))
    rng = np.random.default_rng(0)
    mu = rng.normal(1, 0.5, (2, 300)).astype(np.float32)
    theta = (mu[..., None] + 0.2 * rng.normal(size=(2, 300, 5))).astype(np.float32)
    draws = make({"mu": mu, "theta": theta}, target=target)
    everything = power_scaling(draws, "theta")
    top = power_scaling(draws, "theta", prior_sites=["mu"])
    assert everything["prior"].max() > 0.05 > top["prior"].max()
    with pytest.raises(ValueError, match="no latent sites tau; there are mu, theta"):
        power_scaling(draws, prior_sites=["tau"])


def test_weighted_draws_are_resampled():
    y, scale = DATA + 8.0, 1.0
    target = ppl.posterior(dist.Normal(0.0, scale), log_likelihood, y)
    (mean, sd), rng = law(y, scale), np.random.default_rng(0)
    x = (mean + 2 * sd * rng.normal(size=(1, 8000))).astype(np.float32)
    log_weights = scipy.stats.norm(mean, sd).logpdf(x) - scipy.stats.norm(mean, 2 * sd).logpdf(x)
    weighted = make(x, target=target, kind="direct", log_weights=log_weights)
    exact = power_scaling(conjugate(y, scale)).loc["x"]
    found = power_scaling(weighted).loc["x"]
    assert found["prior"] == pytest.approx(exact["prior"], rel=0.15)


def test_what_cannot_be_scaled_is_refused():
    few = make(np.zeros((4, 99), np.float32), target=conjugate(DATA, 1.0).target)
    with pytest.raises(ValueError, match="needs 400 draws; there are 396"):
        power_scaling(few)
    with pytest.raises(ppl.TargetError, match="prior and likelihood apart.*ppl.posterior"):
        power_scaling(make())
    with pytest.raises(ppl.TargetError, match="write draws.attach"):
        power_scaling(of_values({"x": np.zeros((4, 500))}))
    with pytest.raises(ppl.TargetError, match="sites of a NumPyro model; the target is Posterior"):
        power_scaling(conjugate(DATA, 1.0), prior_sites=["x"])
