"""Whether numbers between 0 and 1 are independent and uniform, and if not, in which way.

Three tests of u_1, ..., u_N, all with exact null distributions for every N:

- *band* [1]_: the empirical distribution function at K points z_i, N F(z_i) ~ Binomial(N, z_i), and
  the least of its two-sided binomial tail probabilities (their equations 9 and 10). That these
  counts are a Markov chain (their section 2.2) gives the law of this least one, and so both a
  p-value and a band which holds at all points at once;
- *shift*: with z = Phi^-1(u), sum z / sqrt(N) ~ Normal(0, 1);
- *spread* [2]_: sum z^2 ~ chi-square of N degrees of freedom.

The band sees any deviation, and least of all a slight one that is spread evenly; for those the
other two are the best there are when the deviation is that of a shifted or scaled Gaussian. They
are one test by Bonferroni's inequality: half of the level for the band, a quarter for each other.

Limits: numbers that depend on each other are not what the null describes. Ranks of a draw among L
others are discrete; make them uniform by adding a uniform number before dividing by L + 1.

References
----------
.. [1] T. Säilynoja, P.-C. Bürkner, A. Vehtari, "Graphical test for discrete uniformity and its
   applications in goodness-of-fit evaluation and multiple sample comparison", Statistics and
   Computing 32, 2022, doi:10.1007/s11222-022-10090-6.
.. [2] S. R. Cook, A. Gelman, D. B. Rubin, "Validation of software for Bayesian models using
   posterior quantiles", Journal of Computational and Graphical Statistics 15, 2006. Section 2.
"""

import math
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

MAX_POINTS = 100  # where the distribution function is looked at


class Uniformity(NamedTuple):
    """One test of uniformity, and the shape of what it saw.

    Attributes
    ----------
    p_value
        Of the three tests together.
    shift
        Mean of the normal scores: 0 where the numbers are uniform, negative where they are low.
    spread
        Root mean square of the normal scores about their mean: 1 for uniform numbers, more where
        the numbers crowd at both ends, less where they crowd in the middle.
    reason
        ``"band"``, ``"shift"`` or ``"spread"``: the test with the least p-value.
    """

    p_value: float
    shift: float
    spread: float
    reason: str


def uniformity(u: Float[np.ndarray, " n"]) -> Uniformity:
    """Test numbers strictly between 0 and 1.

    Raises
    ------
    ValueError
        If there is no number, or one that is not strictly between 0 and 1.
    """
    from scipy import special, stats

    u = np.asarray(u, np.float64)
    if len(u) == 0 or not ((u > 0) & (u < 1)).all():
        raise ValueError(f"uniformity takes numbers strictly between 0 and 1; got {u}")
    z, size = special.ndtri(u), len(u)
    square = float(np.sum(z**2))
    p_values = {
        "band": 2 * _band_p_value(u),
        "shift": 4 * 2 * float(stats.norm.sf(abs(np.sum(z)) / math.sqrt(size))),
        "spread": 4 * 2 * float(min(stats.chi2.sf(square, size), stats.chi2.cdf(square, size))),
    }
    reason = min(p_values, key=p_values.__getitem__)
    return Uniformity(min(1.0, p_values[reason]), float(z.mean()), float(z.std()), reason)


# The band -------------------------------------------------------------------------------------


def points(size: int) -> Float[np.ndarray, " points"]:
    """Where the distribution function of ``size`` numbers is looked at: inside (0, 1)."""
    number = min(size, MAX_POINTS)
    return np.arange(1, number) / number if number > 1 else np.array([0.5])


@lru_cache(maxsize=64)
def band(
    size: int, level: float
) -> tuple[Float[np.ndarray, " points"], Float[np.ndarray, " points"]]:
    """Simultaneous band of the empirical distribution function at `points`.

    Returns
    -------
    lower, upper
        The band as fractions of ``size``. Uniform numbers leave it, anywhere, with a probability of
        at most ``level``.
    """
    tails = np.unique(_tails(size)[np.isfinite(_tails(size))])
    # The least tail probability takes finitely many values; find the largest one admissible.
    low, high = -1, len(tails) - 1
    while high - low > 1:
        middle = (low + high) // 2
        if 1 - _probability_above(size, float(tails[middle])) <= level:
            low = middle
        else:
            high = middle
    inside = _tails(size) > (tails[low] if low >= 0 else 0.0)
    counts = np.arange(size + 1)
    lower = np.where(inside, counts, size).min(axis=1)
    upper = np.where(inside, counts, 0).max(axis=1)
    return lower / size, upper / size


def _band_p_value(u: Float[np.ndarray, " n"]) -> float:
    size = len(u)
    counts = np.searchsorted(np.sort(u), points(size), side="right")
    least = float(_tails(size)[np.arange(len(counts)), counts].min())
    return 1 - _probability_above(size, least)


@lru_cache(maxsize=64)
def _tails(size: int) -> Float[np.ndarray, "points counts"]:
    """Two-sided binomial tail probability of every count at every point."""
    from scipy import stats

    counts = np.arange(size + 1)
    z = points(size)[:, None]
    below, above = stats.binom.cdf(counts, size, z), stats.binom.sf(counts - 1, size, z)
    return np.minimum(1.0, 2 * np.minimum(below, above))


@lru_cache(maxsize=4096)
def _probability_above(size: int, tail: float) -> float:
    """Probability that uniform numbers keep all tail probabilities above ``tail``.

    Forward recursion over the points: given N F(z_i) = r, the count at the next point is r plus
    Binomial(N - r, (z_{i+1} - z_i) / (1 - z_i)).
    """
    z = points(size)
    # Rounding of the cumulative probabilities must not put a count on the other side of its own.
    inside = _tails(size) > tail * (1 + 1e-9)
    log_factorial = _log_factorials(size)
    counts, mass = np.array([0]), np.ones(1)
    previous = 0.0
    for i, point in enumerate(z):
        following = np.flatnonzero(inside[i])
        if len(following) == 0:
            return 0.0
        q = (point - previous) / (1 - previous)
        left, step = size - counts[:, None], following[None] - counts[:, None]
        legal = (step >= 0) & (step <= left)
        step = np.where(legal, step, 0)
        log_p = (
            log_factorial[left] - log_factorial[step] - log_factorial[left - step]
            + step * math.log(q) + (left - step) * math.log1p(-q)
        )  # fmt: skip
        mass = mass @ np.where(legal, np.exp(log_p), 0.0)
        counts, previous = following, float(point)
    return float(min(1.0, mass.sum()))


@lru_cache(maxsize=64)
def _log_factorials(size: int) -> Any:
    from scipy import special

    return special.gammaln(np.arange(size + 1) + 1.0)
