"""Linear regression of party identification on ideology, ethnicity, age, education, income.

    partyid7_n ~ Normal(beta_1 + beta_2 real_ideo_n + beta_3 race_adj_n + beta_4 [age_n = 2]
                        + beta_5 [age_n = 3] + beta_6 [age_n = 4] + beta_7 educ1_n
                        + beta_8 gender_n + beta_9 income_n, sigma)
    beta flat,   sigma flat on (0, inf)

Party identification runs from 1 (strong Democrat) to 7 (strong Republican), ideology from 1 (strong
liberal) to 7 (strong conservative).

Data: posteriordb, case ``nes1980-nes`` (BSD-3): the National Election Study of 1980.

References
----------
.. [1] A. Gelman and J. Hill, "Data analysis using regression and multilevel/hierarchical models",
   2006, chapter 4.
"""

import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from jax.typing import ArrayLike
from jaxtyping import Int, Num
from numpyro.distributions import constraints

from models.programs.read import read

dims = {"beta": ["coefficient"]}
coords = {
    "coefficient": [
        "intercept",
        "real_ideo",
        "race_adj",
        "age 30-44",
        "age 45-64",
        "age 65+",
        "educ1",
        "gender",
        "income",
    ]
}


def model(
    partyid7: Num[ArrayLike, " person"],
    real_ideo: Num[ArrayLike, " person"],
    race_adj: Num[ArrayLike, " person"],
    age_discrete: Int[ArrayLike, " person"],
    educ1: Num[ArrayLike, " person"],
    gender: Num[ArrayLike, " person"],
    income: Num[ArrayLike, " person"],
) -> None:
    """Party identification of N persons; ``age_discrete`` is a group from 1 to 4."""
    beta = numpyro.sample("beta", dist.ImproperUniform(constraints.real_vector, (), (9,)))
    sigma = numpyro.sample("sigma", dist.ImproperUniform(constraints.positive, (), ()))
    age = jnp.asarray(age_discrete)
    columns = [real_ideo, race_adj, age == 2, age == 3, age == 4, educ1, gender, income]
    X = jnp.stack([jnp.asarray(column, float) for column in columns], axis=-1)
    with numpyro.plate("person", len(partyid7)):
        numpyro.sample("partyid7", dist.Normal(beta[0] + X @ beta[1:], sigma), obs=partyid7)


def data() -> dict:
    """Return the answers of 701 persons."""
    return read("nes1980-nes.json")
