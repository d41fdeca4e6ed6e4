"""Generalized autoregressive conditional heteroscedasticity of order (1, 1).

    s_1 = sigma1,   s_t^2 = alpha0 + alpha1 (y_{t-1} - mu)^2 + beta1 s_{t-1}^2
    y_t ~ Normal(mu, s_t)
    mu flat,   alpha0 flat on (0, inf),   (alpha1, beta1) uniform on alpha1 + beta1 < 1

Uniform on the triangle is alpha1 ~ Beta(1, 2) and then beta1 ~ Uniform(0, 1 - alpha1); a uniform
alpha1 in its place would multiply the density by 1 / (1 - alpha1). The support of ``beta1`` depends
on ``alpha1``. The past is conditioned on in every variance: a posterior predictive draw of ``y``
predicts one step ahead.

Data: simulated; posteriordb, case ``garch-garch11`` (BSD-3).

References
----------
.. [1] T. Bollerslev, "Generalized autoregressive conditional heteroskedasticity", Journal of
   Econometrics 31, 1986.
"""

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from jax.typing import ArrayLike
from jaxtyping import Num
from numpyro.distributions import constraints

from models.programs.read import read

dims: dict[str, list[str]] = {}
coords: dict[str, list] = {}


def model(y: Num[ArrayLike, " time"], sigma1: Num[ArrayLike, ""]) -> None:
    """Series ``y`` of length T whose first scale is ``sigma1``."""
    mu = numpyro.sample("mu", dist.ImproperUniform(constraints.real, (), ()))
    alpha0 = numpyro.sample("alpha0", dist.ImproperUniform(constraints.positive, (), ()))
    alpha1 = numpyro.sample("alpha1", dist.Beta(1, 2))
    beta1 = numpyro.sample("beta1", dist.Uniform(0, 1 - alpha1))
    y = jnp.asarray(y, float)

    def predict(variance, y_t):
        return alpha0 + alpha1 * (y_t - mu) ** 2 + beta1 * variance, variance

    _, variance = jax.lax.scan(predict, jnp.square(jnp.asarray(sigma1, float)), y)
    with numpyro.plate("time", len(y)):
        numpyro.sample("y", dist.Normal(mu, jnp.sqrt(variance)), obs=y)


def data() -> dict:
    """Return the series of length 200 and its first scale."""
    return read("garch-garch11.json")
