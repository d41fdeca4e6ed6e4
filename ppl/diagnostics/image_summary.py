"""What draws of an image say: its mean, how uncertain each pixel is, whether the data are met.

Pixels are summarized one by one: mean, standard deviation, and the quantiles that hold a share of
the draws. How far the draws miss the data is `ppl.diagnostics.data_consistency`; where the true
image is known, as in a simulated problem, the errors of the mean and of the intervals come along.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import ArrayLike, Float

from ppl.algebra import Posterior
from ppl.diagnostics.crps import crps
from ppl.diagnostics.data_consistency import data_consistency
from ppl.diagnostics.image_quality import RADIUS, psnr, ssim
from ppl.linear_gaussian import LinearGaussian

MOST_DRAWS = 1000  # whose misfit is computed: evenly spaced ones beyond that


@dataclass(frozen=True, eq=False)
class ImageSummary:
    """Summary of draws of one image.

    Parameters
    ----------
    mean, sd, lower, upper
        Of each pixel; between the last two lies the share ``level`` of the draws. Of a complex
        image, its modulus.
    level
        That share.
    consistency
        Squared misfit in units of the noise, for each number observed, averaged over draws.
    tolerance
        How far from 1 it may be: five standard deviations of the true image's.
    psnr, ssim
        Of the mean, against the truth; None where that is not known. SSIM is None for small
        images as well.
    crps, coverage
        Score of the draws, averaged over pixels, and the share of pixels with the truth between
        ``lower`` and ``upper``.
    """

    mean: Float[np.ndarray, "n m"]
    sd: Float[np.ndarray, "n m"]
    lower: Float[np.ndarray, "n m"]
    upper: Float[np.ndarray, "n m"]
    level: float
    consistency: float
    tolerance: float
    psnr: float | None = None
    ssim: float | None = None
    crps: float | None = None
    coverage: float | None = None

    @property
    def is_consistent(self) -> bool:
        """Whether the draws miss the data by as much as the noise would."""
        return abs(self.consistency - 1) <= self.tolerance


def observed_images(draws: Any) -> tuple[LinearGaussian, str] | None:
    """Likelihood and name of an image seen through a linear operator; None for other draws."""
    target = draws.target
    if not isinstance(target, Posterior) or not draws.num_samples or len(draws.names) != 1:
        return None
    likelihood: Any = target.log_likelihood_fn
    (name,) = draws.names
    shape = draws[name].shape[2:]
    is_image = len(shape) == 2 or (len(shape) == 3 and shape[0] == 2)
    noisy = isinstance(likelihood, LinearGaussian) and likelihood.has_noise
    return (likelihood, name) if noisy and is_image and min(shape[-2:]) > 1 else None


def image_summary(
    draws: Any, truth: Float[ArrayLike, "..."] | None = None, *, level: float = 0.9
) -> ImageSummary:
    """Summarize draws of ``ppl.posterior(prior, ppl.LinearGaussian(...))`` over one image.

    Parameters
    ----------
    draws
        A `Draws`; its weights count.
    truth
        The image that the data came from, where it is known.
    level
        Share of the draws between ``lower`` and ``upper``.

    Raises
    ------
    ValueError
        For draws of another target or of something that is no image, and for a truth of another
        shape.
    """
    found = observed_images(draws)
    if found is None:
        raise ValueError(
            "image_summary takes draws of ppl.posterior(prior, ppl.LinearGaussian(...)) with noise "
            "over one image, (n, m), or (2, n, m) for real and imaginary parts; got draws of "
            f"{', '.join(f'{name} {list(draws[name].shape[2:])}' for name in draws.names)} of a "
            f"{type(draws.target).__name__}"
        )
    likelihood, name = found
    x = draws[name].reshape(-1, *draws[name].shape[2:])
    weights = None
    if draws.log_weights is not None:
        weights = np.exp(draws.pooled_log_weights()).ravel()
        weights = weights / weights.sum()
    images = _modulus(x)
    mean = np.average(images, axis=0, weights=weights)
    sd = np.sqrt(np.average((images - mean) ** 2, axis=0, weights=weights))
    lower, upper = _quantiles(images, weights, level)
    kept = np.unique(np.linspace(0, len(x) - 1, MOST_DRAWS).astype(int))
    misfit = data_consistency(likelihood, x[kept])
    consistency = np.average(misfit, weights=None if weights is None else weights[kept])
    tolerance = 5 * math.sqrt(2 / likelihood.num_observed)
    against = {}
    if truth is not None:
        true = np.asarray(truth)
        if true.shape != x.shape[1:]:
            raise ValueError(f"the truth has the shape {true.shape}, draws have {x.shape[1:]}")
        against = _against(images, mean, (lower, upper), _modulus(true[None])[0], weights)
    return ImageSummary(mean, sd, lower, upper, level, float(consistency), tolerance, **against)


def _modulus(images: np.ndarray) -> np.ndarray:
    x = images.astype(np.float64)
    return x if x.ndim == 3 else np.hypot(x[:, 0], x[:, 1])


def _quantiles(images: np.ndarray, weights: np.ndarray | None, level: float) -> Any:
    ends = ((1 - level) / 2, (1 + level) / 2)
    if weights is None:
        return np.quantile(images, ends, axis=0)
    return np.quantile(images, ends, axis=0, weights=weights, method="inverted_cdf")


def _against(
    images: np.ndarray, mean: np.ndarray, ends: Any, true: np.ndarray, weights: np.ndarray | None
) -> dict[str, float | None]:
    span = float(np.ptp(true)) or 1.0
    small = min(true.shape) < 2 * RADIUS + 1
    inside = (ends[0] <= true) & (true <= ends[1])
    return {
        "psnr": psnr(mean, true, data_range=span),
        "ssim": None if small else ssim(mean, true, data_range=span),
        # Pairs of weighted draws are not those of the fair score.
        "crps": float(crps(images, true).mean()) if weights is None and len(images) > 1 else None,
        "coverage": float(inside.mean()),
    }
