"""Noise paths: how data turn into noise, from t near 0 (data) to 1 (noise).

    x_t = c + alpha_t (x_0 - c) + sigma_t eps,     eps ~ N(0, I)
    lambda = log(alpha / sigma),  rising toward the data,     kappa = sigma / alpha = e^-lambda

In y = (x - c) / alpha and kappa the probability-flow equation of every path is the same,
dy / dkappa = (y - D) / kappa with the denoiser D = E[x_0 | x_t] (relative to c): paths differ in
the t that a network was trained with and in the levels where they begin and end, and in nothing
else. Methods take NumPy float64, where tables of coefficients are written, or JAX arrays, also
traced, where a network is trained.

===============  =========================================  ==========================  ==========
path             alpha                                      sigma                       paper
===============  =========================================  ==========================  ==========
`VPLinear`       exp(-t^2 (b1 - b0) / 4 - t b0 / 2)         sqrt(1 - alpha^2)           [1, 2]
`VPCosine`       cos(pi (t + s) / 2(1 + s)) / the same, t=0  sqrt(1 - alpha^2)           [3]
`SubVP`          that of `VPLinear`                         1 - alpha^2                 [2]
`VE`             1                                          s0 (s1 / s0)^t              [2]
`EDM`            1                                          t                           [4]
`StraightFlow`   1 - t                                      t                           [5, 6]
`MeanReverting`  exp(-rate t)                               sd sqrt(1 - alpha^2)        [7]
`PFGM`           1                                          t, with Student noise       [8]
===============  =========================================  ==========================  ==========

References
----------
.. [1] Ho, Jain and Abbeel, "Denoising diffusion probabilistic models", NeurIPS 2020,
   arXiv:2006.11239.
.. [2] Song et al., "Score-based generative modeling through stochastic differential equations",
   ICLR 2021, arXiv:2011.13456. Appendix B.
.. [3] Nichol and Dhariwal, "Improved denoising diffusion probabilistic models", ICML 2021,
   arXiv:2102.09672. Section 3.2.
.. [4] Karras et al., "Elucidating the design space of diffusion-based generative models", NeurIPS
   2022, arXiv:2206.00364.
.. [5] Lipman et al., "Flow matching for generative modeling", ICLR 2023, arXiv:2210.02747.
.. [6] Liu, Gong and Liu, "Flow straight and fast: learning to generate and transfer data with
   rectified flow", ICLR 2023, arXiv:2209.03003.
.. [7] Luo et al., "Image restoration with mean-reverting stochastic differential equations", ICML
   2023, arXiv:2301.11699.
.. [8] Xu et al., "PFGM++: unlocking the potential of physics-inspired generative models", ICML
   2023, arXiv:2302.04265.
"""

import math
from abc import abstractmethod
from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax import random
from jax.core import Tracer
from jaxtyping import Array, ArrayLike, PRNGKeyArray


class Level(NamedTuple):
    """One noise level, or many: time, alpha, sigma, and their derivatives in t."""

    t: Any
    alpha: Any
    sigma: Any
    alpha_rate: Any
    sigma_rate: Any

    @property
    def kappa(self) -> Any:
        """Noise in units of the data, sigma / alpha."""
        return self.sigma / self.alpha


def _number(name: str, default: float, above: float = 0.0, below: float = math.inf) -> Any:
    """Field: a number kept as NumPy float64, so that tables are exact, and traced in programs."""

    def convert(value: Any) -> Any:
        if isinstance(value, Tracer) or type(value) is object:
            return value
        fits = isinstance(value, int | float | np.ndarray | np.generic) and np.ndim(value) == 0
        if isinstance(value, bool) or not fits or not above < float(value) < below:
            limits = f"above {above:g}" + ("" if below == math.inf else f" and below {below:g}")
            raise ValueError(f"{name} must be a number {limits}; got {value!r}")
        return np.asarray(value, np.float64)

    return eqx.field(converter=convert, default=default)


def _namespace(t: ArrayLike) -> Any:
    return np if isinstance(t, float | int | np.ndarray | np.generic) else jnp


def _like(t: Any, *values: Any) -> tuple[Any, ...]:
    """Parameters of a path in the number format of the times at hand."""
    if _namespace(t) is np:
        return values
    return tuple(jnp.asarray(value, t.dtype) for value in values)


class NoisePath(eqx.Module):
    """A path from data to noise; ``t_min`` and ``t_max`` are where sampling ends and begins."""

    gaussian: ClassVar[bool] = True  # the noise of two levels can be added and split

    t_min: eqx.AbstractVar[Any]
    t_max: eqx.AbstractVar[Any]

    def __check_init__(self) -> None:
        if not isinstance(self.t_min, Tracer) and not self.t_min < self.t_max:
            raise ValueError(
                f"{type(self).__name__}: t_min must be below t_max; got {self.t_min} and "
                f"{self.t_max}"
            )

    @abstractmethod
    def log_alpha(self, t: Any) -> Any:
        """Logarithm of the share of the data."""

    @abstractmethod
    def log_alpha_rate(self, t: Any) -> Any:
        """Its derivative in t."""

    @abstractmethod
    def time(self, log_snr: Any) -> Any:
        """The t of a value of `log_snr`: its inverse."""

    def sigma(self, t: Any) -> Any:
        """Standard deviation of the noise; by default variances add up to one."""
        # log(1 - alpha^2) has no digits left in float32 where alpha is near one.
        xp = _namespace(t)
        return xp.sqrt(-xp.expm1(2 * self.log_alpha(t)))

    def sigma_rate(self, t: Any) -> Any:
        """Its derivative in t."""
        return -(self.alpha(t) ** 2) * self.log_alpha_rate(t) / self.sigma(t)

    def alpha(self, t: Any) -> Any:
        """Share of the data."""
        return _namespace(t).exp(self.log_alpha(t))

    def log_snr(self, t: Any) -> Any:
        """``log(alpha / sigma)``, half the logarithm of the signal-to-noise ratio."""
        return self.log_alpha(t) - _namespace(t).log(self.sigma(t))

    def level(self, t: Any) -> Level:
        """All there is to know of the level at time t."""
        alpha = self.alpha(t)
        rate = alpha * self.log_alpha_rate(t)
        return Level(t, alpha, self.sigma(t), rate, self.sigma_rate(t))

    @property
    def center(self) -> Any:
        """The c above: where the data shrink to."""
        return np.zeros(())

    def noise(self, rng_key: PRNGKeyArray, shape: tuple[int, ...], dtype: Any) -> Array:
        """Noise of one point at unit level."""
        return random.normal(rng_key, shape, dtype)

    def require_gaussian(self, adder: Any, instead: str) -> None:
        """Raise where the noise that something adds would be another kind of noise."""
        if not self.gaussian:
            raise ValueError(
                f"{adder} adds noise, and the noises of two levels of {type(self).__name__} do not "
                f"add up: {instead}"
            )


class VPLinear(NoisePath):
    """Variance-preserving path whose beta rises linearly: DDPM's."""

    beta_min: Any = _number("beta_min", 0.1)
    beta_max: Any = _number("beta_max", 20.0)
    t_min: Any = _number("t_min", 1e-3)
    t_max: Any = _number("t_max", 1.0)

    def log_alpha(self, t: Any) -> Any:
        low, high = _like(t, self.beta_min, self.beta_max)
        return -(t**2) * (high - low) / 4 - t * low / 2

    def log_alpha_rate(self, t: Any) -> Any:
        low, high = _like(t, self.beta_min, self.beta_max)
        return -(low + t * (high - low)) / 2

    def time(self, log_snr: Any) -> Any:
        return self._time_of_log_alpha(-_namespace(log_snr).logaddexp(-2 * log_snr, 0) / 2)

    def _time_of_log_alpha(self, log_alpha: Any) -> Any:
        low, high = _like(log_alpha, self.beta_min, self.beta_max)
        root = _namespace(log_alpha).sqrt(low**2 - 4 * (high - low) * log_alpha)
        return -4 * log_alpha / (root + low)


class SubVP(VPLinear):
    """Sub-variance-preserving path: alpha of `VPLinear`, sigma = 1 - alpha^2."""

    def sigma(self, t: Any) -> Any:
        return -_namespace(t).expm1(2 * self.log_alpha(t))

    def sigma_rate(self, t: Any) -> Any:
        return -2 * self.alpha(t) ** 2 * self.log_alpha_rate(t)

    def time(self, log_snr: Any) -> Any:
        # 1 - alpha^2 = kappa alpha, so that alpha = exp(-arcsinh(kappa / 2)).
        xp = _namespace(log_snr)
        return self._time_of_log_alpha(-xp.arcsinh(xp.exp(-log_snr) / 2))


class VPCosine(NoisePath):
    """Variance-preserving path along a cosine; it ends where its beta is clipped at 0.999."""

    offset: Any = _number("offset", 0.008)
    t_min: Any = _number("t_min", 1e-3)
    t_max: Any = _number("t_max", 0.9946)

    def _angle(self, t: Any) -> tuple[Any, Any]:
        (s,) = _like(t, self.offset)
        return math.pi / 2 * (t + s) / (1 + s), math.pi / 2 * s / (1 + s)

    def log_alpha(self, t: Any) -> Any:
        xp, (angle, start) = _namespace(t), self._angle(t)
        return xp.log(xp.cos(angle)) - xp.log(xp.cos(start))

    def log_alpha_rate(self, t: Any) -> Any:
        (s,), (angle, _) = _like(t, self.offset), self._angle(t)
        return -math.pi / 2 / (1 + s) * _namespace(t).tan(angle)

    def sigma(self, t: Any) -> Any:
        # 1 - alpha^2 without the difference: sin(a - b) sin(a + b) / cos(b)^2.
        xp, (angle, start) = _namespace(t), self._angle(t)
        return xp.sqrt(xp.sin(angle - start) * xp.sin(angle + start)) / xp.cos(start)

    def time(self, log_snr: Any) -> Any:
        xp, (s,), (_, start) = (
            _namespace(log_snr),
            _like(log_snr, self.offset),
            self._angle(log_snr),
        )
        kappa = xp.exp(-log_snr)
        angle = xp.arctan2(xp.sqrt(kappa**2 + xp.sin(start) ** 2), xp.cos(start))
        return 2 * (1 + s) / math.pi * angle - s


class _Exploding(NoisePath):
    """The data stay as they are, noise is added."""

    def log_alpha(self, t: Any) -> Any:
        return _namespace(t).zeros_like(t)

    def log_alpha_rate(self, t: Any) -> Any:
        return _namespace(t).zeros_like(t)


class VE(_Exploding):
    """Variance-exploding path: the noise grows geometrically."""

    sigma_min: Any = _number("sigma_min", 0.01)
    sigma_max: Any = _number("sigma_max", 50.0)
    t_min: Any = _number("t_min", 0.0, above=-1e-300)
    t_max: Any = _number("t_max", 1.0)

    def _log_growth(self, t: Any) -> tuple[Any, Any]:
        xp = _namespace(t)
        low, high = _like(t, self.sigma_min, self.sigma_max)
        return xp.log(low), xp.log(high / low)

    def sigma(self, t: Any) -> Any:
        start, growth = self._log_growth(t)
        return _namespace(t).exp(start + t * growth)

    def sigma_rate(self, t: Any) -> Any:
        return self.sigma(t) * self._log_growth(t)[1]

    def time(self, log_snr: Any) -> Any:
        start, growth = self._log_growth(log_snr)
        return (-log_snr - start) / growth


class EDM(_Exploding):
    """Time is the noise level itself, in data units."""

    t_min: Any = _number("t_min", 0.002)
    t_max: Any = _number("t_max", 80.0)

    def sigma(self, t: Any) -> Any:
        return t

    def sigma_rate(self, t: Any) -> Any:
        return _namespace(t).ones_like(t)

    def time(self, log_snr: Any) -> Any:
        return _namespace(log_snr).exp(-log_snr)


class PFGM(EDM):
    """PFGM++: the noise is radial and heavy-tailed, a Student law of ``num_augmented`` degrees.

    Its squared length has the mean n D / (D - 2) in n dimensions, and D to infinity is `EDM`. The
    denoiser must have been trained on this noise; equation, tables and schedules stay as they are,
    but stochastic solvers are refused: two such noises do not add up to a third.
    """

    gaussian: ClassVar[bool] = False

    num_augmented: Any = _number("num_augmented", 128.0)

    def noise(self, rng_key: PRNGKeyArray, shape: tuple[int, ...], dtype: Any) -> Array:
        key_direction, key_length = random.split(rng_key)
        half = jnp.asarray(self.num_augmented, dtype) / 2
        # R = r sqrt(B / (1 - B)), B ~ Beta(n / 2, D / 2), r = sigma sqrt(D), is the length of a
        # Student vector: a normal one over sqrt(chi2_D / D).
        stretch = jnp.sqrt(half / random.gamma(key_length, half, (), dtype))
        return stretch * random.normal(key_direction, shape, dtype)


class StraightFlow(NoisePath):
    """Straight line between data and noise: flow matching and rectified flow.

    At t = 1 nothing of the data is left and kappa is infinite, so sampling begins a little before.
    """

    t_min: Any = _number("t_min", 1e-3)
    t_max: Any = _number("t_max", 1 - 1e-5, below=1.0)

    def log_alpha(self, t: Any) -> Any:
        return _namespace(t).log1p(-t)

    def log_alpha_rate(self, t: Any) -> Any:
        return -1 / (1 - t)

    def sigma(self, t: Any) -> Any:
        return t

    def sigma_rate(self, t: Any) -> Any:
        return _namespace(t).ones_like(t)

    def time(self, log_snr: Any) -> Any:
        return 1 / (1 + _namespace(log_snr).exp(log_snr))


class MeanReverting(NoisePath):
    """Data revert to a mean, a degraded image say, while noise of a fixed size comes in.

    Parameters
    ----------
    mean
        Where the data revert to, shaped like one position.
    sd
        Standard deviation of the noise at the end.
    rate
        ``log(1 / alpha)`` at t = 1. Sampling begins at ``mean + sd * eps``, which is the law at
        ``t_max`` up to ``exp(-rate)``.
    """

    mean: Any
    sd: Any = _number("sd", 0.5)
    rate: Any = _number("rate", 5.0)
    t_min: Any = _number("t_min", 1e-3)
    t_max: Any = _number("t_max", 1.0)

    @property
    def center(self) -> Any:
        return self.mean

    def log_alpha(self, t: Any) -> Any:
        (rate,) = _like(t, self.rate)
        return -rate * t

    def log_alpha_rate(self, t: Any) -> Any:
        (rate,) = _like(t, self.rate)
        return -rate * _namespace(t).ones_like(t)

    def sigma(self, t: Any) -> Any:
        (sd,) = _like(t, self.sd)
        return sd * super().sigma(t)

    def sigma_rate(self, t: Any) -> Any:
        (sd,) = _like(t, self.sd)
        xp = _namespace(t)
        unit = xp.sqrt(-xp.expm1(2 * self.log_alpha(t)))
        return -sd * self.alpha(t) ** 2 * self.log_alpha_rate(t) / unit

    def time(self, log_snr: Any) -> Any:
        xp = _namespace(log_snr)
        sd, rate = _like(log_snr, self.sd, self.rate)
        # kappa = sd sqrt(alpha^-2 - 1)
        return xp.logaddexp(-2 * (log_snr + xp.log(sd)), 0) / 2 / rate
