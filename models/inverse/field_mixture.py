"""Mixture of Gaussian random fields: images of several kinds, closed form again.

    x ~ sum_k w_k N(m_k, C_k),   D(x, s) = sum_k r_k(x, s) D_k(x, s)
    r_k proportional to w_k N(x; m_k, C_k + s^2 I)

Each component is a `GaussianField` around an image of its own. The denoiser is no longer linear:
at high noise it averages kinds, at low noise it knows which one it sees. The posterior under a
linear observation is a mixture of the posteriors of the components, weighted by their evidence:

    w_k' proportional to w_k p(y | k)

so that a method is judged on choosing the kind as well as on the error bars within it.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import random
from jax.scipy.special import logsumexp
from jaxtyping import Array, ArrayLike, Float, PRNGKeyArray

from models.inverse.gaussian_field import GaussianField
from models.inverse.gaussian_posterior import GaussianPosterior, gaussian_posterior
from models.inverse.parts import PosteriorOfParts
from models.targets.known import Known
from ppl.linear_gaussian import LinearGaussian
from ppl.template import dimension


class FieldMixture(Known):
    """Mixture of fields of one shape.

    Parameters
    ----------
    fields
        The components, which differ in their spectra; all of one shape.
    means
        Image around which each varies, one for each; zero by default.
    weights
        Shares of the components, which are normalized; equal by default.

    Raises
    ------
    ValueError
        For fields of several shapes, and for numbers of means or weights that differ from theirs.
    """

    fields: tuple[GaussianField, ...]
    means: Float[Array, "k ..."]
    log_shares: Float[Array, " k"]

    def __init__(self, fields: Any, means: Any = None, weights: Any = None) -> None:
        self.fields = tuple(fields)
        shapes = {field.template.shape for field in self.fields}
        if len(shapes) != 1:
            raise ValueError(f"the fields of a mixture have one shape; got {sorted(shapes)}")
        shape, number = shapes.pop(), len(self.fields)
        centers = np.zeros((number, *shape)) if means is None else np.asarray(means, np.float64)
        shares = np.ones(number) if weights is None else np.asarray(weights, np.float64)
        if centers.shape != (number, *shape) or shares.shape != (number,) or not (shares > 0).all():
            raise ValueError(
                f"{number} fields of shape {shape} have means {(number, *shape)} and {number} "
                f"positive weights; got {centers.shape} and {shares}"
            )
        dtype = self.fields[0].template.dtype
        self.means = jnp.asarray(centers, dtype)
        self.log_shares = jnp.asarray(np.log(shares / shares.sum()), dtype)

    @property
    def offers(self) -> frozenset[str]:
        return super().offers | {"denoise"}

    @property
    def template(self) -> jax.ShapeDtypeStruct:
        return self.fields[0].template

    @property
    def log_normalizer(self) -> Float[Array, ""]:
        return jnp.asarray(dimension(self.template) / 2 * math.log(2 * math.pi))

    @property
    def modes(self) -> Float[Array, "k ..."]:
        """The means: the modes, where components do not overlap."""
        return self.means

    def log_density(self, position: Float[Array, "..."]) -> Float[Array, ""]:
        return logsumexp(self.log_shares + self._log_parts(position, 0.0))

    def denoise(self, position: Float[Array, "..."], sigma: ArrayLike) -> Float[Array, "..."]:
        """Mean of the image given that ``x + sigma * noise = position``."""
        shares = jax.nn.softmax(self.log_shares + self._log_parts(position, sigma))
        pairs = zip(self.fields, self.means, strict=True)
        parts = jnp.stack([m + field.denoise(position - m, sigma) for field, m in pairs])
        return jnp.tensordot(shares, parts, axes=1)

    def sample(self, rng_key: PRNGKeyArray, n: int) -> Float[Array, "n ..."]:
        key_component, key_field = random.split(rng_key)
        component = random.categorical(key_component, self.log_shares, shape=(n,))
        # One white noise serves all: only the chosen component's filter is kept.
        white = random.normal(key_field, (n, *self.template.shape), self.template.dtype)
        roots = jnp.stack([jnp.sqrt(field.spectrum) for field in self.fields])
        color = lambda x, k: self.fields[0].filtered(x, roots[k]) + self.means[k]
        return jax.vmap(color)(white, component)

    def _log_parts(self, x: Array, sigma: Any) -> Float[Array, " k"]:
        """``log N(x; m_k, C_k + sigma^2 I)``, up to the constant of all."""
        size = self.fields[0].spectrum.size
        channels = math.prod(self.template.shape) // size
        sigma = jnp.asarray(sigma, x.dtype)

        def one(field: GaussianField, mean: Array) -> Array:
            total, difference = field.spectrum + sigma**2, x - mean
            square = jnp.vdot(difference, field.filtered(difference, 1 / total))
            return -0.5 * square - 0.5 * channels * jnp.sum(jnp.log(total))

        return jnp.stack([one(*pair) for pair in zip(self.fields, self.means, strict=True)])


class FieldMixturePosterior(PosteriorOfParts):
    """The posterior of a `FieldMixture`; made by `field_mixture_posterior`."""

    prior: FieldMixture
    likelihood: LinearGaussian
    parts: tuple[GaussianPosterior, ...]  # of the components without their means

    @property
    def modes(self) -> Float[Array, "k ..."]:
        """Posterior mean of each component."""
        pairs = zip(self.parts, self.prior.means, strict=True)
        return jnp.stack([part.mean + mean for part, mean in pairs])

    @property
    def mean(self) -> Float[Array, "..."]:
        """Posterior mean."""
        return jnp.tensordot(jnp.exp(self.log_shares), self.modes, axes=1)

    @property
    def sd(self) -> Float[Array, "..."]:
        """Posterior standard deviation of each pixel."""
        squares = jnp.stack([part.sd**2 for part in self.parts]) + (self.modes - self.mean) ** 2
        return jnp.sqrt(jnp.tensordot(jnp.exp(self.log_shares), squares, axes=1))

    def sample(self, rng_key: PRNGKeyArray, n: int) -> Float[Array, "n ..."]:
        key_component, *keys = random.split(rng_key, 1 + len(self.parts))
        component = random.categorical(key_component, self.log_shares, shape=(n,))
        triples = zip(self.parts, self.prior.means, keys, strict=True)
        every = jnp.stack([mean + part.sample(key, n) for part, mean, key in triples])
        return every[component, jnp.arange(n)]

    @property
    def _log_parts(self) -> Float[Array, " k"]:
        evidence = jnp.stack([part.log_evidence for part in self.parts])
        return self.prior.log_shares + evidence


def field_mixture_posterior(
    prior: FieldMixture, likelihood: LinearGaussian
) -> FieldMixturePosterior:
    """Factor the posterior of each component."""
    parts = []
    for field, mean in zip(prior.fields, prior.means, strict=True):
        # A field around m seen as y is a field around zero seen as y - A m.
        parts.append(gaussian_posterior(field, likelihood.given(likelihood.residual(mean))))
    return FieldMixturePosterior(prior, likelihood, tuple(parts))  # pyright: ignore[reportCallIssue]
