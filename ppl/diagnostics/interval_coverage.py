"""Whether intervals of draws hold the truth as often as they say, at any number of draws.

If truth and draws come from one law, the truth is equally likely to lie in any of the n + 1 gaps
between the n sorted draws, so that

    P(x_(a) < x* < x_(b)) = (b - a) / (n + 1)

exactly. Quantiles that are interpolated between draws cover less, 0.87 in place of 0.90 at n = 60,
which is a property of the quantiles and not of the sampler.
"""

import numpy as np
from jaxtyping import ArrayLike, Bool, Float


def interval(
    draws: Float[ArrayLike, "n ..."], level: float = 0.9
) -> tuple[Float[np.ndarray, "..."], Float[np.ndarray, "..."]]:
    """Central order statistics between which a share ``level`` of truths lies.

    Raises
    ------
    ValueError
        Unless ``(1 - level) / 2 * (n + 1)`` is a whole number: with 99 draws any percentage is, up
        to 98.
    """
    x = np.asarray(draws)
    n = len(x)
    below = (1 - level) / 2 * (n + 1)
    if not 0 < level < 1 or round(below) < 1 or abs(below - round(below)) > 1e-6:
        raise ValueError(
            f"no two of {n} sorted draws hold {level:g} exactly: that takes a number n of draws "
            "with (n + 1) (1 - level) / 2 whole, such as 19, 99 or 999 for 0.9"
        )
    x = np.sort(x, axis=0)
    return x[round(below) - 1], x[n - round(below)]


def covered(
    draws: Float[ArrayLike, "n ..."], truth: Float[ArrayLike, "..."], level: float = 0.9
) -> Bool[np.ndarray, "..."]:
    """Whether the truth of each entry lies in the `interval` of its draws."""
    low, high = interval(draws, level)
    return (low < np.asarray(truth)) & (np.asarray(truth) < high)
