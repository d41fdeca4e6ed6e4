"""Particles that attract and repel each other, whose center of mass is fixed.

    DW4     E(x) = sum_(i < j) [0.9 (r_ij - 4)^4 - 4 (r_ij - 4)^2],              4 particles, d = 2
    LJ13    E(x) = sum_(i != j) [r_ij^-12 - 2 r_ij^-6] + sum_i |x_i - mean|^2 / 2,    13, d = 3

Energies depend on distances alone, and moving all particles together changes nothing: a density of
the particles themselves has no integral. Positions are therefore coordinates z of the space where
the mean is zero, in an orthonormal basis: ``x = B' z``, B of the shape (particles - 1, particles).
Lengths and volumes are kept, so that no Jacobian appears and white noise in z is what the papers
call mean-free noise. Draws come back as particles (``constrain``).

The sum of LJ13 counts each pair twice, as the published runs do; 1/2 as ``pair_weight`` counts it
once. No log Z and no exact draws are known, but for two particles, where both are an integral in
one dimension. Without the oscillator the lowest energy of thirteen, an icosahedron's, is
``-44.326801 * 2 pair_weight`` [3]. What looks like an overflow is one: at r = 0.01 an energy is
10^24.

References
----------
.. [1] Köhler, Klein and Noé, "Equivariant flows: exact likelihood generative learning for symmetric
   densities", ICML 2020, arXiv:2006.02425. Both systems.
.. [2] Akhound-Sadegh et al., "Iterated denoising energy matching for sampling from Boltzmann
   densities", ICML 2024, arXiv:2402.06121. These constants.
.. [3] Wales and Doye, "Global optimization by basin-hopping", J. Phys. Chem. A 101, 1997,
   arXiv:cond-mat/9803344.
"""

from abc import abstractmethod

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg
from jaxtyping import Array, Float

from ppl.energy import Energy
from ppl.sampler import nonnegative, positive, size


class _Particles(Energy):
    """Energies of squared distances, on the space where the mean is zero."""

    num_particles: int
    num_space: int

    @property
    def template(self) -> jax.ShapeDtypeStruct:
        dtype = jax.dtypes.canonicalize_dtype(float)
        return jax.ShapeDtypeStruct((self.num_particles - 1, self.num_space), dtype)

    @property
    def basis(self) -> np.ndarray:
        """Orthonormal rows that are orthogonal to the constant vector (Helmert's)."""
        return scipy.linalg.helmert(self.num_particles)

    def constrain(self, position: Float[Array, "m space"]) -> Float[Array, "particles space"]:
        return jnp.matmul(jnp.asarray(self.basis.T, position.dtype), position, precision="highest")

    def unconstrain(self, values: Float[Array, "particles space"]) -> Float[Array, "m space"]:
        return jnp.matmul(jnp.asarray(self.basis, values.dtype), values, precision="highest")

    def squared_distances(self, position: Float[Array, "m space"]) -> Float[Array, " pairs"]:
        """Of all pairs, each once."""
        x = self.constrain(position)
        i, j = np.triu_indices(self.num_particles, 1)
        return jnp.sum((x[i] - x[j]) ** 2, axis=1)

    @abstractmethod
    def pair_energy(self, squared: Float[Array, " pairs"]) -> Float[Array, " pairs"]:
        """Energy of pairs at these squared distances."""


class DoubleWellParticles(_Particles):
    """Particles on a plane whose distances have two preferred values; by default DW4.

    Parameters
    ----------
    num_particles, num_space
        How many, and the dimension they live in.
    quartic, barrier, offset
        The energy of a pair is ``quartic (r - offset)^4 - barrier (r - offset)^2``.
    """

    num_particles: int = size("num_particles", minimum=2, default=4)
    num_space: int = size("num_space", default=2)
    quartic: Float[Array, ""] = positive("quartic", default=0.9)
    barrier: Float[Array, ""] = nonnegative("barrier", default=4.0)
    offset: Float[Array, ""] = nonnegative("offset", default=4.0)

    def pair_energy(self, squared: Float[Array, " pairs"]) -> Float[Array, " pairs"]:
        # The slope of a square root at 0 is infinite, and many samplers start all particles there.
        r = jnp.where(squared > 0, jnp.sqrt(jnp.where(squared > 0, squared, 1.0)), 0.0)
        square = (r - self.offset) ** 2
        return self.quartic * square**2 - self.barrier * square

    def log_density(self, position: Float[Array, "m space"]) -> Float[Array, ""]:
        return -jnp.sum(self.pair_energy(self.squared_distances(position)))


class LennardJones(_Particles):
    """Lennard-Jones particles held together by an oscillator; by default LJ13.

    Parameters
    ----------
    num_particles, num_space
        How many, and the dimension they live in. LJ55 has 55.
    pair_weight
        Factor of the sum over ordered pairs; a pair counts twice this.
    oscillator
        Strength of the oscillator; 0: none, and the density has no integral.
    """

    num_particles: int = size("num_particles", minimum=2, default=13)
    num_space: int = size("num_space", default=3)
    pair_weight: Float[Array, ""] = positive("pair_weight", default=1.0)
    oscillator: Float[Array, ""] = nonnegative("oscillator", default=1.0)

    def pair_energy(self, squared: Float[Array, " pairs"]) -> Float[Array, " pairs"]:
        sixth = squared**-3.0
        return 2 * self.pair_weight * (sixth**2 - 2 * sixth)

    def log_density(self, position: Float[Array, "m space"]) -> Float[Array, ""]:
        pairs = jnp.sum(self.pair_energy(self.squared_distances(position)))
        return -pairs - self.oscillator * jnp.sum(position**2) / 2  # the basis keeps lengths
