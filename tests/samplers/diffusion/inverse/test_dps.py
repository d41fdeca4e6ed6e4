"""DPS follows the paper's algorithm, written in the paper's own coordinates."""

import numpy as np
import pytest
from jax import random

import gaussian_inverse as g
import ppl
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


def likelihood(factor=1.0):
    def guided(kappa, _, weight):
        del weight
        denoised = g.denoiser(kappa)
        gain = factor * kappa**2 * denoised.matrix.T @ g.A.T / g.NOISE**2
        return denoised + g.linear(gain).after(g.residual(denoised))

    return guided


@pytest.fixture(scope="module")
def target():
    return g.problem()


def test_draws_have_its_law_and_not_that_of_its_twins(target):
    twins = {"half": likelihood(0.5), "the other sign": likelihood(-0.1)}
    sampler = samplers.DPS(guidance="likelihood", num_steps=200, batch_size=g.N)
    g.check_rule(sampler, target, likelihood(), twins)


def test_moves_after_the_step_need_a_solver_of_one_value(target):
    with pytest.raises(ValueError, match="DPS moves the point after each step.*DPMSolverPP"):
        ppl.sample(samplers.DPS(solver=samplers.DPMSolverPP(2)), target)
    samplers.DPS(guidance="likelihood", solver=samplers.DPMSolverPP(2)).resolve(target)


def test_guidance_is_one_of_two():
    with pytest.raises(ValueError, match="guidance must be 'norm' or 'likelihood'; got 'both'"):
        samplers.DPS(guidance="both")
