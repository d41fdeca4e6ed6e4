"""Pathfinder starts: in the bulk, independent, through the driver."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import random

import ppl
from samplers.mcmc.pathfinder_start import PathfinderStart
from samplers.mcmc.random_walk import RandomWalk

pytestmark = pytest.mark.usefixtures("unoptimized")


def far_gaussian():
    """N(50, diag(1, 4)) as a dict position: jittered starts are 25 to 50 sd away."""
    return ppl.from_log_density(
        lambda p: -0.5 * (p["a"] - 50.0) ** 2 - 0.5 * ((p["b"] - 50.0) / 2) ** 2,
        {"a": jnp.zeros(()), "b": jnp.zeros(())},
    )


def test_starts_are_draws_of_a_gaussian_target():
    starts = PathfinderStart()(random.key(0), far_gaussian(), 64)
    for name, sd in (("a", 1.0), ("b", 2.0)):
        z = (np.asarray(starts[name]) - 50.0) / sd
        # Exact for a Gaussian once L-BFGS has seen both directions; 4.9 s.e. of mean and variance.
        assert abs(z.mean()) < 4.9 / np.sqrt(64)
        assert abs((z**2).mean() - 1) < 4.9 * np.sqrt(2 / 64)


def test_a_jittered_start_is_caught_by_that_check():
    from ppl.keys import chain_keys
    from ppl.start import jittered

    positions, _, _ = jax.jit(lambda k: jittered(k, far_gaussian(), with_gradient=True))(
        chain_keys(random.key(0), 64)
    )
    assert abs(np.mean(positions["a"]) - 50.0) > 4.9 / np.sqrt(64)


def test_the_driver_starts_chains_there():
    draws = ppl.sample(
        RandomWalk(step_size=1e-4), far_gaussian(), 1, 1, 4, 0, PathfinderStart(), progress=False
    )
    assert np.all(abs(draws["a"] - 50.0) < 6)
    assert len(np.unique(draws["a"])) == 4


@pytest.mark.slow
def test_a_path_without_a_finite_draw_starts_where_it_ended():
    """Beyond 1 there is nothing: some draws of a Gaussian at the wall fall there."""
    target = ppl.from_log_density(
        lambda x: jnp.where(jnp.all(x < 1), -0.5 * jnp.sum((x - 0.9) ** 2), -jnp.inf), jnp.zeros(2)
    )
    starts = np.asarray(PathfinderStart()(random.key(3), target, 64))
    assert np.isfinite(starts).all()
    assert (starts < 1).all()
