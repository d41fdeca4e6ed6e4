"""Laplace is exact on Gaussians, finds conjugate evidences, and says what it repaired."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from jax import random
from numpyro.distributions import constraints
from scipy.special import gammaln

import ppl
import samplers
from posteriordb import LIMIT, largest, load, z_scores
from ppl import weights
from ppl.energy import TargetError
from samplers.variational import laplace

pytestmark = pytest.mark.usefixtures("unoptimized")

SCALES = np.array([1.0, 1e-3, 300.0])
COVARIANCE = np.outer(SCALES, SCALES) * np.array([[1, 0.9, 0.3], [0.9, 1, 0.5], [0.3, 0.5, 1]])
MEAN = np.array([0.5, -0.01, 30.0])


def quadratic(p, mean, precision):
    x = jnp.concatenate([p["a"][None], p["b"]])
    return -0.5 * (x - mean) @ precision @ (x - mean)


TEMPLATE = {"a": jnp.zeros(()), "b": jnp.zeros(2)}
GAUSSIAN = ppl.from_log_density(quadratic, TEMPLATE, MEAN, np.linalg.inv(COVARIANCE))
LOG_Z = 0.5 * np.linalg.slogdet(2 * np.pi * COVARIANCE)[1]


def fit(sampler, target, **sizes):
    return ppl.sample(sampler, target, progress=False, **sizes)


def test_a_gaussian_is_met_exactly_whatever_its_scales():
    draws = fit(samplers.Laplace(), GAUSSIAN)
    law = draws.sampler.state.law
    np.testing.assert_allclose((law.mean - MEAN) / SCALES, 0, atol=2e-3)
    covariance = np.asarray(law.factor @ law.factor.T) / np.outer(SCALES, SCALES)
    np.testing.assert_allclose(covariance, COVARIANCE / np.outer(SCALES, SCALES), atol=2e-3)
    assert draws.log_evidence.value == pytest.approx(LOG_Z, abs=2e-3)
    assert draws.history["log_evidence"][0, -1] == pytest.approx(LOG_Z, abs=2e-3)
    assert np.ptp(draws.log_weights) < 0.01
    assert weights.pareto_khat(draws.log_weights.ravel()) < 0.5
    assert draws.run.notes == []


def test_a_wrong_determinant_is_caught(monkeypatch):
    right = laplace._gaussian

    def halved(objective, x):
        law, repaired = right(objective, x)
        return law._replace(log_det=law.log_det / 2), repaired

    monkeypatch.setattr(laplace, "_gaussian", halved)
    # Another number of steps: else the program compiled before would run.
    found = fit(samplers.Laplace(max_iterations=499), GAUSSIAN).log_evidence.value
    assert abs(found - LOG_Z) > 0.5


def model(x, y):
    weight = numpyro.sample("weight", dist.Normal(0, 2).expand([2]).to_event(1))
    with numpyro.plate("row", len(y)):
        numpyro.sample("y", dist.Normal(x @ weight, 0.7), obs=y)


def test_the_evidence_of_a_conjugate_regression_is_the_closed_form():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(20, 2))
    y = x @ [1.0, -2.0] + 0.7 * rng.normal(size=20)
    draws = fit(samplers.Laplace(), ppl.from_numpyro(model, x, y))
    covariance = 4 * x @ x.T + 0.49 * np.eye(20)
    truth = -0.5 * (
        y @ np.linalg.solve(covariance, y) + np.linalg.slogdet(2 * np.pi * covariance)[1]
    )
    assert draws.log_evidence.value == pytest.approx(truth, abs=1e-3)


def test_weights_mend_a_skewed_law_and_the_jacobian_enters_once():
    """A gamma law on the positive axis; the mode of its logarithm is at ``log(shape)``."""
    shape = 3.0
    target = ppl.from_log_density(
        lambda x, a: (a - 1) * jnp.log(x) - x, jnp.ones(()), shape, support=constraints.positive
    )
    draws = fit(samplers.Laplace(), target, num_samples=20_000)
    assert float(draws.sampler.state.law.mean[0]) == pytest.approx(np.log(shape), abs=1e-3)
    # Stirling's formula, which is Laplace's for the factorial.
    stirling = shape * np.log(shape) - shape + 0.5 * np.log(2 * np.pi / shape)
    assert draws.history["log_evidence"][0, -1] == pytest.approx(stirling, abs=1e-3)
    evidence = draws.log_evidence
    assert abs(evidence.value - gammaln(shape)) < 5 * evidence.std_error
    assert abs(stirling - gammaln(shape)) > 5 * evidence.std_error  # without weights it is seen
    share = np.exp(draws.pooled_log_weights())
    assert np.sum(share * draws["x"]) == pytest.approx(shape, abs=0.1)


def peak(x, height):
    return height - jnp.sum(jnp.abs(x))


def tent(height):
    return ppl.from_log_density(peak, jnp.zeros(2), height)


def test_a_point_without_curvature_is_repaired_and_said():
    draws = fit(samplers.Laplace(), tent(0.0))
    assert any("in 2 direction(s) the log-density does not curve" in n for n in draws.run.notes)
    assert np.isfinite(draws["x"]).all()


@pytest.mark.slow
def test_a_search_that_is_cut_short_says_so():
    target = ppl.from_log_density(
        lambda x: -((1 - x[0]) ** 2) - 100 * (x[1] - x[0] ** 2) ** 2, jnp.zeros(2)
    )
    notes = fit(samplers.Laplace(max_iterations=2), target).run.notes
    assert any("did not converge" in note for note in notes)
    assert not any("converge" in note for note in fit(samplers.Laplace(), target).run.notes)


def test_an_error_of_weights_without_a_variance_is_not_to_be_believed():
    """Student's t with two degrees of freedom in five dimensions, by a Gaussian."""
    nu, d = 2.0, 5
    target = ppl.from_log_density(
        lambda x, nu: -(nu + x.size) / 2 * jnp.log1p(x @ x / nu), jnp.zeros(d), nu
    )
    draws = fit(samplers.Laplace(), target)
    truth = gammaln(nu / 2) - gammaln((nu + d) / 2) + d / 2 * np.log(nu * np.pi)
    log_z = draws.log_evidence
    assert log_z.value < truth - log_z.std_error  # as the note says
    assert any("are not to be believed, and log Z is likely low" in n for n in draws.run.notes)
    assert "note: the weights have no" in repr(draws)


def test_a_density_that_is_nowhere_finite_is_refused():
    with pytest.raises(TargetError, match="Laplace found no start with a finite log-density"):
        fit(samplers.Laplace(), tent(np.nan))


@jax.custom_vjp
def once(x):
    return -0.5 * jnp.sum(x**2)


once.defvjp(lambda x: (once(x), x), lambda x, g: (-g * x,))


def test_a_density_with_a_gradient_only_is_refused_with_an_alternative():
    target = ppl.from_log_density(once, jnp.zeros(2))
    with pytest.raises(TargetError, match=r"differentiates the log-density twice.*Pathfinder"):
        fit(samplers.Laplace(), target)


def test_new_data_compile_nothing(compilations):
    sampler = samplers.Laplace()
    fit(sampler, GAUSSIAN)
    other = ppl.from_log_density(quadratic, TEMPLATE, MEAN + 1, np.linalg.inv(COVARIANCE) * 2)
    with compilations() as count:
        draws = fit(sampler, other)
    assert count.compiled == []
    np.testing.assert_allclose((draws.sampler.state.law.mean - MEAN - 1) / SCALES, 0, atol=0.01)


def test_draws_have_the_law_they_are_scored_by():
    law = laplace.Gaussian(jnp.zeros(2), jnp.array([[2.0, 0.0], [1.0, 3.0]]), jnp.log(6.0))
    noise = random.normal(random.key(0), (5, 2))
    covariance = np.asarray(law.factor @ law.factor.T)
    x = np.asarray(law.move(noise))
    expected = [
        -0.5 * r @ np.linalg.solve(covariance, r)
        - 0.5 * np.linalg.slogdet(2 * np.pi * covariance)[1]
        for r in x
    ]
    np.testing.assert_allclose(law.log_density(noise), expected, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("sampler", [samplers.Laplace(), samplers.Pathfinder()], ids=["L", "P"])
def test_weighted_draws_of_a_real_regression_agree_with_its_reference(sampler):
    """Kid scores of posteriordb, three parameters, one of them positive."""
    module, data, reference = load("kidiq-kidscore_momiq")
    draws = fit(sampler, ppl.from_numpyro(module.model, **data), num_samples=40_000)
    assert weights.pareto_khat(draws.log_weights.ravel()) < 0.7
    plain = draws.resample(1, 8000)
    values = {name: x.reshape(4, 2000, *x.shape[2:]) for name, x in plain.values.items()}
    z, name, check = largest(z_scores(values, reference))
    assert z < LIMIT, (name, check)
