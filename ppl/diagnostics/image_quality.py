"""How near an image is to the true one: peak signal-to-noise ratio and structural similarity.

    PSNR = 10 log10(range^2 / mean (x - x*)^2)                       in decibels
    SSIM = mean (2 m m* + c1)(2 v + c2) / ((m^2 + m*^2 + c1)(s^2 + s*^2 + c2))         ([1], eq. 13)

with m, s^2 and v the local means, variances and covariance under a Gaussian window of 1.5 pixels,
11 x 11; c1 = (0.01 range)^2 and c2 = (0.03 range)^2. Both reward the posterior mean, which is
smoother than the truth, above single draws, which look like it: a calibrated draw has twice the
squared error of the mean, hence 3 dB less. They say nothing about uncertainty.

References
----------
.. [1] Wang, Bovik, Sheikh and Simoncelli, "Image quality assessment: from error visibility to
   structural similarity", IEEE Trans. Image Process. 13, 2004, doi:10.1109/TIP.2003.819861.
"""

import numpy as np
from jaxtyping import ArrayLike, Float
from scipy.ndimage import gaussian_filter

WINDOW_SD, RADIUS = 1.5, 5


def psnr(
    image: Float[ArrayLike, "..."], truth: Float[ArrayLike, "..."], *, data_range: float | int = 1.0
) -> float:
    """Peak signal-to-noise ratio in decibels; ``data_range`` is that of the true image's values."""
    x, y = _pair(image, truth)
    error = np.mean(np.abs(x - y) ** 2)
    return float("inf") if error == 0 else float(10 * np.log10(data_range**2 / error))


def ssim(
    image: Float[ArrayLike, "n m"], truth: Float[ArrayLike, "n m"], *, data_range: float | int = 1.0
) -> float:
    """Structural similarity of two grey images, at most 1; those nearer than 5 to a border apart.

    Raises
    ------
    ValueError
        For images that differ in shape, or are smaller than the window.
    """
    x, y = _pair(image, truth)
    if x.ndim != 2 or min(x.shape) < 2 * RADIUS + 1:
        raise ValueError(
            f"structural similarity is of grey images of at least 11 x 11 pixels; got {x.shape}"
        )
    local = lambda a: gaussian_filter(a, WINDOW_SD, radius=RADIUS)
    mean_x, mean_y = local(x), local(y)
    var_x, var_y = local(x * x) - mean_x**2, local(y * y) - mean_y**2
    covariance = local(x * y) - mean_x * mean_y
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    above = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    below = (mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2)
    inner = (slice(RADIUS, -RADIUS),) * 2
    return float(np.mean((above / below)[inner]))


def _pair(image: ArrayLike, truth: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    x, y = np.asarray(image), np.asarray(truth)
    if x.shape != y.shape:
        raise ValueError(f"the images differ in shape: {x.shape} and {y.shape}")
    wide = lambda a: a.astype(np.complex128 if np.iscomplexobj(a) else np.float64)
    return wide(x), wide(y)
