"""Scalar field on a periodic lattice, phi^4 theory [1]: two phases, and a barrier that grows.

    log pi(phi) = -S(phi)
    S = sum_x [-2 kappa phi_x (phi_(x+1) + phi_(x+2)) + (1 - 2 lam) phi_x^2 + lam phi_x^4]

The sum runs over the sites of a torus, x+1 and x+2 are the neighbors of x along its two axes. At a
small kappa sites are nearly independent; at a large one the field has a sign, two modes that a
local sampler does not cross. With lam = 0.022 on 8 by 8 sites the mean of ``|sum phi| / sites`` is
2.0870 and 4.8298 at kappa = 0.3 and 0.5, and 0.1474 at kappa = 0.2, by 400 long Metropolis chains
of single sites. log Z is not known in closed form.

References
----------
.. [1] Nicoli et al., "Estimation of thermodynamic observables in lattice field theories with deep
   generative models", Phys. Rev. Lett. 126, 2021, arXiv:2007.07115. The action.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ppl.energy import Energy
from ppl.sampler import nonnegative, positive, size


class Phi4(Energy):
    """phi^4 theory on ``num_rows`` by ``num_columns`` sites of a torus.

    Parameters
    ----------
    num_rows, num_columns
        Size of the lattice.
    kappa
        Coupling of neighbors.
    lam
        Strength of the fourth power.
    """

    num_rows: int = size("num_rows", default=8)
    num_columns: int = size("num_columns", default=8)
    kappa: Float[Array, ""] = nonnegative("kappa", default=0.2)
    lam: Float[Array, ""] = positive("lam", default=0.022)

    @property
    def template(self) -> jax.ShapeDtypeStruct:
        dtype = jax.dtypes.canonicalize_dtype(float)
        return jax.ShapeDtypeStruct((self.num_rows, self.num_columns), dtype)

    def log_density(self, position: Float[Array, "rows columns"]) -> Float[Array, ""]:
        phi, squares = position, position**2
        neighbors = jnp.roll(phi, -1, axis=0) + jnp.roll(phi, -1, axis=1)
        alone = (1 - 2 * self.lam) * squares + self.lam * squares**2
        return jnp.sum(2 * self.kappa * phi * neighbors - alone)

    def magnetization(self, positions: Float[Array, "*n rows columns"]) -> Float[Array, "*n"]:
        """Mean of the field over the sites, with its sign."""
        return jnp.mean(positions, axis=(-2, -1))
