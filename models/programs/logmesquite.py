"""Linear regression of the log weight of mesquite bushes on their log dimensions.

    log(weight_n) ~ Normal(beta_1 + beta_2 log(diam1_n) + beta_3 log(diam2_n)
                           + beta_4 log(canopy_height_n) + beta_5 log(total_height_n)
                           + beta_6 log(density_n) + beta_7 group_n, sigma)
    beta flat,   sigma flat on (0, inf)

The observed site is ``log_weight``.

Data: posteriordb, case ``mesquite-logmesquite`` (BSD-3): leaf weight of 46 bushes, harvested in two
groups, and measures taken before.

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
coords = {
    "coefficient": [
        "intercept",
        "log_diam1",
        "log_diam2",
        "log_canopy_height",
        "log_total_height",
        "log_density",
        "group",
    ]
}


def model(
    weight: Num[ArrayLike, " bush"],
    diam1: Num[ArrayLike, " bush"],
    diam2: Num[ArrayLike, " bush"],
    canopy_height: Num[ArrayLike, " bush"],
    total_height: Num[ArrayLike, " bush"],
    density: Num[ArrayLike, " bush"],
    group: Num[ArrayLike, " bush"],
) -> None:
    """Leaf weight of N bushes given five sizes and the group."""
    beta = numpyro.sample("beta", dist.ImproperUniform(constraints.real_vector, (), (7,)))
    sigma = numpyro.sample("sigma", dist.ImproperUniform(constraints.positive, (), ()))
    sizes = [diam1, diam2, canopy_height, total_height, density]
    columns = [jnp.log(jnp.asarray(size, float)) for size in sizes]
    X = jnp.stack([*columns, jnp.asarray(group, float)], axis=-1)
    with numpyro.plate("bush", len(weight)):
        numpyro.sample(
            "log_weight",
            dist.Normal(beta[0] + X @ beta[1:], sigma),
            obs=jnp.log(jnp.asarray(weight, float)),
        )


def data() -> dict:
    """Return the weight and the sizes of 46 bushes."""
    return read("mesquite-logmesquite.json")
