"""DecomposedDiffusion: the law of its rule."""

import numpy as np
import pytest

import gaussian_inverse as g
import ppl
import samplers


def decomposed(gamma=1.0, *, new_noise=False):
    def guided(kappa, _, weight):
        denoised = g.denoiser(kappa)
        gain = np.linalg.inv(np.eye(g.D) + gamma * g.A.T @ g.A) @ (gamma * g.A.T)
        moved = g.linear(gain).after(g.residual(denoised))
        return denoised + (moved if new_noise else moved.scaled(1 / weight))

    return guided


@pytest.fixture(scope="module")
def target():
    return g.problem()


def test_draws_have_its_law_and_not_that_of_its_twins(target):
    twins = {"noise of D' kept": decomposed(new_noise=True), "another gamma": decomposed(1.3)}
    sampler = samplers.DecomposedDiffusion(num_steps=20, batch_size=g.N)
    g.check_rule(sampler, target, decomposed(), twins)


@pytest.mark.slow  # 15 seconds beside other work
def test_it_takes_noiseless_data():
    posterior = g.problem(noise=0.0)
    sampler = samplers.DecomposedDiffusion(gamma=1e3, num_steps=20)
    x = ppl.sample(sampler, posterior, num_samples=4, progress=False)["x"][0]
    np.testing.assert_allclose(x @ g.A.T, np.broadcast_to(g.Y, (4, 2)), atol=0.02)
