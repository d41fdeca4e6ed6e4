"""Sliced Wasserstein distance between two sets of draws.

    SW_p(P, Q)^p = E_u  W_p(u.X, u.Y)^p,   u uniform on the unit sphere                  ([1])

Each one-dimensional distance is exact, from sorted draws. It is a distance in the draws' unit: read
it against the same number for two halves of a reference set, which is its null distribution (it is
positive, of order ``1 / sqrt(n)``, for equal laws). Limits: differences in few of many directions
are averaged away (a shift ``a`` in one of d directions counts as about ``a / sqrt(d)``), and the
value carries Monte Carlo error of the directions.

References
----------
.. [1] N. Bonneel, J. Rabin, G. Peyre, H. Pfister, "Sliced and Radon Wasserstein barycenters of
   measures", Journal of Mathematical Imaging and Vision 51, 2015.
"""

import numpy as np
from jaxtyping import Float

MIN_DRAWS = 10


def sliced_wasserstein(
    x: Float[np.ndarray, "n d"],
    y: Float[np.ndarray, "m d"],
    *,
    p: float | int = 2,
    num_projections: int = 200,
    seed: int = 0,
) -> float:
    """Sliced Wasserstein distance of order ``p``, in the draws' unit.

    Raises
    ------
    ValueError
        For fewer than 10 draws in a set, draws that are not finite, or ``p`` below 1.
    """
    if min(len(x), len(y)) < MIN_DRAWS:
        raise ValueError(
            f"the sliced Wasserstein distance needs {MIN_DRAWS} draws in each set; got {len(x)} "
            f"and {len(y)}"
        )
    if p < 1:
        raise ValueError(f"p must be at least 1; got {p}")
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise ValueError("the sliced Wasserstein distance needs finite draws")
    directions = np.random.default_rng(seed).normal(size=(num_projections, x.shape[1]))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    total = 0.0
    for direction in directions:
        total += _wasserstein(np.sort(x @ direction), np.sort(y @ direction), p)
    return float((total / num_projections) ** (1 / p))


def _wasserstein(x: Float[np.ndarray, " n"], y: Float[np.ndarray, " m"], p: float | int) -> float:
    """``W_p^p`` of two sorted sets: the integral over levels of the quantiles' distance."""
    levels = np.union1d(np.arange(len(x) + 1) / len(x), np.arange(len(y) + 1) / len(y))
    middle = (levels[1:] + levels[:-1]) / 2
    i = np.minimum((middle * len(x)).astype(int), len(x) - 1)
    j = np.minimum((middle * len(y)).astype(int), len(y) - 1)
    return float((np.diff(levels) * np.abs(x[i] - y[j]) ** p).sum())
