"""Linear regression with strongly correlated predictors.

    y ~ Normal(X beta, sigma),   beta_d ~ Normal(0, 10),   sigma ~ HalfNormal(10)

Data: simulated; posteriordb, case ``sblrc-blr`` (BSD-3).
"""

import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from jax.typing import ArrayLike
from jaxtyping import Num

from models.programs.read import read

dims = {"beta": ["predictor"]}
coords: dict[str, list] = {}


def model(X: Num[ArrayLike, "observation predictor"], y: Num[ArrayLike, " observation"]) -> None:
    """Responses ``y`` given the N x D matrix ``X`` of predictors."""
    X = jnp.asarray(X, float)
    beta = numpyro.sample("beta", dist.Normal(0, 10).expand([X.shape[1]]).to_event(1))
    sigma = numpyro.sample("sigma", dist.HalfNormal(10))
    with numpyro.plate("observation", len(X)):
        numpyro.sample("y", dist.Normal(X @ beta, sigma), obs=y)


def data() -> dict:
    """Return a hundred responses and five predictors."""
    return read("sblrc-blr.json")
