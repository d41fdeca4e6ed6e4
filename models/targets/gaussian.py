"""Standard Gaussian, the easiest target of all, where the cost of dimension shows alone.

    log pi(x) = -|x|^2 / 2,   log Z = d / 2 log(2 pi),   one mode at 0

The number of steps between two independent draws grows as d for a random walk, as d^(1/3) for
Langevin proposals and as d^(1/4) for Hamiltonian trajectories [1, 2].

References
----------
.. [1] Roberts and Rosenthal, "Optimal scaling for various Metropolis-Hastings algorithms",
   Statistical Science 16, 2001, doi:10.1214/ss/1015346320.
.. [2] Beskos et al., "Optimal tuning of the hybrid Monte Carlo algorithm", Bernoulli 19, 2013,
   arXiv:1001.4460.
"""

import math

import jax
import jax.numpy as jnp
from jax import random
from jaxtyping import Array, Float, PRNGKeyArray

from models.targets.known import Known, vector
from ppl.sampler import size


class Gaussian(Known):
    """Standard Gaussian in ``num_dims`` dimensions."""

    num_dims: int = size("num_dims", default=10)

    @property
    def template(self) -> jax.ShapeDtypeStruct:
        return vector(self.num_dims)

    @property
    def log_normalizer(self) -> Float[Array, ""]:
        return jnp.asarray(self.num_dims / 2 * math.log(2 * math.pi))

    @property
    def modes(self) -> Float[Array, "1 d"]:
        return jnp.zeros((1, self.num_dims))

    def log_density(self, position: Float[Array, " d"]) -> Float[Array, ""]:
        return -jnp.vdot(position, position) / 2

    def sample(self, rng_key: PRNGKeyArray, n: int) -> Float[Array, "n d"]:
        return random.normal(rng_key, (n, self.num_dims), self.template.dtype)
