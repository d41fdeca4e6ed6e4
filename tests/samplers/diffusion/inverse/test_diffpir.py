"""DiffPIR: the law of its rule."""

import numpy as np
import pytest

import gaussian_inverse as g
import samplers
from samplers.diffusion.inverse.guided import Renoise

NOISE = g.NOISE**2 * np.eye(2)


def diffpir(penalty=8.0, noise=NOISE):
    def guided(kappa, _, weight):
        del weight
        denoised, spread = g.denoiser(kappa), kappa**2 / penalty
        gain = spread * g.A.T @ np.linalg.inv(spread * g.A @ g.A.T + noise)
        return denoised + g.linear(gain).after(g.residual(denoised))

    return guided


@pytest.fixture(scope="module")
def target():
    return g.problem()


def test_draws_have_its_law_and_not_that_of_its_twins(target):
    twins = {"twice the penalty": diffpir(16.0), "an unhalved square": diffpir(noise=2 * NOISE)}
    sampler = samplers.DiffPIR(renewed=0.7, num_steps=20, batch_size=g.N)
    g.check_rule(sampler, target, diffpir(), twins)


def test_a_share_of_one_renews_all_noise():
    grid, rows = Renoise(1.0).table(samplers.EDM(), samplers.EDMSchedule(), 5)
    assert np.all(rows.A[:, 0, 0] == 0)
    np.testing.assert_allclose(rows.S[:-1, 0, 0], grid.sigma[1:-1])
