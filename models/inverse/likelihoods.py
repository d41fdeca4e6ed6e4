"""Likelihoods of a linear observation with other than Gaussian noise.

    Poisson:   y_i ~ Poisson(peak max(A x, 0)_i + background)
    Laplace:   y_i = (A x)_i + scale e_i,   p(e) = exp(-|e|) / 2

Each is a function of x, for ``ppl.posterior(prior, likelihood)``, and draws data for a truth.
Gaussian noise is `ppl.LinearGaussian`, for which far more can be computed.
"""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax import random
from jax.core import Tracer
from jax.scipy.special import gammaln
from jaxtyping import Array, Float, PRNGKeyArray

from ppl.sampler import nonnegative, positive


class PoissonCounts(eqx.Module):
    """Counts of photons: log-likelihood of a nonnegative image seen through an operator.

    Parameters
    ----------
    operator
        Linear function of one position.
    counts
        What was counted, nonnegative.
    peak
        Expected counts where ``A x`` is 1.
    background
        Expected counts in the dark; above zero, or a count in the dark is impossible.
    """

    operator: Any
    counts: Array
    peak: Float[Array, ""] = positive("peak", default=1.0)
    background: Float[Array, ""] = nonnegative("background", default=0.0)

    def __check_init__(self) -> None:
        known = not isinstance(self.counts, Tracer)
        if known and not bool(np.all(np.asarray(self.counts) >= 0)):
            raise ValueError(f"counts are not negative; the least is {np.min(self.counts)}")

    def rate(self, x: Any) -> Array:
        """Expected counts."""
        return self.peak * jnp.maximum(self.operator(x), 0.0) + self.background

    def __call__(self, x: Any) -> Float[Array, ""]:
        rate = self.rate(x)
        counts = self.counts.astype(rate.dtype)
        # Nothing counted where nothing is expected is certain, and its logarithm has no value.
        log_rate = jnp.log(jnp.where(rate > 0, rate, 1.0))
        log_rate = jnp.where(rate > 0, log_rate, -jnp.inf)
        seen = jnp.where(counts > 0, counts * jnp.where(counts > 0, log_rate, 0.0), 0.0)
        return jnp.sum(seen - rate - gammaln(counts + 1))

    def observe(self, rng_key: PRNGKeyArray, x: Any) -> "PoissonCounts":
        """The likelihood of counts drawn given ``x``, in place of its own."""
        counts = random.poisson(rng_key, self.rate(x)).astype(self.counts.dtype)
        return eqx.tree_at(lambda self: self.counts, self, counts)


class LaplaceNoise(eqx.Module):
    """Noise with outliers: ``-|y - A x|_1 / scale``, normalized.

    Parameters
    ----------
    operator
        Linear function of one position.
    observation
        As the operator returns it, real.
    scale
        Mean modulus of the noise, positive; its standard deviation is sqrt(2) times that.
    """

    operator: Any
    observation: Array
    scale: Float[Array, ""] = positive("scale", default=1.0)

    def __call__(self, x: Any) -> Float[Array, ""]:
        residual = self.observation - self.operator(x)
        return jnp.sum(-jnp.abs(residual) / self.scale - jnp.log(2 * self.scale))

    def observe(self, rng_key: PRNGKeyArray, x: Any) -> "LaplaceNoise":
        """The likelihood of data drawn given ``x``, in place of its own."""
        clean = self.operator(x)
        noise = self.scale * random.laplace(rng_key, clean.shape, clean.dtype)
        return eqx.tree_at(lambda self: self.observation, self, clean + noise)
