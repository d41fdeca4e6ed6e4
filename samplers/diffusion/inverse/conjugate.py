"""Conjugate gradients that stop where the matrix is not positive: Jacobians of networks are not.

Those of an exact denoiser are symmetric and positive; a network's are nearly so, and times kappa^2
the difference is no longer small. The steps end before the first direction of negative curvature,
as in Steihaug's method; otherwise this is the usual method, for pytrees, complex ones included.

References
----------
.. [1] Steihaug, "The conjugate gradient method and trust regions in large scale optimization",
   SIAM J. Numer. Anal. 20, 1983, doi:10.1137/0720042.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import PyTree

from ppl.linear_operators import inner, squared_norm


def conjugate_gradients(
    matvec: Callable[[PyTree], PyTree], rhs: PyTree, *, tolerance: Any, max_steps: int
) -> PyTree:
    """``x`` with ``matvec(x) = rhs``, from zero.

    Parameters
    ----------
    matvec
        Product with a symmetric matrix.
    rhs
        Right-hand side.
    tolerance
        Norm of the residual, relative to that of ``rhs``, at which the steps end.
    max_steps
        Most steps.
    """
    limit = tolerance**2 * squared_norm(rhs)
    along = lambda a, x, y: jax.tree.map(lambda x, y: y + a.astype(y.real.dtype) * x, x, y)

    def go(state: Any) -> Any:
        _, _, _, square, count, positive = state
        return positive & (square > limit) & (count < max_steps)

    def step(state: Any) -> Any:
        x, residual, direction, square, count, _ = state
        product = matvec(direction)
        curvature = inner(direction, product)
        positive = curvature > 0
        length = jnp.where(positive, square / jnp.where(positive, curvature, 1), 0)
        x, residual = along(length, direction, x), along(-length, product, residual)
        left = squared_norm(residual)
        direction = along(left / jnp.where(square > 0, square, 1), direction, residual)
        return x, residual, direction, left, count + 1, positive

    zero = jax.tree.map(jnp.zeros_like, rhs)
    start = (zero, rhs, rhs, squared_norm(rhs), 0, jnp.ones((), bool))
    return lax.while_loop(go, step, start)[0]
