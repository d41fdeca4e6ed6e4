"""Importance sampling from the prior, with a ladder of temperatures.

    x_i ~ prior,   w_i = L(x_i),   Z = mean_i w_i
    at inverse temperature b:   w_i(b) = L(x_i)^b,   Z(b) = mean_i w_i(b)

Nothing moves: the particles are prior draws and carry the likelihood as their weight. The ladder
climbs from the prior (b = 0) to the posterior (b = 1) in rungs that each lose the same share of
the effective sample size. It changes no answer; it shows where the population collapses, and
Z(b) is the path that a sampler with moves would have to bridge.

Z is unbiased and weighted averages are consistent, but the number of particles must grow like the
exponential of the divergence from prior to posterior [2]: for a few parameters and weak data.

References
----------
.. [1] Robert and Casella, "Monte Carlo statistical methods", 2nd ed., Springer, 2004,
   doi:10.1007/978-1-4757-4145-2. Section 3.3.
.. [2] Chatterjee and Diaconis, "The sample size required in importance sampling", Ann. Appl.
   Probab. 28, 2018, arXiv:1511.01437. Theorem 1.1.
"""

from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree

from ppl import weights
from ppl.energy import Energy, Position, TargetError
from ppl.sampler import Exactness, ParticleSampler, fraction, size
from samplers.smc.path import increments, next_inverse_temperature


class ImportanceState(NamedTuple):
    """Prior draws, their log-likelihoods (nats), and the rung."""

    particles: PyTree
    log_likelihood: Float[Array, " n"]
    inverse_temperature: Float[Array, ""]


class ImportanceInfo(NamedTuple):
    """A rung: its temperature, and what the population is worth there.

    ``num_illegal`` counts likelihoods that are NaN or infinite; their particles weigh nothing.
    """

    inverse_temperature: Float[Array, ""]
    ess: Float[Array, ""]
    log_evidence: Float[Array, ""]
    log_evidence_error: Float[Array, ""]
    num_illegal: Int[Array, ""]
    num_evaluations: Int[Array, "2"]


class ImportanceSampling(ParticleSampler):
    """Self-normalized importance sampling from the prior: asymptotically exact.

    Parameters
    ----------
    num_particles
        Draws from the prior.
    ess_kept
        Share of the effective sample size that a rung of the ladder keeps.

    Raises
    ------
    TargetError
        If the prior cannot be drawn from.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"log_likelihood"})
    exactness: ClassVar[Exactness] = "asymptotically exact"
    draws_apart: ClassVar[bool] = True

    num_particles: int = size("num_particles", default=4096)
    ess_kept: Float[Array, ""] = fraction("ess_kept", default=0.5)

    def check(self, target: Energy) -> None:
        prior = getattr(target, "prior", target)
        if isinstance(prior, Energy) and "sample" not in prior.offers:
            raise TargetError(f"ImportanceSampling draws from the prior: {prior.refuse('sample')}")

    def init(self, rng_key: PRNGKeyArray, target: Any) -> ImportanceState:
        # A posterior holds its prior; a model is its own, and its `sample` ignores the data.
        particles = getattr(target, "prior", target).sample(rng_key, self.num_particles)
        log_likelihood = jax.vmap(target.log_likelihood)(particles)
        return ImportanceState(particles, log_likelihood, jnp.zeros((), log_likelihood.dtype))

    def step(
        self, rng_key: PRNGKeyArray, target: Energy, state: ImportanceState
    ) -> tuple[ImportanceState, ImportanceInfo]:
        b, log_likelihood = state.inverse_temperature, state.log_likelihood
        next_b = next_inverse_temperature(
            log_likelihood, increments(b, log_likelihood), b, self.ess_kept
        )
        log_weights = increments(next_b, log_likelihood)
        # The driver counts steps, so the first one pays for `init`.
        evaluations = jnp.array([self.num_particles, 0], jnp.int32) * (b == 0)
        return state._replace(inverse_temperature=next_b), ImportanceInfo(
            next_b,
            weights.ess(log_weights),
            *weights.evidence(log_weights),
            weights.count_illegal(log_likelihood),
            evaluations,
        )

    def done(self, state: ImportanceState) -> Bool[Array, ""]:
        return state.inverse_temperature >= 1

    def collect(
        self, rng_key: PRNGKeyArray, target: Energy, state: ImportanceState, history: Any
    ) -> tuple[Position, Float[Array, " n"], Float[Array, ""]]:
        log_weights = increments(1.0, state.log_likelihood)
        return state.particles, log_weights, weights.log_mean_exp(log_weights)

    def log_evidence_error(self, history: dict[str, np.ndarray]) -> float | None:
        return float(history["log_evidence_error"][-1])
