"""A momentum of unit length: energy is kept to second order, steps go back, metrics turn spaces."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax, random

import ppl
from samplers.mcmc.isokinetic import flatten, integrator, require_two_dimensions
from samplers.mcmc.mclmc import MCLMC
from samplers.mcmc.metrics import Diagonal

pytestmark = pytest.mark.usefixtures("x64", "unoptimized")

SCALES = np.array([0.5, 1.0, 3.0])


def quartic(x):
    return -0.5 * jnp.sum(x**2) - 0.1 * jnp.sum(x**4)


TARGET = lambda: ppl.from_log_density(quartic, jnp.zeros(3))
STRETCHED = lambda: ppl.from_log_density(lambda x: quartic(x / SCALES), jnp.zeros(3))
START, MOMENTUM = np.array([0.4, -0.9, 0.3]), np.array([2.0, -1.0, 2.0]) / 3


def state_at(target, metric, position, momentum):
    kernel = MCLMC(metric=metric).resolve(target)
    state = kernel.init(random.key(0), target, jnp.asarray(position))
    return kernel.metric, state, flatten(kernel.metric, state, jnp.asarray(momentum))


def path(target, metric, position, momentum, step_size, num_steps):
    """State after some steps, and the error of the energy on the way."""
    metric, state, flat = state_at(target, metric, position, momentum)
    step = integrator(target, metric, state)

    def one(flat, _):
        after, kinetic = step(flat, jnp.asarray(step_size))
        return after, (kinetic - after.logdensity + flat.logdensity, after.momentum)

    end, (errors, momenta) = jax.jit(lambda flat: lax.scan(one, flat, None, num_steps))(flat)
    return end, errors, momenta


def energy_error(step_size):
    _, errors, _ = path(TARGET(), Diagonal(), START, MOMENTUM, step_size, round(2 / step_size))
    return float(np.abs(np.cumsum(errors)).max())


def test_the_energy_error_falls_by_the_square_of_the_step():
    order = np.log2(energy_error(0.1) / energy_error(0.05))
    assert abs(order - 2) < 0.3
    assert energy_error(0.05) < 1e-3


def test_the_momentum_stays_of_unit_length():
    *_, momenta = path(TARGET(), Diagonal(), START, MOMENTUM, 0.1, 30)
    np.testing.assert_allclose(np.linalg.norm(momenta, axis=1), 1, atol=1e-12)


def test_steps_go_back_when_the_momentum_turns():
    end, _, _ = path(TARGET(), Diagonal(), START, MOMENTUM, 0.1, 20)
    back, _, _ = path(TARGET(), Diagonal(), end.position, -end.momentum, 0.1, 20)
    np.testing.assert_allclose(back.position, START, atol=1e-10)
    np.testing.assert_allclose(back.momentum, -MOMENTUM, atol=1e-10)
    wrong, _, _ = path(TARGET(), Diagonal(), end.position, end.momentum, 0.1, 20)
    assert np.abs(wrong.position - START).max() > 0.1


def test_a_metric_is_a_change_of_variables():
    plain, errors, _ = path(TARGET(), Diagonal(), START, MOMENTUM, 0.1, 20)
    metric = Diagonal(SCALES)
    turned, others, _ = path(STRETCHED(), metric, SCALES * START, MOMENTUM, 0.1, 20)
    np.testing.assert_allclose(turned.position / SCALES, plain.position, atol=1e-10)
    np.testing.assert_allclose(turned.momentum, plain.momentum, atol=1e-10)
    np.testing.assert_allclose(others, errors, atol=1e-10)
    other, _, _ = path(STRETCHED(), Diagonal(), SCALES * START, MOMENTUM, 0.1, 20)
    assert np.abs(other.position / SCALES - plain.position).max() > 0.01


def test_a_step_is_as_long_as_the_dimension_says():
    flat_target = ppl.from_log_density(lambda x: 0.0 * jnp.sum(x), jnp.zeros(3))
    end, _, _ = path(flat_target, Diagonal(), START, MOMENTUM, 0.1, 1)
    np.testing.assert_allclose(end.position, START + 0.1 * np.sqrt(3) * MOMENTUM, atol=1e-12)


def test_an_infinite_density_is_a_divergence():
    target = ppl.from_log_density(
        lambda x: jnp.where(x[0] > 0.45, jnp.inf, 0.0) + 0 * x[1], jnp.zeros(2)
    )
    metric, state, flat = state_at(target, Diagonal(), np.array([0.4, 0.0]), np.array([1.0, 0.0]))
    after, _ = integrator(target, metric, state)(flat, jnp.asarray(0.2))
    assert np.isnan(after.logdensity)


def test_one_dimension_is_refused():
    with pytest.raises(ppl.TargetError, match="needs at least two dimensions"):
        require_two_dimensions(MCLMC(), ppl.from_log_density(lambda x: -(x**2), jnp.zeros(())))
