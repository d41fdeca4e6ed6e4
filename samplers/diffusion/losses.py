"""Denoising losses: what is weighed how, at which levels of noise, and how networks are scaled.

    loss = E_t w(level_t) E |D(x_t, t) - x_0|^2,    x_t = alpha x_0 + sigma eps

Whatever a network predicts, its least squares are these with a weight: an output that is linear in
D with slope c has w = c^2. Of the law of t and the weight only the product matters [1].

====================  ==========================================  ======
weight                w                                           paper
====================  ==========================================  ======
`noise_weight`        1 / kappa^2                                 [2]
`denoised_weight`     1
`v_weight`            (alpha^2 + sigma^2)^2 / sigma^2             [3]
`velocity_weight`     (alpha' - alpha sigma' / sigma)^2           [4]
`likelihood_weight`   -(1 / 2) d(1 / kappa^2) / dt                [1]
`EDMWeight`           (kappa^2 + s^2) / (kappa s)^2               [5]
`MinSNR`              min(1 / kappa^2, gamma)                     [6]
====================  ==========================================  ======

`Preconditioned` is EDM's scaling [5]: with data of mean m and standard deviation s, and y the noisy
point in units of the data,

    D(y, kappa) = m + c_skip (y - m) + c_out F(c_in (y - m), c_noise)
    c_skip = s^2 / (kappa^2 + s^2),  c_out = kappa s / sqrt(kappa^2 + s^2) = kappa s c_in

so that F = 0 is the denoiser of N(m, s^2 I), and F has inputs and targets of variance one.

References
----------
.. [1] Kingma, Salimans, Poole and Ho, "Variational diffusion models", NeurIPS 2021,
   arXiv:2107.00630. Equations 14 to 19.
.. [2] Ho, Jain and Abbeel, "Denoising diffusion probabilistic models", NeurIPS 2020,
   arXiv:2006.11239. Equation 14.
.. [3] Salimans and Ho, "Progressive distillation for fast sampling of diffusion models", ICLR 2022,
   arXiv:2202.00512.
.. [4] Lipman et al., "Flow matching for generative modeling", ICLR 2023, arXiv:2210.02747.
.. [5] Karras et al., "Elucidating the design space of diffusion-based generative models", NeurIPS
   2022, arXiv:2206.00364. Table 1 and appendix B.6.
.. [6] Hang et al., "Efficient diffusion training via min-SNR weighting strategy", ICCV 2023,
   arXiv:2303.09556.
.. [7] Esser et al., "Scaling rectified flow transformers for high-resolution image synthesis", ICML
   2024, arXiv:2403.03206. Section 3.1: logit-normal times.
"""

from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax, random
from jax.scipy.special import ndtri
from jaxtyping import Array, Float, PRNGKeyArray

from ppl.sampler import positive
from samplers.diffusion.paths import Level, NoisePath

# Weights --------------------------------------------------------------------------------------

type Weight = Callable[[Level], Any]


def noise_weight(level: Level) -> Any:
    """That of least squares on the noise: DDPM's "simple" loss."""
    return level.kappa**-2


def denoised_weight(level: Level) -> Any:
    """That of least squares on the data."""
    return jnp.ones_like(level.kappa)


def v_weight(level: Level) -> Any:
    """That of least squares on v."""
    return (level.alpha**2 + level.sigma**2) ** 2 / level.sigma**2


def velocity_weight(level: Level) -> Any:
    """That of least squares on the velocity: flow matching."""
    return (level.alpha_rate - level.alpha * level.sigma_rate / level.sigma) ** 2


def likelihood_weight(level: Level) -> Any:
    """That of the evidence lower bound, in nats per unit of time."""
    return (
        -level.alpha
        * (level.alpha_rate * level.sigma - level.alpha * level.sigma_rate)
        / (level.sigma**3)
    )


class EDMWeight(eqx.Module):
    """Weight under which every level asks as much of F; ``sd`` is that of the data."""

    sd: Float[Array, ""] = positive("sd", default=0.5)

    def __call__(self, level: Level) -> Any:
        return level.kappa**-2 + self.sd**-2


class MinSNR(eqx.Module):
    """The noise's weight, but at most ``gamma``: levels of little noise do not rule the others."""

    gamma: Float[Array, ""] = positive("gamma", default=5.0)

    def __call__(self, level: Level) -> Any:
        return jnp.minimum(level.kappa**-2, self.gamma)


# Levels ---------------------------------------------------------------------------------------


def _location(default: float) -> Any:
    # Of a type of its own, as one that was loaded has: else both would have programs of their own.
    convert = lambda x: x if type(x) is object else jnp.asarray(x, jnp.result_type(float))
    return eqx.field(converter=convert, default=default)


class Times(eqx.Module):
    """A law of the times to train at, by its quantile function."""

    @abstractmethod
    def quantile(self, u: Array, path: NoisePath, sd: Array) -> Array:
        """Time below which the share u of the times lies; ``sd`` is that of the data."""

    def draw(self, rng_key: PRNGKeyArray, n: int, path: NoisePath, sd: Array) -> Float[Array, " n"]:
        """``n`` times, one in each n-th of the law [1]: each has the law, means vary less."""
        u = random.uniform(rng_key, (), sd.dtype)
        u = (u + jnp.arange(n, dtype=sd.dtype) / n) % 1
        low, high = (jnp.asarray(t, sd.dtype) for t in (path.t_min, path.t_max))
        return jnp.clip(self.quantile(u, path, sd), low, high)


class UniformTime(Times):
    """Every time of the path alike."""

    def quantile(self, u: Array, path: NoisePath, sd: Array) -> Array:
        low, high = (jnp.asarray(t, sd.dtype) for t in (path.t_min, path.t_max))
        return low + u * (high - low)


class LogNormalNoise(Times):
    """``log(kappa / sd)`` normal: the levels at which there is something to learn.

    EDM's -1.2 is for data of standard deviation 1/2; in units of that it is -0.5.
    """

    mean: Float[Array, ""] = _location(-0.5)
    spread: Float[Array, ""] = positive("spread", default=1.2)

    def quantile(self, u: Array, path: NoisePath, sd: Array) -> Array:
        return path.time(-jnp.log(sd) - self.mean - self.spread * ndtri(u))


class LogitNormalTime(Times):
    """``logit(t)`` normal [7]: times of a flow, away from both ends."""

    mean: Float[Array, ""] = _location(0.0)
    spread: Float[Array, ""] = positive("spread", default=1.0)

    def quantile(self, u: Array, path: NoisePath, sd: Array) -> Array:
        return jax.nn.sigmoid(self.mean + self.spread * ndtri(u))


# Scaling --------------------------------------------------------------------------------------


class Preconditioned(eqx.Module):
    """EDM's denoiser around a network ``F(x, t)``: ``denoiser(y, kappa, condition)``.

    Parameters
    ----------
    network
        Called with the scaled point and ``log(kappa / sd) / 4``.
    mean, sd
        Those of the data; they are not trained.
    """

    network: Any
    mean: Array
    sd: Float[Array, ""]

    def __call__(self, y: Array, kappa: Any, *condition: Any) -> Array:
        mean, sd = lax.stop_gradient((self.mean, self.sd))
        kappa = jnp.asarray(kappa, y.dtype)
        scale = 1 / jnp.sqrt(kappa**2 + sd**2)
        x = (y - mean) * scale
        out = self.network(x, jnp.log(kappa / sd) / 4, *condition)
        return mean + (sd * scale) * (sd * x + kappa * out)
