"""Germination of seeds on 21 plates: logistic regression with an effect of each plate, d = 26.

    germinated_i ~ Binomial(total_i, logit = a0 + a1 seed_i + a2 extract_i
                                             + a12 seed_i extract_i + b_i)
    b_i ~ Normal(0, tau^(-1/2)),   tau ~ Gamma(0.01, 0.01),   a0, a1, a2, a12 ~ Normal(0, 10)

``seed`` and ``extract`` say which of two species and of two root extracts a plate held. The prior
of the precision is so vague that the effects of the plates have a funnel with a long neck.

Data: the table of [1] (also "Seeds" in the first volume of the BUGS examples): published facts.

References
----------
.. [1] M. J. Crowder, "Beta-binomial Anova for proportions", Applied Statistics 27, 1978,
   doi:10.2307/2346223.
"""

import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from jax.typing import ArrayLike
from jaxtyping import Int

from models.programs.read import read

dims: dict[str, list[str]] = {}
coords: dict[str, list] = {}


def model(
    germinated: Int[ArrayLike, " plate"],
    total: Int[ArrayLike, " plate"],
    seed: Int[ArrayLike, " plate"],
    extract: Int[ArrayLike, " plate"],
) -> None:
    """Seeds that germinated, of a ``total`` on each plate; ``seed`` and ``extract`` are 0 or 1."""
    seed, extract = jnp.asarray(seed, float), jnp.asarray(extract, float)
    tau = numpyro.sample("tau", dist.Gamma(0.01, 0.01))
    a0 = numpyro.sample("a0", dist.Normal(0, 10))
    a1 = numpyro.sample("a1", dist.Normal(0, 10))
    a2 = numpyro.sample("a2", dist.Normal(0, 10))
    a12 = numpyro.sample("a12", dist.Normal(0, 10))
    with numpyro.plate("plate", seed.shape[0]):
        b = numpyro.sample("b", dist.Normal(0, tau**-0.5))
        logits = a0 + a1 * seed + a2 * extract + a12 * seed * extract + b
        law = dist.Binomial(jnp.asarray(total), logits=logits)
        numpyro.sample("germinated", law, obs=jnp.asarray(germinated))


def data() -> dict:
    """Return the counts of 21 plates."""
    return read("seeds.json")
