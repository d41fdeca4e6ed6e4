"""Many wells: a product of double wells and Gaussians, with 2^wells modes of known shares.

    log pi(x) = sum_(i < m) (-x_i^4 + a x_i^2 + b x_i + c)  -  sum_(i >= m) x_i^2 / 2

===============  ==========================================================  ====================
`many_well`      d = 32: 16 wells with a = 6, b = 1/2, c = 0, 16 Gaussians   log Z = 164.695675
`double_well`    the same with d = 2: one well, one Gaussian                 log Z = 10.293480
`many_well_5`    d = 5: 5 wells -(x^2 - 4)^2, even, no Gaussians             log Z = -0.541056
===============  ==========================================================  ====================

Its facts are those of one well, by quadrature. With a tilt, b = 1/2, 15.6 % of a well's mass lies
to the left, so that the two wells of each coordinate must be weighed and not only be found: a
sampler that misses all the left ones reports a log Z that is low by 0.1692 a well, 2.71 for
sixteen.

The papers list a well and a Gaussian in turn; here all wells come first.

References
----------
.. [1] Midgley et al., "Flow annealed importance sampling bootstrap", ICLR 2023, arXiv:2208.01893.
   The 32 dimensions, of pairs of [2].
.. [2] Noé et al., "Boltzmann generators", Science 365, 2019, arXiv:1812.01729.
.. [3] Chen et al., "Sequential controlled Langevin diffusions", ICLR 2025, arXiv:2412.07081.
   The five even wells.
"""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import random
from jaxtyping import Array, Bool, Float, PRNGKeyArray
from scipy.integrate import simpson

from models.targets.known import Known, vector

CELLS = 2**14


class ManyWell(Known):
    """Product of ``num_wells`` double wells and ``num_gaussians`` standard Gaussians.

    Exact draws invert the distribution function of a well on a grid of 2^14 cells.

    Parameters
    ----------
    num_wells
        The m above, at least 1.
    num_gaussians
        The rest of the dimensions.
    quadratic, tilt, constant
        The a, b and c above; a must be positive, and b so small that a well has two minima.

    Raises
    ------
    ValueError
        For sizes that make no sense, and for a well that has one minimum.
    """

    num_wells: int
    num_gaussians: int
    coefficients: Float[Array, " 3"]
    well_modes: Float[Array, " 2"]
    log_normalizer_of_well: Float[Array, ""]
    left_share: Float[Array, ""]
    quantiles: Float[Array, "2 cells"]

    def __init__(
        self,
        num_wells: int = 16,
        num_gaussians: int = 16,
        *,
        quadratic: float | int = 6.0,
        tilt: float | int = 0.5,
        constant: float | int = 0.0,
    ) -> None:
        if num_wells < 1 or num_gaussians < 0:
            raise ValueError(
                f"num_wells must be at least 1, num_gaussians 0; got {num_wells}, {num_gaussians}"
            )
        turns = np.roots([-4.0, 0.0, 2.0 * quadratic, tilt])
        if np.abs(turns.imag).max() > 1e-9 or quadratic <= 0:
            raise ValueError(
                "a double well has two minima: tilt^2 < 8 quadratic^3 / 27, quadratic positive; "
                f"got quadratic={quadratic}, tilt={tilt}"
            )
        left, _, right = np.sort(turns.real)
        # Where the density is exp(-80) of that at 0, in float64: the trapezoidal rule is exact.
        end = np.roots([1.0, 0.0, -quadratic, -abs(tilt), -80.0])
        end = np.max(end[np.abs(end.imag) < 1e-9].real)
        x = np.linspace(-end, end, CELLS + 1)
        density = np.exp(-(x**4) + quadratic * x**2 + tilt * x)
        total = np.trapezoid(density, x)
        half = slice(0, CELLS // 2 + 1)  # up to x = 0
        cdf = np.concatenate([[0.0], np.cumsum(density[1:] + density[:-1])])

        self.num_wells, self.num_gaussians = num_wells, num_gaussians
        self.coefficients = jnp.asarray([quadratic, tilt, constant], float)
        self.well_modes = jnp.asarray([left, right], float)
        self.log_normalizer_of_well = jnp.asarray(np.log(total) + constant, float)
        self.left_share = jnp.asarray(simpson(density[half], x[half]) / total, float)
        self.quantiles = jnp.asarray(np.stack([cdf / cdf[-1], x]), float)

    @property
    def template(self) -> jax.ShapeDtypeStruct:
        return vector(self.num_wells + self.num_gaussians)

    @property
    def log_normalizer(self) -> Float[Array, ""]:
        gaussians = self.num_gaussians / 2 * math.log(2 * math.pi)
        return self.num_wells * self.log_normalizer_of_well + gaussians

    @property
    def modes(self) -> Float[Array, "modes d"]:
        """All 2^wells of them: 65,536 for the sixteen wells."""
        signs = np.array(list(itertools.product([0, 1], repeat=self.num_wells)))
        return jnp.pad(self.well_modes[signs], ((0, 0), (0, self.num_gaussians)))

    def log_density(self, position: Float[Array, " d"]) -> Float[Array, ""]:
        x, rest = position[: self.num_wells], position[self.num_wells :]
        a, b, c = self.coefficients
        return jnp.sum(-(x**4) + a * x**2 + b * x + c) - jnp.vdot(rest, rest) / 2

    def sample(self, rng_key: PRNGKeyArray, n: int) -> Float[Array, "n d"]:
        key_wells, key_rest = random.split(rng_key)
        dtype = self.quantiles.dtype
        u = random.uniform(key_wells, (n, self.num_wells), dtype)
        rest = random.normal(key_rest, (n, self.num_gaussians), dtype)
        return jnp.concatenate([jnp.interp(u, *self.quantiles), rest], axis=1)

    def in_left_well(self, positions: Float[Array, "n d"]) -> Bool[Array, "n wells"]:
        """For each draw and each well, whether it is left of 0: ``left_share`` of them are."""
        return positions[:, : self.num_wells] < 0


def many_well(num_dims: int = 32) -> ManyWell:
    """Half of the dimensions tilted wells, half of them Gaussian.

    Raises
    ------
    ValueError
        For an odd number of dimensions.
    """
    if num_dims < 2 or num_dims % 2:
        raise ValueError(f"num_dims must be even, at least 2; got {num_dims}")
    return ManyWell(num_dims // 2, num_dims // 2)


def double_well() -> ManyWell:
    """One tilted well and one Gaussian."""
    return many_well(2)


def many_well_5() -> ManyWell:
    """Five even wells, -(x^2 - 4)^2."""
    return ManyWell(5, 0, quadratic=8.0, tilt=0.0, constant=-16.0)
