"""Linear regression of a child's test score on the mother's IQ.

    kid_score_n ~ Normal(beta_1 + beta_2 mom_iq_n, sigma)
    beta flat,   sigma ~ HalfCauchy(2.5)

The predictor is not centered, so the coefficients have posterior correlation -0.99.

Data: posteriordb, case ``kidiq-kidscore_momiq`` (BSD-3).

References
----------
.. [1] A. Gelman and J. Hill, "Data analysis using regression and multilevel/hierarchical models",
   2006, chapter 3.
"""

import numpyro
import numpyro.distributions as dist
from jax.typing import ArrayLike
from jaxtyping import Num
from numpyro.distributions import constraints

from models.programs.read import read

dims = {"beta": ["coefficient"]}
coords = {"coefficient": ["intercept", "mom_iq"]}


def model(kid_score: Num[ArrayLike, " child"], mom_iq: Num[ArrayLike, " child"]) -> None:
    """Score of N children given the IQ of their mothers."""
    beta = numpyro.sample("beta", dist.ImproperUniform(constraints.real_vector, (), (2,)))
    sigma = numpyro.sample("sigma", dist.HalfCauchy(2.5))
    with numpyro.plate("child", len(kid_score)):
        numpyro.sample("kid_score", dist.Normal(beta[0] + beta[1] * mom_iq, sigma), obs=kid_score)


def data() -> dict:
    """Return the scores of 434 children and the IQs of their mothers."""
    return read("kidiq-kidscore_momiq.json")
