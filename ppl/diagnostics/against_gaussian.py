"""Draws against the exact mean and standard deviation of each entry.

    sd ratio    mean_i sd(draws)_i / mean_i sd_i
    mean error  sqrt(mean_i ((mean(draws)_i - mean_i) / sd_i)^2)

For n exact draws the first is 1 and the second 1 / sqrt(n). Coverage alone lets biased draws pass:
those that are too wide around a wrong mean hold the truth as often as they should.
"""

import numpy as np
from jaxtyping import ArrayLike, Float


def sd_ratio(draws: Float[ArrayLike, "n ..."], sd: Float[ArrayLike, "..."]) -> float:
    """Spread of the draws, in units of the exact one."""
    own = np.std(np.asarray(draws, np.float64), axis=0, ddof=1)
    return float(np.mean(own) / np.mean(np.asarray(sd, np.float64)))


def mean_error(
    draws: Float[ArrayLike, "n ..."], mean: Float[ArrayLike, "..."], sd: Float[ArrayLike, "..."]
) -> float:
    """Root mean square error of the draws' mean, in exact standard deviations."""
    own = np.mean(np.asarray(draws, np.float64), axis=0)
    return float(np.sqrt(np.mean(((own - np.asarray(mean)) / np.asarray(sd)) ** 2)))
