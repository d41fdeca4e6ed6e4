"""Gaussian mixtures: a denoiser in closed form, and the reverse chain without any error.

    q(x_0) = sum_k w_k N(m_k, s_k^2 I),    y = x_0 + kappa eps,    V_k = s_k^2 + kappa^2
    r_k(y) ~ w_k N(y; m_k, V_k I),         D(y) = sum_k r_k (s_k^2 y + kappa^2 m_k) / V_k

From y at kappa to y' at kappa' < kappa the reverse chain of the noising process is itself a mixture

    k ~ r(y),   x_0 ~ N(mu_k, v_k I),   y' ~ N(rho y + (1 - rho) x_0, kappa'^2 (1 - rho) I)

    mu_k = (s_k^2 y + kappa^2 m_k) / V_k,   v_k = s_k^2 kappa^2 / V_k,   rho = (kappa' / kappa)^2

so that `ExactReverse` draws the data's law in any number of steps, however few. A solver replaces
x_0 by D(y): it forgets v_k, which makes its draws too narrow by an amount that falls with the step.
Particle methods that are to be judged apart from that error run on the exact chain.

References
----------
.. [1] Ho, Jain and Abbeel, "Denoising diffusion probabilistic models", NeurIPS 2020,
   arXiv:2006.11239. Equation 7: y' given y and x_0.
"""

from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jax import random
from jax.nn import log_softmax
from jax.scipy.special import logsumexp
from jax.scipy.stats import norm
from jaxtyping import Array, Float, PRNGKeyArray

from ppl.mixture import denoised, mixture
from samplers.diffusion.solvers.ddim import DDPM


class MixtureDenoiser(eqx.Module):
    """The denoiser of a mixture of round Gaussians, for `DiffusionPrior`.

    Parameters
    ----------
    means
        One row for each component, (components, d).
    sds
        Standard deviations, one for each component or one for all.
    weights
        Shares of the components, which are normalized; equal by default.
    """

    means: Float[Array, "k d"]
    sds: Float[Array, " k"]
    log_shares: Float[Array, " k"]

    def __init__(self, means: Any, sds: Any = 1.0, weights: Any = None) -> None:
        self.means, self.sds, self.log_shares = mixture(means, sds, weights)

    def __call__(self, y: Float[Array, " d"], kappa: Any) -> Float[Array, " d"]:
        return denoised(self.means, self.sds, self.log_shares, y, kappa)

    def given(
        self, y: Float[Array, " d"], kappa: Any
    ) -> tuple[Float[Array, " k"], Float[Array, "k d"], Float[Array, " k"]]:
        """Log r, mu and v: the law of the data given y, a mixture again."""
        data = self.sds**2
        total = data + kappa**2
        squares = jnp.sum((y - self.means) ** 2, axis=1)
        logits = self.log_shares - len(y) / 2 * jnp.log(total) - squares / (2 * total)
        means = (data[:, None] * y + kappa**2 * self.means) / total[:, None]
        return log_softmax(logits), means, data * kappa**2 / total

    def sample(self, rng_key: PRNGKeyArray, n: int) -> Float[Array, "n d"]:
        """Exact draws of the data."""
        key_component, key_noise = random.split(rng_key)
        k = random.categorical(key_component, self.log_shares, shape=(n,), mode="high")
        noise = random.normal(key_noise, (n, self.means.shape[1]), self.means.dtype)
        return self.means[k] + self.sds[k][:, None] * noise

    def reverse(
        self, rng_key: PRNGKeyArray, y: Float[Array, " d"], kappa: Any, lower: Any
    ) -> Float[Array, " d"]:
        """A draw at the level ``lower``, which may be 0, given y at kappa."""
        key_component, key_noise = random.split(rng_key)
        log_shares, means, sds = self._reverse(y, kappa, lower)
        k = random.categorical(key_component, log_shares, mode="high")
        return means[k] + sds[k] * random.normal(key_noise, y.shape, y.dtype)

    def log_reverse(
        self, y: Float[Array, " d"], kappa: Any, after: Float[Array, " d"], lower: Any
    ) -> Float[Array, ""]:
        """Log-density of `reverse` at ``after``."""
        log_shares, means, sds = self._reverse(y, kappa, lower)
        return logsumexp(log_shares + jnp.sum(norm.logpdf(after, means, sds[:, None]), axis=1))

    def _reverse(self, y: Array, kappa: Any, lower: Any) -> tuple[Array, Array, Array]:
        log_shares, means, variances = self.given(y, kappa)
        rho = (lower / kappa) ** 2
        variances = (1 - rho) ** 2 * variances + lower**2 * (1 - rho)
        return log_shares, rho * y + (1 - rho) * means, jnp.sqrt(variances)


@dataclass(frozen=True)
class ExactReverse(DDPM):
    """The reverse chain of a `MixtureDenoiser` itself, in the place of a solver.

    Its mean and grid are those of `samplers.DDPM`; only the samplers of
    `samplers.diffusion.steering` know the rest.
    """
