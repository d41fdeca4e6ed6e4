"""Poisson regression on a Gaussian process, non-centered.

    rho ~ Gamma(25, 4),   alpha ~ HalfNormal(2),   f_tilde ~ Normal(0, I)
    K = alpha^2 exp(-(x - x')^2 / (2 rho^2)) + jitter I,   f = chol(K) f_tilde
    k_n ~ Poisson(exp(f_n))

The jitter is 1e-10 in float64, as in the reference. In float32 that is below rounding and the
factorization fails, so there it is JITTER32 alpha^2: the process then carries independent noise of
0.3 % of its scale, a tenth of the smallest posterior sd of any f_n.

Data: simulated; posteriordb, case ``gp_pois_regr-gp_pois_regr`` (BSD-3).
"""

import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from jax.typing import ArrayLike
from jaxtyping import Int, Num

from models.programs.read import read

JITTER32 = 1e-5

dims: dict[str, list[str]] = {"f_tilde": ["point"], "f": ["point"]}
coords: dict[str, list] = {"point": [-10, -8, -6, -4, -2, 0, 2, 4, 6, 8, 10]}


def model(x: Num[ArrayLike, " point"], k: Int[ArrayLike, " point"]) -> None:
    """Counts ``k`` at N places ``x`` on a line."""
    rho = numpyro.sample("rho", dist.Gamma(25, 4))
    alpha = numpyro.sample("alpha", dist.HalfNormal(2))
    f_tilde = numpyro.sample("f_tilde", dist.Normal(0, 1).expand([len(x)]).to_event(1))
    x = jnp.asarray(x, float)
    correlation = jnp.exp(-0.5 * ((x[:, None] - x) / rho) ** 2)
    jitter = 1e-10 if x.dtype == jnp.float64 else JITTER32 * alpha**2
    chol = jnp.linalg.cholesky(alpha**2 * correlation + jitter * jnp.eye(len(x)))
    f = numpyro.deterministic("f", chol @ f_tilde)
    with numpyro.plate("point", len(x)):
        numpyro.sample("k", dist.Poisson(jnp.exp(f)), obs=k)


def data() -> dict:
    """Return the counts at eleven points."""
    return read("gp_pois_regr-gp_pois_regr.json")
