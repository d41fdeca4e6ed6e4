"""What is done to a denoised value on its way into a solver: ``rule(denoiser, x, row, carry)``.

A rule is written for a single point and returns ``(D, carry)``; ``carry`` is its memory, which
``init(x)`` begins. It may call the denoiser as it likes, take its gradient, or leave it out. Those
here are corrections for networks: with an exact denoiser none of them helps.

References
----------
.. [1] Saharia et al., "Photorealistic text-to-image diffusion models with deep language
   understanding", NeurIPS 2022, arXiv:2205.11487. Section 2.3: thresholding.
.. [2] Ning et al., "Elucidating the exposure bias in diffusion models", ICLR 2024,
   arXiv:2308.15321. Section 5: scaling of the noise.
.. [3] Li et al., "Alleviating exposure bias in diffusion models through sampling with shifted time
   steps", ICLR 2024, arXiv:2305.15583. Algorithm 3.
.. [4] Yu et al., "DualFast: dual-speedup framework for fast sampling of diffusion models", 2025,
   arXiv:2506.13058.
"""

from abc import abstractmethod
from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from ppl.sampler import positive
from samplers.diffusion.paths import NoisePath


class Rule(eqx.Module):
    """Contract of a rule on denoised values."""

    def init(self, x: Array) -> PyTree:
        """Memory of a point before the first row; by default none."""
        return ()

    @abstractmethod
    def __call__(self, denoiser: Any, x: Array, row: Any, carry: PyTree) -> tuple[Array, PyTree]:
        """Denoised value at x, and the memory for the next row."""


class Plain(Rule):
    """The denoised value as it is."""

    def __call__(self, denoiser: Any, x: Array, row: Any, carry: PyTree) -> tuple[Array, PyTree]:
        return denoiser(x, row.level), carry


class Thresholding(Rule):
    """Clip each denoised point to its own quantile, and shrink it to the range of the data [1].

    ``s = max(quantile of |D|, bound),  D := clip(D, -s, s) bound / s``: for pixels in
    [-bound, bound] under strong guidance, never for a law on the whole space.
    """

    quantile: Float[Array, ""] = positive("quantile", default=0.995)
    bound: Float[Array, ""] = positive("bound", default=1.0)

    def __call__(self, denoiser: Any, x: Array, row: Any, carry: PyTree) -> tuple[Array, PyTree]:
        denoised = denoiser(x, row.level)
        bound = self.bound.astype(x.dtype)
        s = jnp.maximum(jnp.quantile(jnp.abs(denoised), self.quantile.astype(x.dtype)), bound)
        return jnp.clip(denoised, -s, s) * bound / s, carry


class NoiseScaling(Rule):
    """Divide the predicted noise by ``scale + slope * index``, a little above one [2]."""

    scale: Float[Array, ""] = positive("scale", default=1.0048)
    slope: Any = 0.0

    def __call__(self, denoiser: Any, x: Array, row: Any, carry: PyTree) -> tuple[Array, PyTree]:
        level = row.level
        noise = (x - level.alpha * denoiser(x, level)) / level.sigma
        scale = self.scale.astype(x.dtype) + self.slope * row.index.astype(x.dtype)
        return (x - level.sigma * noise / scale) / level.alpha, carry


class TimeShift(Rule):
    """Ask the network for the time whose noise the point has, not the one it should have [3].

    The variance of the entries of x is compared with sigma^2 at times within ``width`` of the
    row's, and the network sees the best of them; coefficients stay those of the row. It assumes
    data whose entries have mean zero, variance ``data_variance``, and are many.

    Differences from the paper
    --------------------------
    The paper compares with sigma^2 alone; the data's own share alpha^2 ``data_variance`` is added
    here, zero by default.
    """

    path: NoisePath
    width: Float[Array, ""] = positive("width", default=0.01)
    cutoff: Any = 0.2  # below this share of the path's time nothing is shifted
    data_variance: Any = 0.0
    num_times: int = eqx.field(static=True, default=21)

    def __call__(self, denoiser: Any, x: Array, row: Any, carry: PyTree) -> tuple[Array, PyTree]:
        path, level = self.path, row.level
        low, high = jnp.asarray(path.t_min, x.dtype), jnp.asarray(path.t_max, x.dtype)
        spread = jnp.linspace(-1, 1, self.num_times, dtype=x.dtype) * self.width.astype(x.dtype)
        times = jnp.clip(level.t + spread, low, high)
        there = path.level(times)
        expected = there.sigma**2 + there.alpha**2 * self.data_variance
        best = times[jnp.argmin(jnp.abs(jnp.var(x) - expected))]
        shifted = path.level(jnp.where(level.t > self.cutoff * high, best, level.t))
        # The network predicts the noise; its D is that of the row's own alpha and sigma.
        noise = (x - shifted.alpha * denoiser(x, shifted)) / shifted.sigma
        return (x - level.sigma * noise) / level.alpha, carry


class DualFast(Rule):
    """Extrapolate the noise away from the first one, which a network knows best [4].

    ``eps := (1 + c) eps - c eps_0`` with c falling from ``strength`` to zero along the path's time.
    """

    path: NoisePath
    strength: Any = 0.1

    def init(self, x: Array) -> PyTree:
        return jnp.zeros_like(x)

    def __call__(self, denoiser: Any, x: Array, row: Any, carry: PyTree) -> tuple[Array, PyTree]:
        level = row.level
        noise = (x - level.alpha * denoiser(x, level)) / level.sigma
        first = jnp.where(row.index == 0, noise, carry)
        c = self.strength * level.t / jnp.asarray(self.path.t_max, x.dtype)
        noise = (1 + c) * noise - c * first
        return (x - level.sigma * noise) / level.alpha, first
