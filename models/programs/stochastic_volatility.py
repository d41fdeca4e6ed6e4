"""Stochastic volatility: daily returns whose log-variance is a hidden autoregression.

    r_t ~ Normal(0, exp(h_t / 2))
    h_0 ~ Normal(mu, sigma / sqrt(1 - phi^2)),   h_t ~ Normal(mu + phi (h_{t-1} - mu), sigma)
    mu ~ Normal(0, 2),   (phi + 1) / 2 ~ Beta(20, 1.5),   sigma ~ HalfNormal(1)

``model`` is non-centered, in the innovations of h: a day tells little of its own volatility.
``state_space`` is the same with h as the path of a `ppl.StateSpaceModel`, for particle methods, and
``parameters`` its prior: ``ppl.StateSpacePosterior(parameters, state_space, **data())``.

Data: daily returns of the euro in US dollars, in percent, in 2008 and 2009: the crisis of the
banks. Euro foreign exchange reference rates of the European Central Bank.

Differences from the paper
--------------------------
The prior of phi is that of the paper's equation 4; the others are weaker.

References
----------
.. [1] S. Kim, N. Shephard and S. Chib, "Stochastic volatility: likelihood inference and comparison
   with ARCH models", Review of Economic Studies 65, 1998, doi:10.1111/1467-937X.00050. Section 2.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax.typing import ArrayLike
from jaxtyping import Num
from numpyro.distributions import constraints
from numpyro.distributions.transforms import AffineTransform

import ppl
from models.programs.read import read

FILE = "euro_dollar.json"

dims: dict[str, list[str]] = {}
coords = {"day": read(FILE)["date"][1:].tolist()}


def parameters() -> Any:
    """Sample ``mu``, ``phi`` and ``sigma``."""
    mu = numpyro.sample("mu", dist.Normal(0, 2))
    twice = AffineTransform(-1, 2, domain=constraints.unit_interval)
    phi = numpyro.sample("phi", dist.TransformedDistribution(dist.Beta(20, 1.5), twice))
    sigma = numpyro.sample("sigma", dist.HalfNormal(1))
    return mu, phi, sigma


def model(returns: Num[ArrayLike, " day"]) -> None:
    """Daily ``returns`` in percent."""
    returns = jnp.asarray(returns, float)
    mu, phi, sigma = parameters()
    with numpyro.plate("day", len(returns)):
        z = numpyro.sample("z", dist.Normal(0, 1))
        # As if the day before the first had been drawn from the stationary law.
        scales = sigma * jnp.ones(len(returns)).at[0].set(1 / jnp.sqrt(1 - phi**2))

        def next_day(deviation, shock):
            deviation = phi * deviation + shock
            return deviation, deviation

        _, deviation = jax.lax.scan(next_day, jnp.zeros(()), scales * z)
        h = numpyro.deterministic("h", mu + deviation)
        numpyro.sample("returns", dist.Normal(0, jnp.exp(h / 2)), obs=returns)


def initial(p: Mapping[str, Any]) -> dist.Distribution:
    """Stationary law of h."""
    return dist.Normal(p["mu"], p["sigma"] / jnp.sqrt(1 - p["phi"] ** 2))


def transition(t: Any, h: Any, p: Mapping[str, Any]) -> dist.Distribution:
    """Law of h given that of the day before."""
    return dist.Normal(p["mu"] + p["phi"] * (h - p["mu"]), p["sigma"])


def observation(t: Any, h: Any, p: Mapping[str, Any]) -> dist.Distribution:
    """Law of a return."""
    return dist.Normal(0, jnp.exp(h / 2))


def state_space(p: Mapping[str, Any], returns: Num[ArrayLike, " day"]) -> ppl.StateSpaceModel:
    """Log-variance as a path, at parameters ``mu``, ``phi`` and ``sigma``."""
    return ppl.StateSpaceModel(initial, transition, observation, jnp.asarray(returns, float), p)


def data() -> dict:
    """Return 512 daily returns, in percent."""
    return {"returns": 100 * np.diff(np.log(read(FILE)["usd"]))}
