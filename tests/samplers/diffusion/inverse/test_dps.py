"""DPS follows the paper's algorithm, written in the paper's own coordinates."""

import numpy as np
import pytest
from jax import random

import gaussian_inverse as g
import samplers

PATH = samplers.VPLinear()


def by_the_paper(x, levels, zeta, *, squared=False):
    """Algorithm 1 with DDIM's step, in x_t = sqrt(ab) x_0 + sqrt(1 - ab) eps, in NumPy."""
    for level, alpha, sigma in levels:
        denoiser = g.denoiser(level.kappa)
        guess = (x / level.alpha) @ denoiser.matrix.T + denoiser.offset
        residual = g.Y - guess @ g.A.T
        # d guess / dx is J / alpha; the gradient of the norm is minus J' A' r / |r|.
        slope = -residual @ g.A @ denoiser.matrix / level.alpha
        if not squared:
            slope = slope / np.linalg.norm(residual, axis=1, keepdims=True)
        noise = (x - level.alpha * guess) / level.sigma
        x = alpha * guess + sigma * noise - zeta * slope
    return x


@pytest.fixture(scope="module")
def run():
    target = g.problem(PATH)
    sampler = samplers.DPS(zeta=0.3, solver=samplers.DDIM(), num_steps=25).resolve(target)
    drawn = np.asarray(sampler.draw(random.key(3), target, 64)[0], np.float64)
    grid, rows = sampler.table
    begin = grid.sigma[0] * np.asarray(target.prior.noise(random.split(random.key(3))[0], 64))
    steps = []
    for i in range(len(rows.F)):
        level = PATH.level(grid.t[i])
        steps.append((level, grid.alpha[i + 1], grid.sigma[i + 1]))
    return drawn, begin.astype(np.float64), steps


def test_a_run_without_noise_is_that_of_the_paper(run):
    drawn, begin, steps = run
    np.testing.assert_allclose(drawn, by_the_paper(begin, steps, 0.3), atol=2e-3)


@pytest.mark.parametrize("twin", [{"zeta": 0.6}, {"zeta": 0.3, "squared": True}, {"zeta": -0.3}])
def test_twins_are_told_apart(run, twin):
    drawn, begin, steps = run
    assert np.max(np.abs(drawn - by_the_paper(begin, steps, **twin))) > 0.05
