"""Kernel Stein discrepancy: how far draws are from a target, by the target's score alone.

    KSD^2 = E u(X, X'),   X, X' ~ draws, s = grad log p                              ([1], eq. 5)
    u(x, y) = s(x).s(y) k + s(x).grad_y k + s(y).grad_x k + tr grad_x grad_y k
    k(x, y) = (1 + |x - y|^2)^(-1/2)                                  inverse multiquadric ([2])

Under the target ``E u(x, Y) = 0`` for every x, whatever its normalizer: no reference is needed, and
agreement of chains with each other counts nothing. With this kernel, in any dimension and for
targets with Gaussian-like tails, KSD goes to zero only when the draws converge to the target [2].
Draws are whitened by their own covariance first, shrunk toward its diagonal by ``10 d / n``, so
that the value has no unit.

Null distribution: a degenerate U-statistic, whose law is that of ``sum_ij e_i e_j W_i W_j u_ij``
over i != j with random signs e (the wild bootstrap [3]). Draws of a chain are thinned to their
effective number and the signs keep some memory along each chain, for what correlation is left.
Weights enter as they are: their unknown constant scales statistic and bootstrap alike. From some
ten dimensions on, unless n is thousands, the test rejects exact draws less often than its level,
because whitening fits the very draws that it tests.

Limits: **a mode that no draw has found is not seen**: around the draws the score of one mode is
that of the whole target, and a wrong share of draws between modes that are far apart is hardly seen
either. Power fades with the dimension for errors in a few of many coordinates. The gradient of a
heavy-tailed density vanishes far out, where draws then count little. Particles of an SMC run share
ancestors: for them the p-value is too small.

Differences from the papers: [1] bootstraps by multinomial counts, [3] uses V-statistics; with signs
both give one test, as the diagonal is the same in statistic and bootstrap.

References
----------
.. [1] Q. Liu, J. D. Lee, M. I. Jordan, "A kernelized Stein discrepancy for goodness-of-fit tests",
   ICML 2016, arXiv:1602.03253.
.. [2] J. Gorham, L. Mackey, "Measuring sample quality with kernels", ICML 2017, arXiv:1703.01717.
.. [3] K. Chwialkowski, H. Strathmann, A. Gretton, "A kernel test of goodness of fit", ICML 2016,
   arXiv:1602.02964.
"""

import math
from typing import Any, NamedTuple

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Float, PyTree

from ppl import weights
from ppl.diagnostics.thinning import effective_draws, every
from ppl.draws import Draws
from ppl.energy import TargetError
from ppl.precision import full_precision
from ppl.template import require_template

MIN_DRAWS = 50  # effective: with fewer the bootstrap does not keep its level
MAX_DRAWS = 2000
BLOCK = 256
MEMORY = 0.75  # correlation of the signs of neighbors in a thinned chain

type Rows = Float[np.ndarray, "n d"]


class SteinTest(NamedTuple):
    """Result of `stein_test`.

    Attributes
    ----------
    discrepancy
        ``sqrt(V)``, for comparing samplers on one target; it falls as ``1 / sqrt(n)`` for exact
        draws, so compare equal numbers of draws.
    u_statistic
        Unbiased estimate of KSD^2 (for independent draws); it may be negative.
    p_value
        At least ``1 / (num_bootstrap + 1)``.
    num_draws
        Draws used, after thinning.
    thinned_by
        Steps between draws used.
    """

    discrepancy: float
    u_statistic: float
    p_value: float
    num_draws: int
    thinned_by: int


@full_precision
def stein_test(
    draws: Any,
    target: Any = None,
    *,
    log_weights: Any = None,
    seed: int = 0,
    num_bootstrap: int = 499,
    max_draws: int = MAX_DRAWS,
) -> SteinTest:
    """Test whether draws come from a target, by its score: ``jax.grad(target.log_density)``.

    Costs one gradient a draw used and ``O(n^2 d)``, in blocks.

    Parameters
    ----------
    draws
        `Draws`; or positions of the target, unconstrained, a pytree like ``target.template`` with
        leading axes ``(chain, draw)``, or ``(draw,)`` for independent ones.
    target
        What they should be draws of; by default ``draws.target``.
    log_weights
        Of positions: unnormalized, of the shape of the leading axes. `Draws` bring their own.
    seed
        Of the bootstrap.
    num_bootstrap
        Sets of signs.
    max_draws
        More draws are thinned to this number.

    Raises
    ------
    TargetError
        If the target has no gradient, or does not fit the draws.
    ValueError
        For fewer than 50 effective draws, draws where the gradient is not finite, resampled draws.
    """
    positions, target, log_weights, is_chain = opened(draws, target, log_weights)
    x = flat_rows(positions, 2)
    if x.shape[0] * x.shape[1] < MIN_DRAWS:
        raise _too_few(x.shape[0] * x.shape[1])
    step = 1
    if is_chain and log_weights is None:
        effective = effective_draws(x)
        if effective < MIN_DRAWS:
            raise _too_few(effective)
        step = max(1, math.ceil(x.shape[0] * x.shape[1] / effective))
    step = max(step, math.ceil(x.shape[0] * x.shape[1] / max_draws))
    kept = every(x, min(step, x.shape[1]))
    x = x[:, kept]
    score = scores(target, jax.tree.map(lambda leaf: leaf[:, kept], positions))
    generator = np.random.default_rng(seed)
    memory = MEMORY if is_chain and step > 1 else 0.0
    signs = _signs(generator, x.shape[0], x.shape[1], num_bootstrap, memory)
    shares = np.full(len(score), 1 / len(score))
    if log_weights is not None:
        shares = weights.probabilities(np.asarray(log_weights, np.float64)[:, kept].ravel())
        size = 1 / max(float((shares**2).sum()), 1e-300)
        if size < MIN_DRAWS:
            raise _too_few(size)
    u, v, null = _statistics(x.reshape(score.shape), score, shares, signs)
    p_value = (1 + int((null >= u).sum())) / (1 + num_bootstrap)
    # Without the diagonal the shares add up to 1 - sum W^2 only.
    unbiased = u / (1 - float((shares**2).sum()))
    return SteinTest(math.sqrt(max(v, 0.0)), unbiased, p_value, len(score), step)


def _too_few(number: float | int) -> ValueError:
    return ValueError(
        f"the Stein test needs {MIN_DRAWS} effective draws; there are {number:.0f}. Run longer, "
        "or improve the weights"
    )


def opened(draws: Any, target: Any, log_weights: Any) -> tuple[PyTree, Any, Any, bool]:
    """Positions (chain, draw, ...), target, log weights (chain, draw), and if they are chains."""
    if isinstance(draws, Draws):
        if log_weights is not None:
            raise ValueError("draws bring their own log_weights: leave the argument out")
        if draws.run.kind == "resampled":
            raise ValueError(
                "resampled draws hold copies, and the Stein test would take them for "
                "agreement; test the draws they came from"
            )
        target = draws.target if target is None else target
        if target is None:
            raise TargetError("these draws do not know their target: write draws.attach(target)")
        _require_gradient(target)
        pooled = None if draws.log_weights is None else draws.pooled_log_weights()
        positions = jax.tree.map(np.asarray, draws.positions)
        one = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[2:], x.dtype), positions)
        require_template(one, target.template, "the position of these draws")
        return positions, target, pooled, draws.run.kind == "markov"
    if target is None:
        raise TargetError("the Stein test of bare positions needs target=...")
    _require_gradient(target)
    positions = jax.tree.map(np.asarray, draws)
    if jax.tree.structure(positions) != jax.tree.structure(target.template):
        require_template(positions, target.template, "the draws")
    lead = np.ndim(jax.tree.leaves(positions)[0]) - len(jax.tree.leaves(target.template)[0].shape)
    if lead not in (1, 2):
        raise ValueError(
            "positions need leading axes (draw,) or (chain, draw) before the shape "
            f"{jax.tree.leaves(target.template)[0].shape} of one; got an array of shape "
            f"{np.shape(jax.tree.leaves(positions)[0])}"
        )
    one = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[lead:], x.dtype), positions)
    require_template(one, target.template, "the draws")
    is_chain = lead == 2
    if not is_chain:
        positions = jax.tree.map(lambda x: x[None], positions)
        log_weights = None if log_weights is None else np.asarray(log_weights)[None]
    sizes = jax.tree.leaves(positions)[0].shape[:2]
    if log_weights is not None and np.shape(log_weights) != sizes:
        raise ValueError(
            f"log_weights need the leading axes {sizes} of the draws; got {np.shape(log_weights)}"
        )
    return positions, target, log_weights, is_chain


def _require_gradient(target: Any) -> None:
    if "gradient" not in target.offers:
        raise TargetError(f"the Stein test needs the target's score: {target.refuse('gradient')}")


def flat_rows(positions: PyTree, lead: int) -> np.ndarray:
    """Positions as vectors in float64, in JAX's order of leaves; leading axes are kept."""
    leaves = [np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(positions)]
    return np.concatenate([x.reshape(*x.shape[:lead], -1) for x in leaves], axis=-1)


# The score ------------------------------------------------------------------------------------


@eqx.filter_jit
def _gradients(target: Any, positions: PyTree) -> PyTree:
    return jax.vmap(jax.grad(target.log_density))(positions)


def scores(target: Any, positions: PyTree) -> Rows:
    """Gradients of the log-density at positions (chain, draw, ...), as rows, chains in order.

    Batches have one size, so that one compilation serves every number of draws.
    """
    flat = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), positions)
    total = jax.tree.leaves(flat)[0].shape[0]
    parts = []
    for start in range(0, total, BLOCK):
        rows = np.minimum(np.arange(start, start + BLOCK), total - 1)
        part = _gradients(target, jax.tree.map(lambda x: x[rows], flat))  # noqa: B023
        parts.append(flat_rows(part, 1))
    result = np.concatenate(parts)[:total]
    broken = int((~np.isfinite(result)).any(axis=1).sum())
    if broken:
        raise ValueError(
            f"the gradient of the log-density is not finite at {broken} of {total} draws, so the "
            "Stein test cannot judge them"
        )
    return result


# Dependence -----------------------------------------------------------------------------------


def _signs(
    generator: np.random.Generator, chains: int, draws: int, num: int, memory: float
) -> Float[np.ndarray, "n num"]:
    """Signs that change with probability ``(1 - memory) / 2`` from draw to draw of a chain."""
    change = np.where(generator.random((chains, draws, num)) < (1 - memory) / 2, -1.0, 1.0)
    change[:, 0] = np.where(generator.random((chains, num)) < 0.5, -1.0, 1.0)
    return np.cumprod(change, axis=1).reshape(chains * draws, num)


# The statistic --------------------------------------------------------------------------------


def _statistics(
    x: Rows, score: Rows, shares: Float[np.ndarray, " n"], signs: Float[np.ndarray, "n num"]
) -> tuple[float, float, Float[np.ndarray, " num"]]:
    """U and V sums and the bootstrap's U sums; rows of the kernel matrix in blocks."""
    z, s = whitened(x, score, shares)
    size = len(z)
    weighted = signs * shares[:, None]
    u, v, null = 0.0, 0.0, np.zeros(signs.shape[1])
    for start in range(0, size, BLOCK):
        rows = np.arange(start, min(start + BLOCK, size))
        block = stein_kernel(z[rows], s[rows], z, s)
        diagonal = block[rows - start, rows]
        v += float(shares[rows] ** 2 @ diagonal)
        block[rows - start, rows] = 0.0
        u += float(shares[rows] @ block @ shares)
        null += (weighted[rows] * (block @ weighted)).sum(axis=0)
    return u, u + v, null


def whitened(x: Rows, score: Rows, shares: Float[np.ndarray, " n"]) -> tuple[Rows, Rows]:
    """Draws ``z = L^-1 (x - m)`` and their scores ``L' s``, with ``L L'`` the draws' covariance.

    The covariance is shrunk toward its diagonal by ``10 d / n``: fitted in full it would hide in
    many dimensions what the test looks for.
    """
    d = x.shape[1]
    centered = x - shares @ x
    variance = shares @ centered**2
    sd = np.sqrt(np.where(variance > 0, variance, 1.0))
    z, s = centered / sd, score * sd
    shrink = 10 * d * float((shares**2).sum())  # 10 d / n, with n the effective number
    if d == 1 or shrink >= 1:
        return z, s
    correlation = (z * shares[:, None]).T @ z
    factor = np.linalg.cholesky((1 - shrink) * correlation + shrink * np.eye(d))
    return np.linalg.solve(factor, z.T).T, s @ factor


def stein_kernel(
    x: Rows, s: Rows, y: Float[np.ndarray, "m d"], t: Float[np.ndarray, "m d"]
) -> Float[np.ndarray, "n m"]:
    """``u(x_i, y_j)`` for scores s of x and t of y.

    With ``q = 1 + r^2``: k = q^(-1/2), grad_x k = -(x - y) q^(-3/2) = -grad_y k, and
    tr grad_x grad_y k = d q^(-3/2) - 3 r^2 q^(-5/2).
    """
    squares, others = (x**2).sum(axis=1), (y**2).sum(axis=1)
    r2 = np.maximum(squares[:, None] + others[None] - 2 * x @ y.T, 0.0)
    # (s - t).(x - y), from products of matrices only
    cross = (s * x).sum(axis=1)[:, None] + (t * y).sum(axis=1)[None] - s @ y.T - x @ t.T
    q = 1 + r2
    k = 1 / np.sqrt(q)
    return k * (s @ t.T + (cross + x.shape[1] - 3 * r2 / q) / q)
