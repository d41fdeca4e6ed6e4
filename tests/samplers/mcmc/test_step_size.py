"""Dual averaging finds the step size of a known acceptance curve."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array

import ppl
from ppl.sampler import Record
from samplers.mcmc.random_walk import RandomWalk
from samplers.mcmc.step_size import StepSizeWarmUp

TARGET = ppl.from_log_density(lambda x: -0.5 * x**2, jnp.zeros(()))
WARMUP = StepSizeWarmUp(target_acceptance=jnp.asarray(0.3))


class Rates(NamedTuple):
    acceptance_rate: Array


def tuned(step_size: float, num_steps: int = 500) -> float:
    """Step size found where two chains accept ``exp(-h)`` and ``exp(-3 h)`` of their proposals."""

    @jax.jit
    def warm_up(kernel):
        def one(carry, _):
            kernel, adaptation = carry
            rates = jnp.exp(-jnp.array([1.0, 3.0]) * kernel.step_size)
            return WARMUP.step(kernel, adaptation, Rates(rates)), None

        carry = WARMUP.init(jax.random.key(0), TARGET, kernel, ())
        (kernel, adaptation), _ = jax.lax.scan(one, carry, length=num_steps)
        count, yes = jnp.int32(num_steps), jnp.bool_(True)
        return WARMUP.end_chunk(
            jax.random.key(0), TARGET, kernel, adaptation, (), Record(0, {}), count, yes, yes
        )[0]

    return float(warm_up(RandomWalk(step_size)).step_size)


@pytest.mark.parametrize("start", [1e-3, 1.0, 100.0])
def test_the_mean_acceptance_over_chains_is_as_asked(start):
    found = tuned(start)
    np.testing.assert_allclose(np.mean(np.exp(-np.array([1, 3]) * found)), 0.3, atol=0.02)


def test_there_is_one_window():
    assert WARMUP.windows(700) == [700]
    assert WARMUP.windows(0) == []


@pytest.mark.usefixtures("x64")
def test_a_float32_kernel_stays_float32_where_float64_is_enabled():
    kernel = RandomWalk(jnp.asarray(0.1, jnp.float32))
    kernel, adaptation = WARMUP.init(jax.random.key(0), TARGET, kernel, ())
    updated, later = WARMUP.step(kernel, adaptation, Rates(jnp.full(4, 0.5, jnp.float32)))
    assert updated.step_size.dtype == jnp.float32
    assert [x.dtype for x in later] == [x.dtype for x in adaptation]
