"""Linear regression of log earnings on height.

    log(earn_n) ~ Normal(beta_1 + beta_2 height_n, sigma)
    beta flat,   sigma flat on (0, inf)

The predictor is not centered, so the coefficients have posterior correlation -0.998. The observed
site is ``log_earn``.

Data: posteriordb, case ``earnings-logearn_height`` (BSD-3).

References
----------
.. [1] A. Gelman and J. Hill, "Data analysis using regression and multilevel/hierarchical models",
   2006, chapter 4.
"""

import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from jax.typing import ArrayLike
from jaxtyping import Num
from numpyro.distributions import constraints

from models.programs.read import read

dims = {"beta": ["coefficient"]}
coords = {"coefficient": ["intercept", "height"]}


def model(earn: Num[ArrayLike, " person"], height: Num[ArrayLike, " person"]) -> None:
    """Earnings of N persons, in dollars, given their height in inches."""
    beta = numpyro.sample("beta", dist.ImproperUniform(constraints.real_vector, (), (2,)))
    sigma = numpyro.sample("sigma", dist.ImproperUniform(constraints.positive, (), ()))
    with numpyro.plate("person", len(earn)):
        numpyro.sample(
            "log_earn",
            dist.Normal(beta[0] + beta[1] * height, sigma),
            obs=jnp.log(jnp.asarray(earn, float)),
        )


def data() -> dict:
    """Return the earnings and heights of 1192 persons."""
    return read("earnings-logearn_height.json")
