"""Continuous ranked probability score: how good draws are as a forecast of the truth.

    CRPS = E|X - x*| - E|X - X'| / 2                                                  ([1], eq. 21)

It is in the unit of the draws, zero for certainty of the truth, and proper: no other law has a
smaller expected score than the one the truth came from. With n draws the fair form [2] is used,
whose expectation does not depend on n: the second mean is over distinct pairs.

References
----------
.. [1] Gneiting and Raftery, "Strictly proper scoring rules, prediction, and estimation", J. Amer.
   Statist. Assoc. 102, 2007, doi:10.1198/016214506000001437.
.. [2] Ferro, "Fair scores for ensemble forecasts", Q. J. R. Meteorol. Soc. 140, 2014,
   doi:10.1002/qj.2270.
"""

import numpy as np
from jaxtyping import ArrayLike, Float


def crps(
    draws: Float[ArrayLike, "n ..."], truth: Float[ArrayLike, "..."]
) -> Float[np.ndarray, "..."]:
    """Fair score of ``n`` equally weighted draws, for each of their entries.

    Raises
    ------
    ValueError
        For fewer than two draws, or a truth of another shape.
    """
    x, y = np.asarray(draws, np.float64), np.asarray(truth, np.float64)
    n = len(x)
    if n < 2 or x.shape[1:] != y.shape:
        raise ValueError(
            "the score takes draws (n, ...) with n of at least 2 and a truth (...); got "
            f"{x.shape} and {y.shape}"
        )
    # Sorted, the sum over pairs is one of draws: x_(i) is above i - 1 others and below n - i.
    rank = (2 * np.arange(1, n + 1) - n - 1).reshape(-1, *([1] * y.ndim))
    pairs = 2 * np.sum(rank * np.sort(x, axis=0), axis=0)
    return np.asarray(np.mean(np.abs(x - y), axis=0) - pairs / (2 * n * (n - 1)))
