"""What the library runs it runs in full float32, unless the user has set a precision."""

import jax
import jax.numpy as jnp
import pytest

import ppl
from samplers.mcmc.random_walk import RandomWalk


def seen_while_sampling():
    seen = set()

    def log_density(x):
        seen.add(jax.config.jax_default_matmul_precision)
        return -0.5 * jnp.sum(x**2)

    target = ppl.from_log_density(log_density, jnp.zeros(2))
    seen.clear()
    ppl.sample(RandomWalk(step_size=1.0), target, 0, 5, 1, 0, progress=False).to_arviz()
    return seen


def test_products_are_in_full_precision(unoptimized):
    assert seen_while_sampling() == {"highest"}
    assert jax.config.jax_default_matmul_precision is None


@pytest.mark.parametrize("chosen", ["tensorfloat32"])
def test_the_user_s_choice_stands(chosen, unoptimized):
    with jax.default_matmul_precision(chosen):
        assert seen_while_sampling() == {chosen}
