"""Gaussian random fields: images with a power spectrum and nothing else, all closed form.

    x ~ N(0, C),   C = F^H diag(S) F,   S(k) = c (|k|^2 + kappa^2)^-smoothness

with F the orthonormal Fourier transform, k the integer wavenumbers and c such that every pixel has
the variance 1. The field is periodic. Its denoiser is Wiener's filter at every noise level,

    D(x, s) = F^H diag(S / (S + s^2)) F x,   Cov[x_0 | x_0 + s eps = x] = s^2 dD / dx

so that whatever a method does wrong with it as a prior is the method's own fault. Its posterior
under a linear observation with Gaussian noise is `models.inverse.gaussian_posterior`.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import random
from jaxtyping import Array, ArrayLike, Float, PRNGKeyArray

from models.targets.known import Known
from ppl.template import dimension


class GaussianField(Known):
    """Periodic Gaussian random field; ``log_density`` is not normalized.

    Parameters
    ----------
    shape
        Of an image, (n, m), or of a signal, (n,). A leading axis before the two of an image counts
        independent channels: (2, n, m) is a complex field by its parts.
    smoothness
        Decay of the spectrum: at 2, fields are continuous and hardly more.
    kappa
        Wavenumber below which the spectrum is flat, so that n / kappa is the length of
        correlation.

    Raises
    ------
    ValueError
        For sizes that are not positive, and for more than three axes.
    """

    spectrum: Float[Array, "..."]
    template: jax.ShapeDtypeStruct

    def __init__(
        self,
        shape: tuple[int, ...] = (64, 64),
        smoothness: float | int = 2.0,
        kappa: float | int = 3.0,
    ) -> None:
        if not 1 <= len(shape) <= 3 or min(shape) < 1:
            raise ValueError(f"a field has one to three axes of positive size; got {shape}")
        if not (smoothness > 0 and kappa > 0):
            raise ValueError(f"smoothness and kappa must be positive; got {smoothness} and {kappa}")
        waves = [np.fft.fftfreq(n, 1 / n) for n in shape[-2:]]
        squares = sum(k**2 for k in np.meshgrid(*waves, indexing="ij"))
        spectrum = (squares + kappa**2) ** -float(smoothness)
        self.template = jax.ShapeDtypeStruct(shape, jax.dtypes.canonicalize_dtype(float))
        self.spectrum = jnp.asarray(spectrum / spectrum.mean(), self.template.dtype)

    @property
    def offers(self) -> frozenset[str]:
        return super().offers | {"denoise"}

    @property
    def log_normalizer(self) -> Float[Array, ""]:
        channels = math.prod(self.template.shape) // self.spectrum.size
        half_log_det = 0.5 * channels * jnp.sum(jnp.log(self.spectrum))
        return half_log_det + dimension(self.template) / 2 * math.log(2 * math.pi)

    @property
    def modes(self) -> Float[Array, "1 ..."]:
        """Zero."""
        return self.mean[None]

    @property
    def mean(self) -> Float[Array, "..."]:
        """Zero."""
        return jnp.zeros(self.template.shape, self.template.dtype)

    @property
    def variance(self) -> Float[Array, "..."]:
        """Of each pixel: one."""
        return jnp.ones(self.template.shape, self.template.dtype)

    def log_density(self, position: Float[Array, "..."]) -> Float[Array, ""]:
        return -0.5 * jnp.vdot(position, self.filtered(position, 1 / self.spectrum))

    def covariance(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        """``C x``."""
        return self.filtered(x, self.spectrum)

    def denoise(self, position: Float[Array, "..."], sigma: ArrayLike) -> Float[Array, "..."]:
        """Mean of the field given that ``x + sigma * noise = position``: Wiener's filter."""
        sigma = jnp.asarray(sigma, self.spectrum.dtype)
        return self.filtered(position, self.spectrum / (self.spectrum + sigma**2))

    def sample(self, rng_key: PRNGKeyArray, n: int) -> Float[Array, "n ..."]:
        white = random.normal(rng_key, (n, *self.template.shape), self.template.dtype)
        return self.filtered(white, jnp.sqrt(self.spectrum))

    def filtered(self, x: Float[Array, "..."], gain: Any) -> Float[Array, "..."]:
        """``F^H diag(gain) F x``, with a gain that is even in the wavenumbers."""
        axes = tuple(range(-self.spectrum.ndim, 0))
        half = gain[..., : self.spectrum.shape[-1] // 2 + 1]
        shape = self.spectrum.shape
        return jnp.fft.irfftn(half * jnp.fft.rfftn(x, axes=axes), shape, axes).astype(x.dtype)
