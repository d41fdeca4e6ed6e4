"""DAPS: the law of its moves under a Gaussian prior, where they are affine."""

import jax.numpy as jnp
import numpy as np
import pytest

import gaussian_inverse as g
import ppl
import samplers

# Compiling takes longer than running here.
pytestmark = pytest.mark.usefixtures("unoptimized")


def daps(sampler, tau=g.NOISE, v=None, *, fresh=True):
    law = g.start(sampler.steps.start.kappa[0])
    for kappa, after, inner in g.levels_of(sampler):
        flow = g.IDENTITY
        for now, then in zip(inner, np.append(inner[1:], 0.0), strict=True):
            ratio = then / now
            euler = g.IDENTITY.scaled(ratio) + g.denoiser(now).scaled(1 - ratio)
            flow = euler.after(flow)
        variance = kappa**2 if v is None else kappa**2 * v / (kappa**2 + v)
        mean, covariance = g.given(variance, tau)
        noise = fresh * covariance + after**2 * np.eye(g.D)
        law = g.push(law, mean.after(flow), noise)
    return law


@pytest.fixture(scope="module")
def target():
    return g.problem()


LAWS = {
    "its own": (
        samplers.DAPS(num_steps=12, num_ode_steps=3, batch_size=g.N),
        daps,
        {"its mean only": lambda s: daps(s, fresh=False), "tau": lambda s: daps(s, 0.2)},
    ),
    "narrow": (
        samplers.DAPS(tau=0.2, data_variance=1.0, num_steps=12, num_ode_steps=3, batch_size=g.N),
        lambda s: daps(s, 0.2, 1.0),
        {"r = kappa": lambda s: daps(s, 0.2), "noise of the data": lambda s: daps(s, v=1.0)},
    ),
}


@pytest.mark.parametrize("name", LAWS)
def test_draws_have_the_law_of_the_rule_and_not_of_its_twins(name, target):
    sampler, law, twins = LAWS[name]
    g.check_law(sampler, target, law, twins)


@pytest.mark.slow
def test_langevin_steps_stand_in_for_the_exact_draw():
    """A likelihood without structure gives nearly the draws of the same one with it."""
    options = {"num_steps": 8, "batch_size": 2048, "step_size": 1e-2, "num_langevin_steps": 300}
    sampler = samplers.DAPS(**options, schedule=lambda p, n: np.geomspace(0.5, 0.2, n))
    g.check_without_structure(sampler, daps)


def test_a_tau_needs_a_linear_observation():
    plain = ppl.posterior(g.prior(), lambda x: -jnp.sum(x**2))
    with pytest.raises(ppl.TargetError, match=r"DAPS\(tau=...\) uses the structure of a linear"):
        ppl.sample(samplers.DAPS(tau=0.1), plain)


def test_problems_that_differ_in_data_share_one_program(compilations):
    problems = [g.problem(noise=noise, observation=y) for noise, y in ((0.3, g.Y), (0.5, 2 * g.Y))]
    options = {"num_samples": 8, "progress": False}
    ppl.sample(samplers.DAPS(num_steps=5), problems[0], **options)
    with compilations() as count:
        ppl.sample_batch(samplers.DAPS(num_steps=5), ppl.stack(problems), **options)
        other = samplers.DAPS(num_steps=5, schedule=samplers.LogSNRUniform())
        ppl.sample(other, problems[1], **options)
    assert not count.of("_draw")
