"""PnP-DM: the law of its moves under a Gaussian prior, which tends to the posterior."""

import numpy as np
import pytest

import gaussian_inverse as g
import samplers

# Compiling takes longer than running here.
pytestmark = pytest.mark.usefixtures("unoptimized")


def pnpdm(sampler, noise=g.NOISE, *, ancestral=True):
    law = g.start(sampler.steps.start.kappa[0])
    for kappa, _, inner in g.levels_of(sampler):
        mean, covariance = g.given(kappa**2, noise)
        law = g.push(law, mean, covariance)
        for now, then in zip(inner, np.append(inner[1:], 0.0), strict=True):
            ratio = (then / now) ** 2
            step = g.IDENTITY.scaled(ratio) + g.denoiser(now).scaled(1 - ratio)
            law = g.push(law, step, ancestral * then**2 * (1 - ratio) * np.eye(g.D))
    return law


FIXED = {"rho_max": 0.5, "rho_min": 0.5, "num_steps": 30, "batch_size": g.N}


@pytest.fixture(scope="module")
def target():
    return g.problem()


def test_draws_have_its_law_and_not_that_of_its_twins(target):
    twins = {"flow": lambda s: pnpdm(s, ancestral=False), "noise": lambda s: pnpdm(s, 0.4)}
    g.check_law(samplers.PnPDM(**FIXED, num_inner_steps=8), target, pnpdm, twins)


def test_with_fixed_rho_tends_to_the_posterior_under_more_noise(target):
    """Noise of covariance ``noise^2 I + rho^2 A A'``: nearer as the inner steps get smaller."""
    truth, errors = g.posterior(extra=0.25), []
    for num in (10, 40, 160):
        law = pnpdm(samplers.PnPDM(**FIXED, num_inner_steps=num).resolve(target))
        assert g.bias(law, truth)[0] < 0.01
        errors.append(np.max(np.abs(law.covariance / truth.covariance - 1)))
    assert errors[0] > 3 * errors[1] > 9 * errors[2]
    assert abs(g.bias(law, truth)[1] - 1) < 0.02
    # That of the true noise is another law, and so is that of a rho too large.
    for other in (g.posterior(), g.posterior(extra=0.5)):
        assert np.max(np.abs(law.covariance / other.covariance - 1)) > 0.1


def test_it_tends_to_the_posterior_as_rho_falls(target):
    biases = []
    for rho in (0.8, 0.4, 0.1):
        options = {"rho_min": rho, "num_steps": 150, "num_inner_steps": 100}
        law = pnpdm(samplers.PnPDM(**options).resolve(target))
        biases.append(np.max(np.abs(law.covariance / g.posterior().covariance - 1)))
    assert biases[0] > 2 * biases[1] > 4 * biases[2]


@pytest.mark.slow
def test_langevin_steps_stand_in_for_the_exact_draw():
    """A likelihood without structure gives nearly the draws of the same one with it."""
    options = {"num_steps": 8, "batch_size": 2048, "step_size": 1e-2, "num_langevin_steps": 300}
    g.check_without_structure(samplers.PnPDM(**options, rho_max=0.5, rho_min=0.5), pnpdm)
