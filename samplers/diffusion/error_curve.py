"""The mean squared error of a denoiser over the noise: what a point does not tell of its data.

    mmse(kappa) = E |D(x_0 + kappa z, kappa) - x_0|^2 / d = E tr Cov[x_0 | x] / d

the second for an exact denoiser, whose score s has ``mmse = kappa^2 (1 - kappa^2 E |s|^2 / d)``. It
decides which levels are best (`AlignYourSteps`), and how much noise a long step lacks (`DDIM`).
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PRNGKeyArray


@dataclass(frozen=True)
class ErrorCurve:
    """The curve at some levels, and between them a line in the logarithms.

    ``log_snr`` increases, from noise to data; ``mmse`` is of one coordinate.
    """

    log_snr: np.ndarray
    mmse: np.ndarray

    def __call__(self, kappa: Any) -> np.ndarray:
        """The mean squared error of a coordinate at noise of kappa, in units of the data."""
        kappa = np.asarray(kappa, np.float64)
        return np.asarray(np.exp(np.interp(-np.log(kappa), self.log_snr, np.log(self.mmse))))

    @classmethod
    def fit(
        cls, prior: Any, data: Any, rng_key: PRNGKeyArray, *, num_levels: int = 200
    ) -> "ErrorCurve":
        """Measured on ``data``, positions (leading axis), at levels of equal steps of log-SNR."""
        points = jax.vmap(prior.flat)(data)
        path = prior.path
        ends = path.log_snr(np.array([path.t_max, path.t_min]))
        log_snr = np.linspace(ends[0], ends[1], num_levels)
        noise = prior.noise(rng_key, len(points))

        def error(kappa: Any) -> Any:
            one = lambda x, z: prior.flat(prior.denoise(prior.position(x + kappa * z), kappa)) - x
            return jnp.mean(jax.vmap(one)(points, noise) ** 2)

        kappas = jnp.asarray(np.exp(-log_snr), points.dtype)
        mmse = jax.jit(lambda kappas: jax.lax.map(error, kappas))(kappas)
        return cls(log_snr, np.asarray(mmse, np.float64))
