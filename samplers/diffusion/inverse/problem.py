"""A posterior under a diffusion prior, in the coordinates that inverse rules are written in.

    z = x_0 + kappa eps,     D(z) = E[x_0 | z],     y = A x_0 + noise

Points z are those of a variance-exploding path whatever the path of the prior is: relative to its
center, divided by alpha, and raveled if a position is no array. The score of their law is
``(D - z) / kappa^2``, and the covariance of x_0 given z is ``kappa^2 dD / dz``.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from ppl.algebra import Posterior
from ppl.energy import Energy, Position, TargetError
from ppl.linear_gaussian import LinearGaussian
from samplers.diffusion.paths import Level
from samplers.diffusion.prior import DiffusionPrior

ANY_LIKELIHOOD = "DPS(guidance='likelihood'), DAPS, PnPDM, REDDiff and STSL"


class Problem(eqx.Module):
    """The parts of a posterior, for one point at a time."""

    target: Posterior

    @property
    def prior(self) -> DiffusionPrior:
        """The prior."""
        return self.target.prior

    @property
    def likelihood(self) -> LinearGaussian:
        """The linear likelihood; a strength other than one is noise of another size."""
        likelihood: Any = self.target.log_likelihood_fn
        root = jnp.sqrt(self.target.strength)
        noise = jax.tree.map(lambda sd: sd / root.astype(sd.dtype), likelihood.noise_std)
        return eqx.tree_at(lambda part: part.noise_std, likelihood, noise)

    def denoise(self, z: Array, level: Level) -> Array:
        """``D(z)`` at this level."""
        return self.prior.denoised(level.alpha * z, level)

    def position(self, z: Array) -> Position:
        """The user's position of a point."""
        return self.prior.position(self.prior.center + z)

    def point(self, position: Position) -> Array:
        """The point of a position."""
        return self.prior.flat(position) - self.prior.center

    def log_likelihood(self, z: Array) -> Float[Array, ""]:
        """Log-likelihood of a point."""
        return self.target.log_likelihood(self.position(z))

    def residual(self, z: Array) -> PyTree:
        """``y - A x``."""
        return self.likelihood.residual(self.position(z))

    def normal_residual(self, z: Array) -> tuple[Array, Float[Array, ""]]:
        """``A^T (y - A x)`` as a direction of points, and ``|y - A x|^2``."""
        direction, squared = self.likelihood.normal_residual(self.position(z))
        return self.prior.flat(direction), squared

    def adjoint(self, observation: PyTree) -> Array:
        """``A^T w`` as a direction of points."""
        return self.prior.flat(self.likelihood.adjoint(observation))

    def forward(self, direction: Array) -> PyTree:
        """``A v`` of a direction."""
        return self.likelihood.forward(self.prior.position(direction))

    def plus_noise(self, product: PyTree, w: PyTree) -> PyTree:
        """``product + R w`` with the covariance R of the noise."""
        sd = self.likelihood.noise_std
        if isinstance(sd, jax.Array):
            sd = jax.tree.map(lambda _: sd, w)
        return jax.tree.map(lambda a, b, sd: a + sd**2 * b, product, w, sd)


def require_prior(target: Energy, name: str) -> None:
    """Raise unless the target is a posterior whose prior is a diffusion prior."""
    prior = getattr(target, "prior", None)
    if isinstance(target, Posterior) and isinstance(prior, DiffusionPrior):
        return
    what = f"the prior is a {type(prior).__name__}" if prior is not None else "it has no prior"
    raise TargetError(
        f"{name} samples ppl.posterior(prior, likelihood) under a samplers.DiffusionPrior; in this "
        f"{type(target).__name__} {what}. A denoiser makes one: samplers.DiffusionPrior("
        "samplers.EDM(), denoiser, template)"
    )


def require_linear(target: Any, name: str, *, noise: bool = True, svd: bool = False) -> None:
    """Raise unless the likelihood is linear and Gaussian, with what the method needs of it."""
    likelihood = target.log_likelihood_fn
    if not isinstance(likelihood, LinearGaussian):
        raise TargetError(
            f"{name} uses the structure of a linear observation: ppl.posterior(prior, "
            "ppl.LinearGaussian(operator, observation, noise_std)); this log-likelihood is a "
            f"function without one. Any log-likelihood is taken by {ANY_LIKELIHOOD}"
        )
    if noise:
        likelihood.require_noise(name)
    if svd and likelihood.svd is None:
        raise TargetError(
            f"{name} works in the singular vectors of the operator, and this one has none. Give a "
            "matrix (at most 1,024 rows and columns), an operator that is its own decomposition "
            "(ppl.linear_operators.SVD), or LinearGaussian(..., svd=...); without it there are "
            "PiGDM, TMPD, DiffPIR and DAPS"
        )
