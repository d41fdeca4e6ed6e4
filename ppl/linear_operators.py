"""Linear operators: their adjoint, the test that they have one, and their singular values.

    <A x, w> = <x, A^H w>   for all x and w

An operator is a function of one position that is linear, or a Lineax operator. Its adjoint is
derived by transposition. JAX transposes without conjugating, so that over complex numbers

    A^H w = conj(A^T conj(w))

An operator from real positions to complex observations is linear over the reals: its inner
products are real parts, and its adjoint is the real part of A^H w.

Equations with an operator are solved exactly and at once where its singular value decomposition is
at hand,

    A = U diag(s) V^H,   V^H V = V V^H = I

in whatever basis makes it cheap: single pixels for a mask, Fourier modes for a periodic blur, a
matrix for anything small.
"""

import math
from typing import Any, Protocol, runtime_checkable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import random
from jax.core import Tracer
from jaxtyping import Array, ArrayLike, PRNGKeyArray, PyTree
from lineax import AbstractLinearOperator, MatrixLinearOperator

from ppl.energy import TargetError
from ppl.template import as_template, describe

LARGEST_DENSE = 1024  # rows or columns of a matrix that is decomposed without being asked to
DOT_TOLERANCE = {"float32": 1e-4, "float64": 1e-9}


@runtime_checkable
class SVD(Protocol):
    """Singular value decomposition of an operator, as functions. An operator may be its own.

    Coefficients have the shape of ``singular_values``: one for each coordinate of the position,
    with the value zero where the operator is blind.
    """

    @property
    def singular_values(self) -> Array:
        """Nonnegative, of any shape that suits the basis."""
        ...

    def v(self, coefficients: Array) -> PyTree:
        """Position with these coefficients: ``V c``."""
        ...

    def v_adjoint(self, position: PyTree) -> Array:
        """Coefficients of a position: ``V^H x``, the inverse of `v`."""
        ...

    def u(self, coefficients: Array) -> PyTree:
        """Observation ``U c``; coefficients of the singular value zero do not enter."""
        ...

    def u_adjoint(self, observation: PyTree) -> Array:
        """Coefficients ``U^H y``, zero where the singular value is zero."""
        ...


class Dense(eqx.Module):
    """A matrix as an operator on arrays of any shape, with its decomposition: made by `dense`."""

    matrix: Array
    left: Array  # (rows, rank)
    values: Array  # (columns,)
    right: Array  # (columns, columns)
    template: jax.ShapeDtypeStruct

    def __call__(self, position: Array) -> Array:
        return self.matrix @ position.reshape(-1)

    @property
    def singular_values(self) -> Array:
        """One for each column of the matrix."""
        return self.values

    def v(self, coefficients: Array) -> Array:
        return (self.right @ coefficients).reshape(self.template.shape)

    def v_adjoint(self, position: Array) -> Array:
        return self.right.conj().T @ position.reshape(-1)

    def u(self, coefficients: Array) -> Array:
        return self.left @ coefficients[: self.left.shape[1]]

    def u_adjoint(self, observation: Array) -> Array:
        known = self.left.conj().T @ observation
        known = jnp.where(self.values[: known.size] > 0, known, 0)
        return jnp.zeros(self.values.shape, known.dtype).at[: known.size].set(known)


def dense(matrix: ArrayLike, template: Any = None) -> Dense:
    """Operator of a matrix (rows, columns), decomposed once.

    Parameters
    ----------
    matrix
        Its columns are the entries of a position, in the order of ``reshape(-1)``.
    template
        The position, if it is no vector: an image, say.
    """
    matrix = jnp.asarray(matrix)
    if not jnp.issubdtype(matrix.dtype, jnp.inexact):
        matrix = matrix.astype(float)
    rows, columns = matrix.shape
    shape = as_template(jnp.zeros(columns, matrix.dtype) if template is None else template)
    if math.prod(shape.shape) != columns:
        raise TargetError(
            f"a matrix with {columns} columns does not act on {describe(shape)}, which has "
            f"{math.prod(shape.shape)} entries"
        )
    if jnp.iscomplexobj(matrix) and jnp.issubdtype(shape.dtype, jnp.floating):
        raise TargetError(
            "a complex matrix acts on complex positions; for real ones stack its parts: "
            "jnp.concatenate([matrix.real, matrix.imag])"
        )
    left, values, right = jnp.linalg.svd(matrix, full_matrices=True)
    # What is zero but for rounding would otherwise be divided by.
    values = jnp.where(
        values > values[0] * max(rows, columns) * jnp.finfo(values.dtype).eps, values, 0
    )
    padded = jnp.zeros(columns, values.dtype).at[: values.size].set(values)
    return Dense(matrix, left[:, : values.size], padded, right.conj().T, shape)


def as_operator(operator: Any, template: Any) -> tuple[Any, PyTree[jax.ShapeDtypeStruct]]:
    """An operator, and the position it acts on.

    Raises
    ------
    TargetError
        If it is none, or does not say what it acts on.
    """
    if isinstance(operator, MatrixLinearOperator) and _is_small(operator.matrix):
        operator = operator.matrix
    if isinstance(operator, np.ndarray | jax.Array):
        if operator.ndim != 2:
            raise TargetError(
                "an operator is a matrix (rows, columns), a Lineax operator or a linear function; "
                f"got an array of shape {operator.shape}"
            )
        if not _is_small(operator):
            operator = MatrixLinearOperator(jnp.asarray(operator))
        else:
            operator = dense(operator, template)
    if isinstance(operator, AbstractLinearOperator):
        return operator, as_template(operator.in_structure())
    if not callable(operator):
        raise TargetError(
            "an operator is a matrix (rows, columns), a Lineax operator or a linear function; got "
            f"{operator!r}"
        )
    template = getattr(operator, "template", None) if template is None else template
    if template is None:
        raise TargetError(
            f"{name_of(operator)} does not say what it acts on: write LinearGaussian(..., "
            "template=jnp.zeros((64, 64))), one position of the prior"
        )
    return operator, as_template(template)


def _is_small(matrix: Any) -> bool:
    return max(matrix.shape) <= LARGEST_DENSE


def name_of(operator: Any) -> str:
    """What to call an operator in a message."""
    return getattr(operator, "__name__", type(operator).__name__)


def apply(operator: Any, position: PyTree) -> PyTree:
    """``A x``."""
    if isinstance(operator, AbstractLinearOperator):
        return operator.mv(position)
    return operator(position)


def apply_adjoint(operator: Any, template: PyTree, observation: PyTree) -> PyTree:
    """``A^H w``: the operator's own ``adjoint``, or by transposition."""
    if hasattr(operator, "adjoint"):
        return operator.adjoint(observation)
    conj = lambda tree: jax.tree.map(jnp.conj, tree)
    forward = lambda x: apply(operator, x)
    shape = jax.eval_shape(forward, template)
    cotangent = jax.tree.map(lambda w, leaf: jnp.conj(w).astype(leaf.dtype), observation, shape)
    return conj(jax.linear_transpose(forward, template)(cotangent)[0])


def require_linear(operator: Any, template: PyTree) -> None:
    """Raise unless the operator passes the dot test with its adjoint.

    Skipped where the operator's numbers are not known yet, inside a compiled function.

    Raises
    ------
    TargetError
        If it cannot be transposed, does not send zero to zero, or fails the test.
    """
    instead = (
        "; for a nonlinear operator write the likelihood as a function: ppl.posterior(prior, "
        "log_likelihood, observation)"
    )
    try:
        at_zero, gap = _dot_test(operator, template, random.key(0))
    except Exception as error:  # what JAX says of an operation that it cannot transpose varies
        raise TargetError(
            f"{name_of(operator)} is declared linear but has no adjoint by transposition "
            f"({_first_line(error)}){instead}"
        ) from error
    if isinstance(gap, Tracer):
        return
    if at_zero > 0:
        raise TargetError(
            f"{name_of(operator)} is declared linear but maps zero to an observation of norm "
            f"{at_zero:.3g}; subtract its value at zero from operator and observation{instead}"
        )
    dtype = jnp.result_type(*(leaf.dtype for leaf in jax.tree.leaves(template)))
    limit = DOT_TOLERANCE.get(jnp.finfo(dtype).dtype.name, 1e-2)
    if not gap < limit:
        raise TargetError(
            f"{name_of(operator)} is declared linear but fails the dot test: <A x, w> and "
            f"<x, adjoint(w)> differ by {gap:.2g} of their size, where {limit:.0e} is allowed. It "
            f"is nonlinear or its adjoint is another operator's{instead}"
        )


@eqx.filter_jit
def _dot_test(operator: Any, template: PyTree, rng_key: PRNGKeyArray) -> tuple[Array, Array]:
    """Norm of A 0, and the gap of the two inner products."""
    key_x, key_w = random.split(rng_key)
    x = normal_like(key_x, template)
    y = apply(operator, x)
    scale = jnp.sqrt(squared_norm(y) / max(1, sum(leaf.size for leaf in jax.tree.leaves(y))))
    # Along A x the product is large, so that a wrong factor shows; the noise looks elsewhere.
    w = jax.tree.map(lambda a, z: a + scale * z, y, normal_like(key_w, y))
    pulled = apply_adjoint(operator, template, w)
    left, right = inner(y, w), inner(x, pulled)
    at_zero = apply(
        operator, jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), template)
    )
    # A x may be what large terms leave of each other, and rounding is in proportion to these.
    products = squared_norm(y) * squared_norm(w), squared_norm(x) * squared_norm(pulled)
    norms = jnp.sqrt(jnp.maximum(*products))
    return jnp.sqrt(squared_norm(at_zero)), jnp.where(
        left == right, 0.0, jnp.abs(left - right) / norms
    )


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


# Vectors that are pytrees, real or complex ------------------------------------------------------


def inner(a: PyTree, b: PyTree) -> Array:
    """Real part of the inner product."""
    parts = jax.tree.map(lambda x, y: jnp.sum(x.real * y.real + x.imag * y.imag), a, b)
    return sum(jax.tree.leaves(parts), jnp.zeros(()))


def squared_norm(a: PyTree) -> Array:
    """Sum of the squared moduli of all entries."""
    return inner(a, a)


def normal_like(rng_key: PRNGKeyArray, tree: PyTree) -> PyTree:
    """Standard normals; where complex, in the real and in the imaginary part."""
    leaves, structure = jax.tree.flatten(tree)
    draws = [
        _normal(key, leaf)
        for key, leaf in zip(random.split(rng_key, len(leaves)), leaves, strict=True)
    ]
    return jax.tree.unflatten(structure, draws)


def _normal(rng_key: PRNGKeyArray, leaf: Any) -> Array:
    if not jnp.issubdtype(leaf.dtype, jnp.complexfloating):
        return random.normal(rng_key, leaf.shape, leaf.dtype)
    parts = random.normal(rng_key, (2, *leaf.shape), jnp.finfo(leaf.dtype).dtype)
    return (parts[0] + 1j * parts[1]).astype(leaf.dtype)


def num_reals(tree: PyTree) -> int:
    """Number of real numbers in it; a complex one is two."""
    count = lambda leaf: (
        math.prod(leaf.shape) * (1 + jnp.issubdtype(leaf.dtype, jnp.complexfloating))
    )
    return sum(count(leaf) for leaf in jax.tree.leaves(tree))
