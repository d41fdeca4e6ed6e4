"""Log-density of a diffusion prior, by the probability-flow equation.

In variance-preserving coordinates x = y / sqrt(1 + kappa^2), with s = log kappa,

    dx / ds = x / (1 + kappa^2) - D / sqrt(1 + kappa^2)
    log p(x, s_0) = log p(x(s_1), s_1) + int div(dx / ds) ds
    div = d / (1 + kappa^2) - tr(dD / dy)

so that x keeps its size all along and the equation is smooth at both ends. The trace is exact, d
products with the Jacobian, or that of Hutchinson [2]: the mean of v'(dD/dy)v over random signs v,
unbiased for the log-density, with a standard error from the spread of the probes. At the highest
noise the law is Gaussian up to terms in kappa^-3: its mean and variance there are D and its trace.

What is computed is the density of the law with the noise of the path's ``t_min`` still on it.

References
----------
.. [1] Song et al., "Score-based generative modeling through stochastic differential equations",
   ICLR 2021, arXiv:2011.13456. Section 4.3.
.. [2] Grathwohl et al., "FFJORD: free-form continuous dynamics for scalable reversible generative
   models", ICLR 2019, arXiv:1810.01367. The trace estimate.
"""

import math
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import random
from jaxtyping import Array, Float, PRNGKeyArray

from ppl.energy import Position
from ppl.sampler import positive

EXACT = 32  # dimension up to which the trace is exact where nobody says otherwise


class LogDensity(NamedTuple):
    """A log-density in nats, and its standard error: zero where the trace is exact."""

    value: Float[Array, ""]
    std_error: Float[Array, ""]


class ProbabilityFlow(eqx.Module):
    """How a `DiffusionPrior` computes its log-density.

    Parameters
    ----------
    rtol, atol
        Tolerances of the equation, adaptive steps of Tsitouras' method of order 5.
    num_probes
        Probes of the trace; 0: exact. None: exact up to 32 dimensions, 16 probes beyond.
    seed
        Of the probes that ``log_density`` uses, the same for every position.
    max_steps
        Steps after which the value is not a number.
    """

    rtol: Float[Array, ""] = positive("rtol", default=1e-4)
    atol: Float[Array, ""] = positive("atol", default=1e-5)
    num_probes: int | None = eqx.field(static=True, default=None)
    seed: int = eqx.field(static=True, default=0)
    max_steps: int = eqx.field(static=True, default=4096)

    def log_density(self, prior: Any, position: Position) -> Float[Array, ""]:
        """Value with the probes of ``seed``: a function of the position, with a gradient."""
        return self.estimate(random.key(self.seed), prior, position).value

    def estimate(self, rng_key: PRNGKeyArray, prior: Any, position: Position) -> LogDensity:
        """Value and standard error, with probes of their own."""
        import diffrax

        path, y = prior.path, prior.flat(position) - prior.center
        d, dtype = y.size, y.dtype
        probes = self._probes(rng_key, y)
        ends = jnp.asarray(jnp.stack([path.t_min, path.t_max]), dtype)
        s0, s1 = -path.log_snr(ends)

        def denoised(y: Array, s: Array) -> Array:
            level = path.level(path.time(-s))
            level = level._replace(sigma=jnp.exp(s) * level.alpha)
            return prior.denoised(level.alpha * y, level)

        def traced(y: Array, s: Array) -> tuple[Array, Array]:
            """D, and the trace of its Jacobian by each probe, or exactly."""
            if probes is None:
                basis = jnp.eye(d, dtype=dtype).reshape(d, *y.shape)
            else:
                basis = probes
            value, push = jax.linearize(lambda y: denoised(y, s), y)
            through = jax.vmap(lambda v: jnp.sum(v * push(v)))(basis)
            return value, jnp.sum(through)[None] if probes is None else through

        def flow(s: Any, state: Any, args: Any) -> tuple[Array, Array]:
            x, kappa = state[0], jnp.exp(s)
            alpha = 1 / jnp.sqrt(1 + kappa**2)
            value, trace = traced(x / alpha, s)
            return x * alpha**2 - alpha * value, d * alpha**2 - trace

        alpha0, alpha1 = 1 / jnp.sqrt(1 + jnp.exp(2 * s0)), 1 / jnp.sqrt(1 + jnp.exp(2 * s1))
        tolerances: Any = self.rtol.astype(dtype), self.atol.astype(dtype)
        controller = diffrax.PIDController(*tolerances)
        count = 1 if probes is None else len(probes)
        solution: Any = diffrax.diffeqsolve(
            diffrax.ODETerm(flow), diffrax.Tsit5(), s0, s1, None,
            (alpha0 * y, jnp.zeros(count, dtype)),
            stepsize_controller=controller,
            max_steps=self.max_steps, throw=False,
        )  # fmt: skip
        x, gained = solution.ys[0][-1], solution.ys[1][-1]
        kappa2 = jnp.exp(2 * s1)
        mean, trace = traced(jnp.zeros_like(y), s1)
        variance = kappa2 * (1 + trace / d)
        square = jnp.sum((x / alpha1 - mean) ** 2)
        at_end = -square / (2 * variance) - d / 2 * jnp.log(2 * math.pi * variance)
        # From y to x at the one end and back at the other.
        values = at_end - d * jnp.log(alpha1) + gained + d * jnp.log(alpha0)
        good = solution.result == diffrax.RESULTS.successful
        value = jnp.where(good, jnp.mean(values), jnp.nan)
        error = jnp.std(values, ddof=1) / math.sqrt(count) if count > 1 else jnp.zeros((), dtype)
        return LogDensity(value, error)

    def _probes(self, rng_key: PRNGKeyArray, y: Array) -> Float[Array, "m ..."] | None:
        count = self.num_probes
        if count is None:
            count = 0 if y.size <= EXACT else 16
        return random.rademacher(rng_key, (count, *y.shape), y.dtype) if count else None
