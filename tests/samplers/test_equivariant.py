"""What comes back turns as the cloud does, to rounding; where particles have names it does not."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
from jax import random

import samplers

pytestmark = pytest.mark.usefixtures("unoptimized")
PARTICLES, SPACE = 4, 2
BASIS = scipy.linalg.helmert(PARTICLES)


def made(shape, **options):
    options = {"num_particles": PARTICLES, "num_space": SPACE, "width": 8, "depth": 2} | options
    return samplers.EGNN(random.key(0), shape, **options)


def awake(network):
    """The same without the zeros that it begins with."""
    return jax.tree.map(lambda w: w + 0.1 if eqx.is_array(w) else w, network)


def moved(cloud, how):
    """The cloud under a symmetry, and what that makes of a displacement."""
    angle = 0.7
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    linear = {
        "turned": lambda x: x @ turn.T,
        "reflected": lambda x: x * np.array([-1.0, 1.0]),
        "in another order": lambda x: x[np.array([2, 0, 3, 1])],
        "shifted": lambda x: x,
    }[how]
    shift = np.array([0.3, -1.0]) * (how == "shifted")
    return jnp.asarray(linear(cloud) + shift, jnp.float32), linear


@pytest.fixture(scope="module")
def networks():
    """On particles, on coordinates in a row, and one that tells particles from each other."""
    cloud, free = awake(made((PARTICLES, SPACE))), awake(made(((PARTICLES - 1) * SPACE,)))
    names = jnp.arange(PARTICLES * SPACE, dtype=jnp.float32).reshape(PARTICLES, SPACE)
    call = eqx.filter_jit(lambda network, x: network(x, 0.3))
    in_a_row = lambda x: BASIS.T @ call(free, (BASIS @ x).ravel()).reshape(-1, SPACE)
    named = lambda x: call(cloud, x + 0.1 * names)
    return {"cloud": lambda x: call(cloud, x), "free": in_a_row, "named": named}


@pytest.mark.parametrize("how", ["turned", "reflected", "in another order", "shifted"])
@pytest.mark.parametrize("kind", ["cloud", "free", "named"])
def test_what_comes_back_turns_as_the_cloud(networks, kind, how):
    x = np.asarray(2 * random.normal(random.key(1), (PARTICLES, SPACE)))
    after, of_displacement = moved(x, how)
    here, there = (np.asarray(networks[kind](jnp.asarray(x))) for x in (x, after))
    assert np.abs(here).max() > 0.01
    assert np.abs(here.mean(axis=0)).max() < 1e-5
    off = np.abs(there - of_displacement(here)).max()
    assert off < 1e-5 or (kind == "named" and how != "shifted" and off > 1e-3)


def test_both_ways_to_say_where_particles_are_agree(networks):
    x = random.normal(random.key(1), (PARTICLES, SPACE))
    np.testing.assert_allclose(networks["cloud"](x), networks["free"](x), atol=1e-5)


def test_it_begins_as_zero_and_has_a_slope_where_all_particles_are_in_one_place():
    network = made((PARTICLES, SPACE))
    slope = eqx.filter_jit(jax.jacfwd(lambda x, network: network(x, 0.3)))
    point = jnp.zeros((PARTICLES, SPACE))
    assert not network(point + jnp.arange(SPACE), 0.3).any()
    assert not slope(point, network).any()
    assert np.isfinite(slope(point, awake(network))).all()
    assert slope(point, awake(network)).any()


def test_shapes_that_are_no_cloud_are_refused():
    with pytest.raises(ValueError, match=r"has 8 coordinates, or 6 where its mean is zero; got"):
        made((7,))
    with pytest.raises(ValueError, match="num_particles must be an integer, at least 2"):
        made((8,), num_particles=1)
    with pytest.raises(ValueError, match=r"this EGNN takes one point of shape \(8,\)"):
        made((8,))(jnp.zeros(6), 0.3)
