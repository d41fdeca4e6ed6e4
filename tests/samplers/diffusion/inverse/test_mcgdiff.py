"""MCGDiff on a Gaussian prior, where the law of the chain that is held is known.

It is a linear-Gaussian state-space model there, and the Kalman filter says what it tends to as
particles grow: moments and evidence.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import random
from scipy.stats import multivariate_normal

import gaussian_inverse as g
import ppl
import samplers
from agreement import t_limit, t_scores
from samplers.diffusion.inverse.mcgdiff import HeldChain
from samplers.smc import feynman_kac as fk

# Compiling takes longer than running here.
pytestmark = pytest.mark.usefixtures("unoptimized")

RUNS = 24
U, VALUES, VT = np.linalg.svd(g.A)
SEEN = VT[:2]
LOG_EVIDENCE = multivariate_normal.logpdf(
    g.Y, g.A @ g.MEAN, g.A @ g.COVARIANCE @ g.A.T + g.NOISE**2 * np.eye(2)
)


def updated(law, row, data, variance):
    """Law given one number, and its log-density."""
    total = row @ law.covariance @ row + variance
    gain, gap = law.covariance @ row / total, data - row @ law.mean
    log_density = -0.5 * (gap**2 / total + np.log(2 * np.pi * total))
    covariance = law.covariance - np.outer(gain, row @ law.covariance)
    return g.Gaussian(law.mean + gain * gap, covariance), log_density


def held(kappas, left):
    """What MCGDiff draws from: the chain, each coordinate seen once at its level; and log p(y)."""
    data, noise = (U.T @ g.Y) / VALUES, g.NOISE / VALUES
    law, log_z = g.start(kappas[0]), -np.sum(np.log(VALUES))
    index = [np.argmax(kappas <= np.sqrt(1 - left) * r * (1 + 1e-4)) for r in noise]
    for k, (kappa, after) in enumerate(zip(kappas, np.append(kappas[1:], 0.0), strict=True)):
        for i in range(2):
            if index[i] == k:
                law, more = updated(law, SEEN[i], data[i], noise[i] ** 2 - kappa**2)
                log_z = log_z + more
        ratio = (after / kappa) ** 2
        step = g.IDENTITY.scaled(ratio) + g.denoiser(kappa).scaled(1 - ratio)
        law = g.push(law, step, after**2 * (1 - ratio) * np.eye(g.D))
    return law, log_z


@pytest.fixture(scope="module")
def target():
    return g.problem()


@pytest.fixture(scope="module")
def clouds(target):
    sampler = samplers.MCGDiff(num_particles=2048, num_steps=30)
    drawn = ppl.sample(sampler, target, num_chains=RUNS, progress=False)
    return sampler.resolve(target), drawn


def estimates(drawn):
    """Weighted means and second moments of each run."""
    x, w = np.asarray(drawn["x"], np.float64), np.asarray(drawn.log_weights, np.float64)
    w = np.exp(w - w.max(1, keepdims=True))
    w = w / w.sum(1, keepdims=True)
    products = np.einsum("rn,rni,rnj->rij", w, x, x)[:, *np.triu_indices(g.D)]
    return np.concatenate([np.einsum("rn,rni->ri", w, x), products], axis=1)


def moments(law):
    return np.concatenate(
        [law.mean, (law.covariance + np.outer(law.mean, law.mean))[np.triu_indices(g.D)]]
    )


@pytest.mark.slow
def test_a_cloud_has_the_moments_of_the_chain_that_is_held(clouds):
    sampler, drawn = clouds
    limit = t_limit(g.NUM_CHECKS, RUNS - 1)
    found = estimates(drawn)
    law, _ = held(sampler.steps.start.kappa, 0.05)
    assert np.all(np.abs(t_scores(found, moments(law))) < limit)
    # Without weights, and at another noise, the moments are others.
    x = np.asarray(drawn["x"], np.float64)
    for wrong in (g.posterior(extra=0.3), g.Gaussian(g.MEAN, g.COVARIANCE)):
        assert np.any(np.abs(t_scores(found, moments(wrong))) > limit)
    assert x.shape == (RUNS, 2048, g.D)


def test_the_evidence_is_that_of_the_chain_with_all_constants(clouds):
    sampler, drawn = clouds
    _, log_z = held(sampler.steps.start.kappa, 0.05)
    found = np.exp(log_evidences(drawn) - log_z)
    limit = t_limit(g.NUM_CHECKS, RUNS - 1)
    assert abs(t_scores(found, 1.0)) < limit
    # One normalization too few or too many.
    for lost in (-0.5 * np.log(2 * np.pi), 0.5 * np.log(2 * np.pi)):
        assert abs(t_scores(np.exp(log_evidences(drawn) - log_z - lost), 1.0)) > limit


class HeldTooTightly(HeldChain):
    """A twin that is drawn to the data as if half of its noise were there, weighed as before."""

    def drawn(self, rng_key, mean, sd, c, v):
        return HeldChain.drawn(self, rng_key, mean, sd, c, v / 4)


def test_what_is_promised_does_not_change_the_evidence(target):
    """Any variance of the data will do, if weights and moves know of the same."""
    sampler = samplers.MCGDiff(num_particles=512, num_steps=30, data_variance=1.5)
    sampler = sampler.resolve(target)
    _, log_z = held(sampler.steps.start.kappa, 0.05)
    right = sampler.on_levels(target)
    parts = (right.problem, right.steps, right.left, right.data_variance)

    @eqx.filter_jit
    def ratios(model):
        run = lambda key: fk.run(key, model, model.steps, 512, fk.Resampler(0.5)).log_evidence
        return jnp.exp(jax.lax.map(run, random.split(random.key(0), RUNS)) - log_z)

    limit = t_limit(g.NUM_CHECKS, RUNS - 1)
    assert abs(t_scores(np.asarray(ratios(right), np.float64), 1.0)) < limit
    assert abs(t_scores(np.asarray(ratios(HeldTooTightly(*parts)), np.float64), 1.0)) > limit


def log_evidences(drawn):
    """One a run, from the history of the runs."""
    return np.asarray(drawn.history["log_evidence"][:, -1], np.float64)


def test_the_chain_that_is_held_tends_to_the_posterior_for_any_share_left(target):
    for left in (0.5, 0.05, 0.001):
        errors = []
        for num in (50, 400):
            sampler = samplers.MCGDiff(left=left, num_steps=num).resolve(target)
            law, log_z = held(sampler.steps.start.kappa, left)
            mean, ratio = g.bias(law, g.posterior())
            errors.append([mean, abs(ratio - 1), abs(log_z - LOG_EVIDENCE)])
        assert np.all(np.array(errors[1]) < [0.01, 0.03, 0.03])
        assert errors[1][1] < 0.4 * errors[0][1]


def test_the_levels_of_the_singular_values_are_on_the_grid(target):
    sampler = samplers.MCGDiff(num_steps=30).resolve(target)
    kappas = sampler.steps.start.kappa
    assert len(kappas) == 32
    for r in g.NOISE / VALUES:
        assert np.min(np.abs(kappas / (np.sqrt(0.95) * r) - 1)) < 1e-6


def test_it_names_what_its_operator_lacks():
    matrix = jnp.asarray(g.A, float)
    likelihood = ppl.LinearGaussian(
        lambda x: matrix @ x, jnp.asarray(g.Y), 0.3, template=jnp.zeros(4)
    )
    with pytest.raises(ppl.TargetError, match="MCGDiff works in the singular vectors.*has none"):
        ppl.sample(samplers.MCGDiff(), ppl.posterior(g.prior(), likelihood))


def test_noise_of_zero_and_likelihoods_without_structure_are_refused():
    with pytest.raises(ppl.TargetError, match="MCGDiff needs noise_std > 0"):
        ppl.sample(samplers.MCGDiff(), g.problem(noise=0.0))
    plain = ppl.posterior(g.prior(), lambda x: -jnp.sum(x**2))
    with pytest.raises(ppl.TargetError, match="MCGDiff uses the structure of a linear"):
        ppl.sample(samplers.MCGDiff(), plain)
