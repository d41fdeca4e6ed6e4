"""Eight schools, non-centered: partial pooling of eight estimates of known error.

    mu ~ Normal(0, 5),   tau ~ HalfCauchy(5),   theta_trans_j ~ Normal(0, 1)
    theta_j = mu + tau theta_trans_j,           y_j ~ Normal(theta_j, sigma_j)

The effect of coaching on a test score in eight schools, each with its standard error. ``theta`` is
written through ``theta_trans``, so that the funnel between ``theta`` and a small ``tau`` is absent
from the sampled space.

Data: posteriordb, case ``eight_schools-eight_schools_noncentered`` (BSD-3).

References
----------
.. [1] D. B. Rubin, "Estimation in parallel randomized experiments", Journal of Educational
   Statistics 6, 1981.
.. [2] A. Gelman et al., "Bayesian data analysis", 3rd edition, 2013, section 5.5.
"""

import numpyro
import numpyro.distributions as dist
from jax.typing import ArrayLike
from jaxtyping import Num

from models.programs.read import read

dims: dict[str, list[str]] = {}
coords = {"school": ["A", "B", "C", "D", "E", "F", "G", "H"]}


def model(y: Num[ArrayLike, " school"], sigma: Num[ArrayLike, " school"]) -> None:
    """Effects ``theta`` of J schools with estimates ``y`` and standard errors ``sigma``."""
    mu = numpyro.sample("mu", dist.Normal(0, 5))
    tau = numpyro.sample("tau", dist.HalfCauchy(5))
    with numpyro.plate("school", len(y)):
        theta_trans = numpyro.sample("theta_trans", dist.Normal(0, 1))
        theta = numpyro.deterministic("theta", mu + tau * theta_trans)
        numpyro.sample("y", dist.Normal(theta, sigma), obs=y)


def data() -> dict:
    """Return the eight estimates and their standard errors."""
    return read("eight_schools-eight_schools_noncentered.json")
