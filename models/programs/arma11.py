"""Autoregressive moving average of order (1, 1).

    nu_1 = mu + phi mu,   nu_t = mu + phi y_{t-1} + theta (y_{t-1} - nu_{t-1})
    y_t ~ Normal(nu_t, sigma)
    mu ~ Normal(0, 10),   phi ~ Normal(0, 2),   theta ~ Normal(0, 2),   sigma ~ HalfCauchy(2.5)

The past is conditioned on in every mean: a posterior predictive draw of ``y`` predicts one step
ahead.

Data: simulated; posteriordb, case ``arma-arma11`` (BSD-3).
"""

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from jax.typing import ArrayLike
from jaxtyping import Num

from models.programs.read import read

dims: dict[str, list[str]] = {}
coords: dict[str, list] = {}


def model(y: Num[ArrayLike, " time"]) -> None:
    """Series ``y`` of length T."""
    mu = numpyro.sample("mu", dist.Normal(0, 10))
    phi = numpyro.sample("phi", dist.Normal(0, 2))
    theta = numpyro.sample("theta", dist.Normal(0, 2))
    sigma = numpyro.sample("sigma", dist.HalfCauchy(2.5))
    y = jnp.asarray(y, float)

    def predict(nu, y_t):
        return mu + phi * y_t + theta * (y_t - nu), nu

    _, nu = jax.lax.scan(predict, mu + phi * mu, y)
    # Where |theta| > 1 the errors grow without bound and may overflow: the density is 0.
    with numpyro.plate("time", len(y)):
        numpyro.sample("y", dist.Normal(nu, sigma, validate_args=False), obs=y)


def data() -> dict:
    """Return the series of length 200."""
    return read("arma-arma11.json")
