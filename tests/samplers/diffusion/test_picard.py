"""Rows that run at the same time give what rows give one after the other, in fewer sweeps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import random

import samplers as s
import toy_mixture
from samplers.diffusion.integrate import integrate
from samplers.diffusion.picard import picard
from samplers.diffusion.rules import DualFast

pytestmark = pytest.mark.usefixtures("unoptimized")

PATH = s.EDM(t_min=toy_mixture.LAST, t_max=toy_mixture.FIRST)


def denoiser(x, level):
    return toy_mixture.denoise(x, level.sigma)


@pytest.mark.parametrize("window", [None, 8])
@pytest.mark.parametrize("solver", [s.DDPM(), s.UniPC(3)], ids=lambda x: type(x).__name__)
def test_picard_is_the_sequential_run(solver, window, x64):
    rows = solver.table(PATH, s.LogSNRUniform(), 48).rows
    x, key = jnp.asarray(toy_mixture.starts()), random.key(0)
    one = integrate(key, denoiser, x, rows)[0].x
    run = jax.jit(lambda x: picard(key, denoiser, x, rows, window=window, tolerance=1e-6))
    state, sweeps = run(x)
    np.testing.assert_allclose(state.x, one, atol=1e-5)
    assert sweeps < 40


def test_one_row_a_sweep_is_exact_whatever_the_tolerance(x64):
    rows = s.Heun().table(PATH, s.LogSNRUniform(), 6).rows
    x, key = jnp.asarray(toy_mixture.starts()), random.key(0)
    state, sweeps = picard(key, denoiser, x, rows, tolerance=0.0)
    np.testing.assert_allclose(state.x, integrate(key, denoiser, x, rows)[0].x, rtol=1e-12)
    assert sweeps <= len(rows.F)


@pytest.mark.slow
def test_a_sampler_takes_it_by_its_window():
    prior = s.DiffusionPrior(PATH, toy_mixture.denoise, jnp.zeros(2))
    draws = [
        s.DiffusionSampler(num_steps=12, window=window).on(PATH).draw(random.key(0), prior, 32)[0]
        for window in (None, 6)
    ]
    np.testing.assert_allclose(*draws, atol=1e-3)


def test_a_rule_with_a_memory_is_refused():
    rows = s.DDIM().table(PATH, s.LogSNRUniform(), 4).rows
    with pytest.raises(ValueError, match="DualFast remembers something from row to row"):
        picard(random.key(0), denoiser, jnp.ones((2, 2)), rows, rule=DualFast(PATH))
