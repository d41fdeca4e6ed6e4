"""Guidance moves draws toward the reward and does not say that they are those of the tilt."""

import jax.numpy as jnp
import numpy as np
import pytest
from jax import random

import ppl
import samplers as s
import two_modes


def draws(n=8000, **options):
    target = two_modes.tilted("reward")
    sampler = s.Guidance(num_steps=20, **options).resolve(target)
    return np.asarray(sampler.draw(random.key(0), target, n)[0])[:, 0]


def test_it_is_biased_also_where_tds_with_the_same_moves_is_not():
    x, truth = draws(16_000), two_modes.TILTS["reward"][2]
    squares = (x - x.mean()) ** 2
    error = squares.std() / np.sqrt(len(x))
    assert abs(x.mean() - truth.mean) < 0.1  # it goes the right way
    assert abs(squares.mean() - truth.variance) > 5 * error


def test_with_a_scale_of_zero_it_is_the_plain_solver():
    target = two_modes.tilted("reward")
    plain = s.DiffusionSampler(s.DPMSolverPP(tau=1.0), num_steps=20).resolve(target.prior)
    expected = plain.draw(random.key(0), target.prior, 8000)[0]
    np.testing.assert_allclose(draws(scale=0.0), np.asarray(expected)[:, 0], rtol=1e-3, atol=1e-5)


@pytest.mark.slow
def test_it_is_a_direct_sampler_without_weights_on_any_solver():
    target = two_modes.tilted("reward")
    sampler = s.Guidance(solver=s.DPMSolverPP(), num_steps=10)
    got = ppl.sample(sampler, target, num_samples=100, num_chains=2, progress=False)
    assert got["x"].shape == (2, 100, 1)
    assert got.log_weights is None
    assert got.log_evidence is None
    assert got.num_evaluations == (2 * 128 * 10, 2 * 128 * 10)  # batches of 128
    assert jnp.all(jnp.isfinite(got["x"]))
