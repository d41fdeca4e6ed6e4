"""Draws between the modes waver, and the filter leaves them out."""

import jax.numpy as jnp
import numpy as np
import pytest
from jax import random

import samplers
from samplers.diffusion.hallucination import draw_with_wavering, steadiest, wavering

SD = 0.05


def smooth(y, kappa):
    """Of two narrow modes at -1 and 1, but never steeper than a network is: it fills the gap."""
    return denoised(y, kappa, jnp.maximum(SD**2 + kappa**2, 0.3))


def exact(y, kappa):
    return denoised(y, kappa, SD**2 + kappa**2)


def denoised(y, kappa, width):
    center = jnp.tanh(y / width)
    return center + SD**2 / (SD**2 + kappa**2) * (y - center)


def run(denoiser, n=4000):
    prior = samplers.DiffusionPrior(samplers.EDM(), denoiser, jnp.zeros(()))
    sampler = samplers.DiffusionSampler(num_steps=40)
    y, values = draw_with_wavering(random.key(0), prior, n, sampler=sampler, last=10)
    same = sampler.on(prior.path).draw(random.key(0), prior, n)[0]
    np.testing.assert_allclose(y, same, rtol=1e-5, atol=1e-6)
    between = np.abs(np.abs(np.asarray(y)) - 1) > 6 * SD
    return between, np.asarray(values)


def test_draws_between_the_modes_are_left_out_and_nearly_all_others_kept():
    between, values = run(smooth)
    share = between.mean()
    assert 0.005 < share < 0.05
    keep = steadiest(values, 1 - 1.5 * share)
    assert np.mean(keep[between]) < 0.05  # the paper: more than 95 % go
    assert np.mean(keep[~between]) > 0.96  # and 96 % of the others stay
    keep_wrong = steadiest(-values, 1 - 1.5 * share)
    assert np.mean(keep_wrong[between]) > 0.9


def test_an_exact_denoiser_has_hardly_a_draw_between_the_modes():
    between, values = run(exact)
    assert between.mean() < 0.003
    assert np.median(values) < 1e-3


def test_wavering_is_the_mean_variance_of_the_last_values():
    denoised = np.random.default_rng(0).normal(size=(12, 5, 2, 3))
    expected = denoised[-4:].var(0).mean((1, 2))
    np.testing.assert_allclose(wavering(jnp.asarray(denoised), 4), expected, rtol=1e-5)
    assert steadiest(expected, 0.6).sum() == 3
    assert expected[steadiest(expected, 0.6)].max() <= np.sort(expected)[2]


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="last must lie between 2 and the 12 rows"):
        wavering(jnp.zeros((12, 3)), 13)
    with pytest.raises(ValueError, match="share must be a number above 0 and at most 1; got 0"):
        steadiest(np.zeros(3), 0.0)
