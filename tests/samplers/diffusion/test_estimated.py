"""A denoiser that is a random estimate has a key of its own at every row."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import random

import ppl
import samplers as s
from samplers.diffusion.estimated import along, vectorized
from samplers.diffusion.integrate import integrate


def test_each_row_has_an_estimate_of_its_own():
    """A solver without noise is linear: the draw is the one with these estimates filled in."""
    rows = s.DDIM().table(s.EDM(t_min=0.1, t_max=2.0), s.EDMSchedule(), 5).rows
    key, x = random.key(0), jnp.ones(3)
    found = along(key, lambda key, x, level: random.normal(key, x.shape), x, rows)
    _, key_estimates = random.split(key)
    keys = jax.vmap(random.fold_in, (None, 0))(key_estimates, jnp.arange(5))
    known = jax.vmap(lambda key: random.normal(key, (3,)))(keys)
    denoiser = lambda x, level: known[jnp.argmin(jnp.abs(level.t - rows.level.t))]
    expected = integrate(key, denoiser, x[None], rows)[0].x[0]
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    same = jnp.broadcast_to(known[0], known.shape)  # as one estimate for all rows would give
    denoiser = lambda x, level: same[0]
    assert np.abs(integrate(key, denoiser, x[None], rows)[0].x[0] - found).max() > 0.1


def test_positions_become_vectors_and_vectors_positions():
    target = ppl.from_log_density(
        lambda x: -jnp.sum(x["b"] ** 2) - x["a"], {"a": 0.0, "b": np.ones(2)}
    )
    log_density, like, position = vectorized(target)
    assert like.shape == (3,)
    np.testing.assert_allclose(log_density(jnp.array([1.0, 2.0, 3.0])), -14.0)
    np.testing.assert_allclose(position(jnp.array([1.0, 2.0, 3.0]))["b"], [2.0, 3.0])
