"""Two Gaussian modes far apart, of unequal weight and, if wanted, of unequal width.

A local sampler that starts near one of them never hears of the other: its chains agree, its R-hat
is 1, and its answer is wrong by the share of the mode it missed. An estimate of log Z from one mode
alone is low by ``log`` of that mode's share.
"""

import numpy as np

from models.targets.gaussian_mixture import GaussianMixture


def bimodal(
    num_dims: int = 2,
    separation: float | int = 12.0,
    weight: float | int = 1 / 3,
    sds: tuple[float | int, float | int] = (1.0, 1.0),
) -> GaussianMixture:
    """Mixture with modes at 0 and at ``separation`` along the diagonal.

    Parameters
    ----------
    num_dims
        Dimension.
    separation
        Distance of the modes, in the unit of the position.
    weight
        Share of the mode at 0, strictly between 0 and 1.
    sds
        Standard deviations of the mode at 0 and of the other one.

    Raises
    ------
    ValueError
        If ``weight`` is not strictly between 0 and 1, or a standard deviation is not positive.
    """
    if not 0 < weight < 1:
        raise ValueError(f"weight must be a number between 0 and 1; got {weight}")
    means = np.stack([np.zeros(num_dims), np.full(num_dims, separation / np.sqrt(num_dims))])
    return GaussianMixture(means, np.asarray(sds), np.array([weight, 1 - weight]))
