"""Adam on all numbers in a row is Adam on each array."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from samplers import descent

LEARNED = {"w": jnp.array([[1.0, -2.0], [0.5, 3.0]]), "b": jnp.array([0.1, -0.3]), "name": "net"}
GRADIENT = {"w": jnp.array([[0.2, -1.0], [4.0, 0.0]]), "b": jnp.array([1.0, -2.0]), "name": None}
FINE, POOR = jnp.array(True), jnp.array(False)  # noqa: FBT003


def two_steps(clip):
    learned, optimizer = LEARNED, descent.adam(jnp.float32(0.1), 10, clip)
    moments = descent.begin(optimizer, learned)
    for scale in (1.0, 0.1):
        gradient = jax.tree.map(lambda x: scale * x, GRADIENT)  # noqa: B023
        learned, moments = descent.descend(optimizer, gradient, moments, learned, FINE)
    return learned


def test_two_steps_are_those_of_optax_on_each_array():
    """The twin does not clip: its second step has the moments of a larger first gradient."""
    arrays = eqx.filter(LEARNED, eqx.is_array)
    plain = optax.chain(
        optax.clip_by_global_norm(1.0), optax.adam(optax.cosine_decay_schedule(0.1, 10))
    )
    state = plain.init(arrays)
    for scale in (1.0, 0.1):
        gradient = jax.tree.map(lambda x: scale * x, eqx.filter(GRADIENT, eqx.is_array))  # noqa: B023
        updates, state = plain.update(gradient, state, arrays)
        arrays = optax.apply_updates(arrays, updates)
    ours, twin = two_steps(1.0), two_steps(None)
    assert ours["name"] == "net"
    for name in ("w", "b"):
        np.testing.assert_allclose(ours[name], arrays[name], rtol=1e-6)
        assert np.max(np.abs(twin[name] - arrays[name])) > 1e-3


@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf])
def test_a_gradient_that_is_not_finite_moves_nothing(bad):
    gradient = GRADIENT | {"b": jnp.array([1.0, bad])}
    assert descent.is_finite(jnp.float32(1.0), GRADIENT)
    assert not descent.is_finite(jnp.float32(1.0), gradient)
    assert not descent.is_finite(jnp.float32(bad), GRADIENT)
    optimizer = descent.adam(jnp.float32(0.1), 10)
    moments = descent.begin(optimizer, LEARNED)
    same, kept = descent.descend(optimizer, gradient, moments, LEARNED, POOR)
    assert eqx.tree_equal(same, LEARNED)
    assert eqx.tree_equal(kept, moments)
