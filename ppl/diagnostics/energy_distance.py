"""Energy distance between two sets of draws, with a permutation test.

    D^2 = 2 E|X - Y| - E|X - X'| - E|Y - Y'|                                     ([1], eq. 5)

Zero exactly when the two laws are equal (finite means assumed), in any dimension. The estimate is
the V-statistic, which is never negative. Null distribution: by permuting the labels, so that the
p-value is exact for independent draws at any size; chains are thinned for it, or the test would
reject too often. Limits: time and memory grow with the square of the number of draws,
power fades in high dimension, and coordinates of large scale dominate: standardize them.

References
----------
.. [1] G. J. Szekely, M. L. Rizzo, "Energy statistics: a class of statistics based on distances",
   Journal of Statistical Planning and Inference 143, 2013.
"""

from typing import Any

import numpy as np
from jaxtyping import Float

from ppl.diagnostics.thinning import two_sets

MIN_DRAWS = 10
MAX_DRAWS = 5000


def energy_distance(x: Float[np.ndarray, "n d"], y: Float[np.ndarray, "m d"]) -> float:
    """Compute the squared energy distance ``D^2`` of two sets of draws, in their unit.

    Raises
    ------
    ValueError
        For fewer than 10 draws in a set, more than 5,000 together, or draws that are not finite.
    """
    distances, n = _distances(x, y)
    return float(_statistic(distances, np.arange(len(distances)) < n))


def energy_test(
    x: Any, y: Any, *, seed: int = 0, num_permutations: int = 199
) -> tuple[float, float]:
    """Energy distance and its permutation p-value, at least ``1 / (num_permutations + 1)``.

    ``x`` and ``y`` are independent rows ``(n, d)``, chains ``(chain, draw, d)``, or `Draws`; chains
    are thinned until their draws are nearly independent.

    Raises
    ------
    ValueError
        As `energy_distance`, for what is left after thinning; and for weighted or resampled draws.
    """
    distances, n = _distances(*two_sets(x, y, "energy test", MIN_DRAWS))
    generator = np.random.default_rng(seed)
    first = np.arange(len(distances)) < n
    found = float(_statistic(distances, first))
    null = [_statistic(distances, generator.permutation(first)) for _ in range(num_permutations)]
    # Rounding must not make an equal permutation smaller.
    above = sum(value >= found * (1 - 1e-12) for value in null)
    return found, (1 + above) / (1 + num_permutations)


def _distances(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, int]:
    if min(len(x), len(y)) < MIN_DRAWS:
        raise ValueError(
            f"the energy distance needs {MIN_DRAWS} draws in each set; got {len(x)} and {len(y)}"
        )
    if len(x) + len(y) > MAX_DRAWS:
        raise ValueError(
            f"the energy distance takes {MAX_DRAWS} draws together, its cost grows with their "
            f"square; got {len(x)} and {len(y)}: thin them"
        )
    both = np.concatenate([x, y]).astype(np.float64)
    if not np.isfinite(both).all():
        raise ValueError("the energy distance needs finite draws")
    both = both - both.mean(axis=0)
    squares = (both**2).sum(axis=1)
    gram = squares[:, None] + squares[None] - 2 * both @ both.T
    np.fill_diagonal(gram, 0.0)
    return np.sqrt(np.maximum(gram, 0.0)), len(x)


def _statistic(distances: np.ndarray, first: np.ndarray) -> np.floating:
    """``D^2`` is minus a quadratic form in the signed empirical measure."""
    signed = np.where(first, 1 / first.sum(), -1 / (~first).sum())
    return -(signed @ distances @ signed)
