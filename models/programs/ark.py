"""Autoregression of order K.

    y_t ~ Normal(alpha + sum_k beta_k y_{t-k}, sigma)   for t > K
    alpha ~ Normal(0, 10),   beta_k ~ Normal(0, 10),   sigma ~ HalfCauchy(2.5)

The first K values are conditioned on, and so is the past in every mean: a posterior predictive draw
of ``y`` predicts one step ahead.

Data: simulated; posteriordb, case ``arK-arK`` (BSD-3).
"""

import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from jax.typing import ArrayLike
from jaxtyping import Num

from models.programs.read import read

dims = {"beta": ["lag"]}
coords = {"lag": [1, 2, 3, 4, 5]}


def model(K: int, y: Num[ArrayLike, " time"]) -> None:
    """Series ``y`` of length T with coefficients ``beta`` of ``K`` lags."""
    alpha = numpyro.sample("alpha", dist.Normal(0, 10))
    beta = numpyro.sample("beta", dist.Normal(0, 10).expand([K]).to_event(1))
    sigma = numpyro.sample("sigma", dist.HalfCauchy(2.5))
    y = jnp.asarray(y, float)
    past = jnp.stack([y[K - k : len(y) - k] for k in range(1, K + 1)], axis=-1)
    with numpyro.plate("time", len(y) - K):
        numpyro.sample("y", dist.Normal(alpha + past @ beta, sigma), obs=y[K:])


def data() -> dict:
    """Return the series of length 200 and the order 5."""
    return read("arK-arK.json")
