import jax
import jax.numpy as jnp
import pytest


def test_arrays_are_float32_by_default():
    assert jnp.ones(()).dtype == jnp.float32


def test_x64_makes_them_float64(x64):
    assert jnp.ones(()).dtype == jnp.float64
    assert jax.random.normal(jax.random.key(0)).dtype == jnp.float64


def test_strict_promotion_refuses_mixed_dtypes(strict_promotion):
    with pytest.raises(jax.dtypes.TypePromotionError):
        jnp.ones((), jnp.float32) + jnp.ones((), jnp.int32)


def test_strict_promotion_refuses_mixed_ranks(strict_promotion):
    with pytest.raises(ValueError, match="rank_promotion"):
        jnp.ones(2) + jnp.ones((2, 2))


def test_unoptimized_programs_give_the_same_answer(unoptimized):
    assert jax.config.read("jax_disable_most_optimizations")
    x = jnp.linspace(0.0, 1.0, 5)
    assert jnp.allclose(jax.jit(lambda x: jnp.sum(x**3))(x), 1.5625)
