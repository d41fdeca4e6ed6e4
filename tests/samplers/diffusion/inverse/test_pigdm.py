"""PiGDM: the law of its rule, which is the same on any path and for any structure of positions."""

import jax.numpy as jnp
import numpy as np
import pytest
from jax import random

import gaussian_inverse as g
import ppl
import samplers

NOISE = g.NOISE**2 * np.eye(2)


def pigdm(v=1.0, power=2, noise=NOISE):
    def guided(kappa, _, weight):
        del weight
        denoised = g.denoiser(kappa)
        spread = kappa**2 * v / (kappa**2 + v)
        gain = denoised.matrix.T @ g.A.T @ np.linalg.inv(spread * g.A @ g.A.T + noise)
        return denoised + g.linear(kappa**power * gain).after(g.residual(denoised))

    return guided


@pytest.fixture(scope="module")
def target():
    return g.problem()


def test_draws_have_its_law_and_not_that_of_its_twins(target):
    twins = {"spread of other data": pigdm(v=4.0), "r^2 for kappa^2": pigdm(power=1)}
    g.check_rule(samplers.PiGDM(num_steps=20, batch_size=g.N), target, pigdm(), twins)


def test_the_law_does_not_depend_on_the_path_of_the_prior(target):
    """The same levels on a variance-preserving path, and the same noise: the same draws."""
    sampler = samplers.PiGDM(schedule=samplers.LogSNRUniform(), num_steps=20)
    preserving = samplers.VPLinear(t_max=0.7)
    ends = [float(preserving.level(np.asarray(t)).kappa) for t in (0.7, preserving.t_min)]
    draws = []
    for path in (preserving, samplers.EDM(t_max=ends[0], t_min=ends[1])):
        posterior = g.problem(path)
        drawn = sampler.resolve(posterior).draw(random.key(0), posterior, 8)[0]
        draws.append(np.asarray(drawn))
    assert np.ptp(draws[0], axis=0).min() > 0.1
    np.testing.assert_allclose(*draws, atol=2e-4)


def test_a_pytree_of_positions_is_one_point(target):
    """Split in two, the position gives the same draws: observations follow the structure."""

    def split(x):
        return {"a": x[:1], "b": x[1:].reshape(3, 1)}

    def join(x):
        return jnp.concatenate([x["a"], x["b"].reshape(3)])

    def denoiser(x, sigma):
        return split(target.prior.denoiser(join(x), sigma))

    prior = samplers.DiffusionPrior(target.prior.path, denoiser, split(jnp.zeros(4)))
    matrix = jnp.asarray(g.A, float)
    likelihood = ppl.LinearGaussian(
        lambda x: matrix @ join(x), jnp.asarray(g.Y), g.NOISE, template=split(jnp.zeros(4))
    )
    sampler = samplers.PiGDM(num_steps=8)
    drawn = [
        sampler.resolve(one).draw(random.key(0), one, 4)[0]
        for one in (target, ppl.posterior(prior, likelihood))
    ]
    np.testing.assert_allclose(
        np.asarray(drawn[0]), np.stack([join(x) for x in unstack(drawn[1])]), atol=1e-4
    )


def unstack(tree):
    return [{name: x[i] for name, x in tree.items()} for i in range(len(tree["a"]))]


def test_a_prior_that_has_no_noise_path_is_refused():
    plain = ppl.from_log_density(lambda x: -jnp.sum(x**2), jnp.zeros(2))
    with pytest.raises(ppl.TargetError, match="PiGDM needs 'denoise'"):
        ppl.sample(samplers.PiGDM(), plain)
    import models.targets.gaussian_mixture as mixture

    target = mixture.GaussianMixture([[0.0, 0.0], [1.0, 1.0]])
    posterior = ppl.posterior(target, ppl.LinearGaussian(jnp.eye(2), jnp.zeros(2), 0.1))
    with pytest.raises(ppl.TargetError, match="the prior is a GaussianMixture.*A denoiser makes"):
        ppl.sample(samplers.PiGDM(), posterior)


def test_it_leaves_a_bias_under_a_gaussian_prior_at_any_number_of_steps(target):
    for n in (50, 200, 1000):
        law = g.of_rule(samplers.PiGDM(num_steps=n).resolve(target), pigdm())
        assert g.bias(law, g.posterior())[0] > 0.1
