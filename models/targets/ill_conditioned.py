"""Ill-conditioned Gaussian, rotated, so that no scaling of the coordinates makes it round.

    log pi(x) = -|L^-1 Q' x|^2 / 2,   Q orthogonal, L diagonal
    log Z = d / 2 log(2 pi) + sum log L_ii,   one mode at 0

The standard deviations L_ii run from ``1 / sqrt(condition_number)`` to 1, evenly on the log scale;
Q is the orthogonal factor of a Gaussian matrix of a fixed seed. Without a metric, the number of
gradients between two independent draws grows with the condition number k as sqrt(k) for Hamiltonian
trajectories and as k for Langevin proposals; a dense metric takes it back to what it is for k = 1.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import random
from jaxtyping import Array, Float, PRNGKeyArray

from models.targets.known import Known, vector


class IllConditionedGaussian(Known):
    """Rotated Gaussian with covariance eigenvalues from ``1 / condition_number`` to 1.

    Parameters
    ----------
    num_dims
        At least 2.
    condition_number
        Ratio of the largest to the smallest variance.
    seed
        Of the rotation.

    Raises
    ------
    ValueError
        If there are fewer than two dimensions, or the condition number is below 1.
    """

    rotation: Float[Array, "d d"]
    sds: Float[Array, " d"]

    def __init__(
        self, num_dims: int = 20, condition_number: float | int = 1e4, *, seed: int = 0
    ) -> None:
        if num_dims < 2:
            raise ValueError(f"num_dims must be at least 2; got {num_dims}")
        if not condition_number >= 1:
            raise ValueError(f"condition_number must be at least 1; got {condition_number}")
        normal = np.random.default_rng(seed).normal(size=(num_dims, num_dims))
        self.rotation = jnp.asarray(np.linalg.qr(normal)[0], float)
        self.sds = jnp.asarray(np.geomspace(condition_number**-0.5, 1, num_dims), float)

    @property
    def template(self) -> jax.ShapeDtypeStruct:
        return vector(len(self.sds))

    @property
    def log_normalizer(self) -> Float[Array, ""]:
        return len(self.sds) / 2 * math.log(2 * math.pi) + jnp.sum(jnp.log(self.sds))

    @property
    def covariance(self) -> Float[Array, "d d"]:
        """Covariance of the target."""
        return (self.rotation * self.sds**2) @ self.rotation.T

    @property
    def modes(self) -> Float[Array, "1 d"]:
        return jnp.zeros((1, len(self.sds)))

    def log_density(self, position: Float[Array, " d"]) -> Float[Array, ""]:
        round_position = (self.rotation.T @ position) / self.sds
        return -jnp.vdot(round_position, round_position) / 2

    def sample(self, rng_key: PRNGKeyArray, n: int) -> Float[Array, "n d"]:
        normal = random.normal(rng_key, (n, len(self.sds)), self.sds.dtype)
        return (normal * self.sds) @ self.rotation.T
