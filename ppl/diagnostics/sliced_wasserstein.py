"""Sliced Wasserstein distance between two sets of draws.

    SW_p(P, Q)^p = E_u  W_p(u.X, u.Y)^p,   u uniform on the unit sphere                  ([1])

Each one-dimensional distance is exact, from sorted draws. It is a distance in the draws' unit,
and positive, of order ``1 / sqrt(n)``, for equal laws. Null distribution: by permuting the labels,
which is exact for independent draws; chains are thinned for it. Limits: differences in few of many
directions are averaged away (a shift ``a`` in one of d directions counts as ``a / sqrt(d)``), and
the value carries Monte Carlo error of the directions.

References
----------
.. [1] N. Bonneel, J. Rabin, G. Peyre, H. Pfister, "Sliced and Radon Wasserstein barycenters of
   measures", Journal of Mathematical Imaging and Vision 51, 2015.
"""

from typing import Any

import numpy as np
from jaxtyping import Float

from ppl.diagnostics.thinning import two_sets

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
    directions = _directions(np.random.default_rng(seed), num_projections, x.shape[1])
    return _mean_over_directions(x @ directions, y @ directions, p)


def sliced_wasserstein_test(
    x: Any,
    y: Any,
    *,
    p: float | int = 2,
    num_projections: int = 50,
    seed: int = 0,
    num_permutations: int = 199,
) -> tuple[float, float]:
    """Distance and its permutation p-value, at least ``1 / (num_permutations + 1)``.

    ``x`` and ``y`` are independent rows ``(n, d)``, chains ``(chain, draw, d)``, or `Draws`; chains
    are thinned until their draws are nearly independent.

    Raises
    ------
    ValueError
        As `sliced_wasserstein`, for what is left after thinning; and for weighted or resampled
        draws.
    """
    x, y = two_sets(x, y, "sliced Wasserstein test", MIN_DRAWS)
    if p < 1:
        raise ValueError(f"p must be at least 1; got {p}")
    generator = np.random.default_rng(seed)
    both = np.concatenate([x, y]) @ _directions(generator, num_projections, x.shape[1])
    found = _mean_over_directions(both[: len(x)], both[len(x) :], p)
    above = 0
    for _ in range(num_permutations):
        moved = generator.permutation(both)
        # Rounding must not make an equal permutation smaller.
        above += _mean_over_directions(moved[: len(x)], moved[len(x) :], p) >= found * (1 - 1e-12)
    return found, (1 + above) / (1 + num_permutations)


def _directions(generator: np.random.Generator, num: int, d: int) -> Float[np.ndarray, "d num"]:
    """Columns uniform on the unit sphere."""
    directions = generator.normal(size=(num, d))
    return (directions / np.linalg.norm(directions, axis=1, keepdims=True)).T


def _mean_over_directions(
    x: Float[np.ndarray, "n num"], y: Float[np.ndarray, "m num"], p: float | int
) -> float:
    x, y = np.sort(x, axis=0), np.sort(y, axis=0)
    total = sum(_wasserstein(one, other, p) for one, other in zip(x.T, y.T, strict=True))
    return float((total / x.shape[1]) ** (1 / p))


def _wasserstein(x: Float[np.ndarray, " n"], y: Float[np.ndarray, " m"], p: float | int) -> float:
    """``W_p^p`` of two sorted sets: the integral over levels of the quantiles' distance."""
    if len(x) == len(y):
        return float((np.abs(x - y) ** p).mean())
    levels = np.union1d(np.arange(len(x) + 1) / len(x), np.arange(len(y) + 1) / len(y))
    middle = (levels[1:] + levels[:-1]) / 2
    i = np.minimum((middle * len(x)).astype(int), len(x) - 1)
    j = np.minimum((middle * len(y)).astype(int), len(y) - 1)
    return float((np.diff(levels) * np.abs(x[i] - y[j]) ** p).sum())
