"""Draws of a diffusion prior have its law, by every kind of solver, and compile once."""

import jax.numpy as jnp
import numpy as np
import pytest
from jax import random

import ppl
import samplers as s
import toy_mixture
from samplers.diffusion.sampler import DiffusionSampler

pytestmark = pytest.mark.usefixtures("unoptimized")


def prior(path=None):
    return s.DiffusionPrior(path or s.EDM(t_max=20.0), toy_mixture.denoise, jnp.zeros(2))


def test_a_new_schedule_and_a_new_solver_of_one_shape_compile_nothing(compilations):
    target = prior()
    draw = lambda sampler: ppl.sample(sampler, target, num_samples=100, progress=False)
    draw(DiffusionSampler(s.DDIM(), num_steps=10))
    with compilations() as count:
        draw(DiffusionSampler(s.DDIM(), s.LogSNRUniform(), num_steps=10))
        draw(DiffusionSampler(s.DPMSolverPP(1), s.Arctan(), num_steps=10))
    assert not count.of("_draw")


@pytest.mark.parametrize("batch", [{}, {"batch_size": 10}])
def test_evaluations_are_counted_of_whole_batches(batch):
    sampler = DiffusionSampler(s.Heun(), num_steps=10, **batch)
    draws = ppl.sample(sampler, prior(), num_samples=10, progress=False)
    calls = batch.get("batch_size", 16) * 19
    assert draws.num_evaluations[1] == calls
    assert f"0 log-likelihood and {calls:,} denoiser evaluations" in repr(draws)


def test_few_draws_cost_few_and_are_the_first_of_many():
    sampler = DiffusionSampler(s.DDPM(), num_steps=5)
    few, many = (ppl.sample(sampler, prior(), num_samples=n, progress=False) for n in (20, 1100))
    assert few.num_evaluations[1] == 32 * 5
    assert many.num_evaluations[1] == 2 * 1024 * 5
    np.testing.assert_allclose(few["x"], many["x"][:, :20], atol=1e-5)


def test_a_stochastic_solver_is_refused_where_noises_do_not_add_up():
    with pytest.raises(ValueError, match="the noises of two levels of PFGM do not add up"):
        DiffusionSampler(s.DDPM()).on(s.PFGM())
    DiffusionSampler(s.DPMSolverPP()).on(s.PFGM())


def test_student_noise_leads_back_to_the_data():
    """The denoiser of two points under the noise of PFGM++, in closed form."""
    points, degrees = jnp.array([[1.0, 0.0], [-1.0, 0.5]]), 4.0

    def denoiser(y, sigma):
        squares = jnp.sum((y - points) ** 2, axis=1)
        log_parts = -(2 + degrees) / 2 * jnp.log1p(squares / (degrees * sigma**2))
        weights = jnp.exp(log_parts - jnp.max(log_parts))
        return weights @ points / weights.sum()

    def share(path):
        target = s.DiffusionPrior(path, denoiser, jnp.zeros(2))
        sampler = DiffusionSampler(s.Heun(), num_steps=40).on(path)
        draws = np.asarray(sampler.draw(random.key(0), target, 4000)[0])
        nearest = np.argmin(np.sum((draws[:, None] - points) ** 2, axis=2), axis=1)
        assert np.max(np.abs(draws - points[nearest])) < 1e-2
        return nearest.mean()

    assert abs(share(s.PFGM(num_augmented=degrees)) - 0.5) < 4.9 * 0.5 / np.sqrt(4000)
