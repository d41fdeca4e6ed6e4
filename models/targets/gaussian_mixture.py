"""Mixture of round Gaussians: as many modes as one likes, where and as heavy as one likes.

    pi(x) = sum_k w_k s_k^-d exp(-|x - m_k|^2 / (2 s_k^2)),   sum_k w_k = 1
    log Z = d / 2 log(2 pi),   modes near the means m_k, when these lie far apart

The share of mode k is w_k whatever its width, which is what a sampler must find: a narrow mode is
as likely as a wide one and much harder to hit.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import random
from jax.scipy.special import logsumexp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from models.targets.known import Known, vector
from ppl.mixture import denoised, mixture


class GaussianMixture(Known):
    """Mixture of round Gaussians.

    Parameters
    ----------
    means
        One row for each component, (components, d).
    sds
        Standard deviations, one for each component or one for all.
    weights
        Shares of the components, which are normalized; equal by default.

    Raises
    ------
    ValueError
        For means that are no table, standard deviations or weights that are not positive, or
        numbers of them that differ.
    """

    means: Float[Array, "k d"]
    sds: Float[Array, " k"]
    log_shares: Float[Array, " k"]

    def __init__(self, means: Any, sds: Any = 1.0, weights: Any = None) -> None:
        self.means, self.sds, self.log_shares = mixture(means, sds, weights)

    @property
    def offers(self) -> frozenset[str]:
        return super().offers | {"denoise"}

    @property
    def template(self) -> jax.ShapeDtypeStruct:
        return vector(self.means.shape[1])

    @property
    def log_normalizer(self) -> Float[Array, ""]:
        return jnp.asarray(self.means.shape[1] / 2 * math.log(2 * math.pi))

    @property
    def modes(self) -> Float[Array, "k d"]:
        """The means: the modes, where components do not overlap."""
        return self.means

    def log_density(self, position: Float[Array, " d"]) -> Float[Array, ""]:
        squares = jnp.sum((position - self.means) ** 2, axis=1)
        log_parts = self.log_shares - position.size * jnp.log(self.sds)
        return logsumexp(log_parts - squares / (2 * self.sds**2))

    def denoise(
        self, position: Float[Array, " d"], sigma: Float[Array, ""] | float
    ) -> Float[Array, " d"]:
        """Mean of the draws given that ``x + sigma * noise = position``: see `ppl.mixture`."""
        return denoised(self.means, self.sds, self.log_shares, position, sigma)

    def sample(self, rng_key: PRNGKeyArray, n: int) -> Float[Array, "n d"]:
        key_component, key_noise = random.split(rng_key)
        component = random.categorical(key_component, self.log_shares, shape=(n,))
        noise = random.normal(key_noise, (n, self.means.shape[1]), self.means.dtype)
        return self.means[component] + self.sds[component][:, None] * noise

    def component(self, positions: Float[Array, "n d"]) -> Int[Array, " n"]:
        """Component that each position most likely came from: which mode a draw has found."""
        squares = jnp.sum((positions[:, None] - self.means) ** 2, axis=2)
        log_parts = self.log_shares - positions.shape[1] * jnp.log(self.sds)
        return jnp.argmax(log_parts - squares / (2 * self.sds**2), axis=1)
