"""A linear problem along the singular vectors of its operator, one coordinate at a time.

A = U diag(s) V',   c = V' z,   d = U' (y - A center) / s = c + r e,   r = noise_std / s
log p(y) = log p(d) - sum log s + log N(part of y that no x makes; 0, noise_std^2)
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from ppl.energy import TargetError
from ppl.linear_operators import squared_norm
from samplers.diffusion.inverse.problem import Problem


class Basis:
    """What is seen of each coordinate, and with which noise; ``seen`` where s > 0."""

    def __init__(self, problem: Problem) -> None:
        svd: Any = problem.likelihood.svd
        self.problem, self.svd, values = problem, svd, svd.singular_values
        self.seen = values > 0
        self.divisor = jnp.where(self.seen, values, 1)
        point = problem.prior.point
        self.residual = problem.residual(jnp.zeros(point.shape, point.dtype))
        self.data = svd.u_adjoint(self.residual) / self.divisor
        self.noise = jnp.where(self.seen, problem.likelihood.noise_std / self.divisor, 0)

    def coefficients(self, z: Array) -> Array:
        """``V' z``."""
        return self.svd.v_adjoint(self.problem.prior.position(z))

    def point(self, coefficients: Array) -> Array:
        """``V c``."""
        return self.problem.prior.flat(self.svd.v(coefficients))

    @property
    def log_constant(self) -> Array:
        """``log p(y) - log p(d)``."""
        noise = self.problem.likelihood.noise_std
        made = self.svd.u(self.data * self.divisor)
        rest = squared_norm(jax.tree.map(jnp.subtract, self.residual, made))
        count = self.problem.likelihood.num_observed - jnp.sum(self.seen)
        normal = -rest / (2 * noise**2) - count * (jnp.log(noise) + 0.5 * math.log(2 * math.pi))
        return normal - jnp.sum(jnp.log(self.divisor))


def require_basis(target: Any, name: str) -> None:
    """Raise unless coordinates are real and all observations have one noise."""
    likelihood = target.log_likelihood_fn
    noise = likelihood.noise_std
    if not (isinstance(noise, jax.Array) and noise.ndim == 0):
        raise TargetError(
            f"{name} works in singular vectors and takes one noise_std for all observations; got "
            "one for each. Divide operator and observation by it"
        )
    coefficients = jax.eval_shape(likelihood.svd.v_adjoint, likelihood.template)
    if jnp.issubdtype(coefficients.dtype, jnp.complexfloating):
        raise TargetError(
            f"{name} works in real singular vectors, and those of this operator are complex: take "
            "real and imaginary parts, or a method without them, such as PiGDM, TMPD and DAPS"
        )
