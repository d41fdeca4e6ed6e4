"""Conjugate gradients solve positive equations and stop where a matrix is not positive."""

import jax.numpy as jnp
import numpy as np

from samplers.diffusion.inverse.conjugate import conjugate_gradients


def test_a_complex_pytree_is_solved_for():
    rng = np.random.default_rng(0)
    root = rng.normal(size=(5, 5)) + 1j * rng.normal(size=(5, 5))
    matrix = root @ root.conj().T + np.eye(5)
    truth = rng.normal(size=5) + 1j * rng.normal(size=5)

    def matvec(x):
        y = jnp.asarray(matrix) @ jnp.concatenate([x["a"], x["b"]])
        return {"a": y[:2], "b": y[2:]}

    rhs = jnp.asarray(matrix @ truth)
    x = conjugate_gradients(
        matvec, {"a": rhs[:2], "b": rhs[2:]}, tolerance=jnp.asarray(1e-5), max_steps=50
    )
    np.testing.assert_allclose(np.concatenate([x["a"], x["b"]]), truth, atol=1e-3)


def test_steps_end_before_negative_curvature():
    """Of diag(2, -1) only what the first steps reach: finite, and downhill."""
    diagonal = jnp.array([2.0, -1.0])
    matvec = lambda x: diagonal * x
    first = conjugate_gradients(
        matvec, jnp.array([1.0, 0.1]), tolerance=jnp.asarray(1e-6), max_steps=9
    )
    assert np.all(np.isfinite(first))
    assert np.sign(first).tolist() == [1, 1]
    none = conjugate_gradients(
        matvec, jnp.array([0.1, 1.0]), tolerance=jnp.asarray(1e-6), max_steps=9
    )
    assert none.tolist() == [0, 0]


def test_nothing_is_asked_of_a_right_hand_side_of_zero():
    x = conjugate_gradients(lambda x: x, jnp.zeros(3), tolerance=jnp.asarray(1e-6), max_steps=5)
    assert x.tolist() == [0, 0, 0]
