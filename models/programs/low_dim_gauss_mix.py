"""Mixture of two normal distributions.

    mu_1 < mu_2, the order statistics of two draws of Normal(0, 2)
    sigma_k ~ HalfNormal(2),   theta ~ Beta(5, 5)
    y_n ~ theta Normal(mu_1, sigma_1) + (1 - theta) Normal(mu_2, sigma_2)

The components are summed over, so there is no discrete site, and ordered, so that there is one mode
and not two.

Data: simulated; posteriordb, case ``low_dim_gauss_mix-low_dim_gauss_mix`` (BSD-3).
"""

import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from jax import random
from jax.scipy.special import gammaln
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Num
from numpyro.distributions import constraints

from models.programs.read import read

dims = {"mu": ["component"], "sigma": ["component"]}
coords = {"component": [1, 2]}


class SortedNormal(dist.Distribution):
    """Order statistics of ``size`` independent draws of Normal(0, scale)."""

    pytree_data_fields = ("scale",)

    def __init__(self, scale: Num[ArrayLike, ""], size: int):
        self.scale = scale
        super().__init__(event_shape=(size,))

    @property
    def support(self) -> constraints.Constraint:
        return constraints.ordered_vector

    def sample(
        self, key: Array | None = None, sample_shape: tuple[int, ...] = ()
    ) -> Float[Array, "..."]:
        draws = self.scale * random.normal(key, (*sample_shape, *self.event_shape))
        return jnp.sort(draws, axis=-1)

    def log_prob(self, value: Num[ArrayLike, "..."], intermediates=None) -> Float[Array, "..."]:
        """Log density of the unordered draws plus log(size!), the number of their orders."""
        unordered = dist.Normal(0, self.scale).log_prob(value).sum(-1)
        return unordered + gammaln(self.event_shape[0] + 1.0)


def model(y: Num[ArrayLike, " observation"]) -> None:
    """Draws ``y`` of two components."""
    mu = numpyro.sample("mu", SortedNormal(2, 2))
    sigma = numpyro.sample("sigma", dist.HalfNormal(2).expand([2]).to_event(1))
    theta = numpyro.sample("theta", dist.Beta(5, 5))
    weights = dist.Categorical(probs=jnp.stack([theta, 1 - theta]))
    with numpyro.plate("observation", len(y)):
        numpyro.sample("y", dist.MixtureSameFamily(weights, dist.Normal(mu, sigma)), obs=y)


def data() -> dict:
    """Return a thousand draws of a mixture."""
    return read("low_dim_gauss_mix-low_dim_gauss_mix.json")
