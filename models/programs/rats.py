"""Growth curves of thirty rats: a line for each, partially pooled, with correlated coefficients.

    weight_ij ~ Normal(alpha_i + beta_i (day_j - 22), sigma)
    alpha_i ~ Normal(mu_alpha, tau_alpha)
    beta_i | alpha_i ~ Normal(mu_beta + rho tau_beta (alpha_i - mu_alpha) / tau_alpha,
                              tau_beta sqrt(1 - rho^2))
    mu_alpha ~ Normal(250, 50),   tau_alpha ~ HalfNormal(25)       grams at day 22
    mu_beta ~ Normal(6, 3),       tau_beta ~ HalfNormal(2)         grams a day
    rho ~ Uniform(-1, 1),         sigma ~ HalfNormal(15)           grams
    birth_weight_i = alpha_i - 22 beta_i

The two coefficients of a rat are jointly normal with correlation rho, written as a marginal and a
conditional. Centered on purpose: five weighings fix the line of a rat well, and then the
non-centered form is the one with strong dependence.

Data: weights of thirty young rats at five weekly ages (Gelfand et al., section 6; also "Rats" in
the first volume of the BUGS examples): a published table of facts.

Differences from the paper
--------------------------
Proper, weakly informative priors on standard deviations and a uniform correlation, in place of a
Wishart prior on the joint precision.

References
----------
.. [1] A. E. Gelfand, S. E. Hills, A. Racine-Poon and A. F. M. Smith, "Illustration of Bayesian
   inference in normal data models using Gibbs sampling", Journal of the American Statistical
   Association 85, 1990, section 6.
"""

import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from jax.typing import ArrayLike
from jaxtyping import Num

from models.programs.read import read

CENTER = 22

dims: dict[str, list[str]] = {}
coords = {"rat": list(range(1, 31)), "age": [8, 15, 22, 29, 36]}


def model(day: Num[ArrayLike, " age"], weight: Num[ArrayLike, "rat age"]) -> None:
    """Weights of N rats, in grams, on each ``day`` of weighing."""
    weight, day = jnp.asarray(weight, float), jnp.asarray(day, float)
    mu_alpha = numpyro.sample("mu_alpha", dist.Normal(250, 50))
    mu_beta = numpyro.sample("mu_beta", dist.Normal(6, 3))
    tau_alpha = numpyro.sample("tau_alpha", dist.HalfNormal(25))
    tau_beta = numpyro.sample("tau_beta", dist.HalfNormal(2))
    rho = numpyro.sample("rho", dist.Uniform(-1, 1))
    sigma = numpyro.sample("sigma", dist.HalfNormal(15))
    with numpyro.plate("rat", weight.shape[0], dim=-1):
        alpha = numpyro.sample("alpha", dist.Normal(mu_alpha, tau_alpha))
        loc = mu_beta + rho * tau_beta * (alpha - mu_alpha) / tau_alpha
        beta = numpyro.sample("beta", dist.Normal(loc, tau_beta * jnp.sqrt(1 - rho**2)))
        numpyro.deterministic("birth_weight", alpha - CENTER * beta)
        with numpyro.plate("age", weight.shape[1], dim=-2):
            line = alpha + beta * (day[:, None] - CENTER)
            numpyro.sample("weight", dist.Normal(line, sigma), obs=weight.T)


def data() -> dict:
    """Return five weights of each of thirty rats and the days of weighing."""
    return read("rats.json")
