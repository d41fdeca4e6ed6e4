"""Rejection sampling: exact draws, where a bound on the likelihood is known.

    x ~ prior,   kept with probability L(x) / B,   B >= max L
    acceptance rate = Z / B

What is kept is an independent draw of the posterior, exactly. The price is the acceptance rate:
many proposals for a draw where data say much. The mean of the acceptance probabilities gives Z, as
importance sampling from the prior would. For a density of another kind take what bounds it as the
prior: ``ppl.tilt(envelope, lambda x: log p(x) - log envelope(x))``.

References
----------
.. [1] J. von Neumann, "Various techniques used in connection with random digits", National Bureau
   of Standards Applied Mathematics Series 12, 1951.
.. [2] L. Devroye, "Non-uniform random variate generation", Springer, 1986,
   doi:10.1007/978-1-4613-8643-8. Chapter II.3.
"""

from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import random
from jax.core import Tracer
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree

from ppl import weights
from ppl.energy import Energy, Position, TargetError
from ppl.sampler import Exactness, ParticleSampler, size


def _log_bound(value: Any) -> Any:
    if isinstance(value, Tracer) or type(value) is object:
        return value
    expected = "log_bound must be a finite number of nats, no likelihood being larger"
    if isinstance(value, bool | str) or value is None or np.ndim(value) or not np.isfinite(value):
        raise ValueError(f"{expected}; got {value!r}")
    return jnp.asarray(value, jnp.result_type(float))


class RejectionState(NamedTuple):
    """Draws so far, in a buffer of its full size; ``excess`` is the largest log L - log B seen."""

    draws: PyTree
    num_accepted: Int[Array, ""]
    num_proposed: Int[Array, ""]
    excess: Float[Array, ""]


class RejectionInfo(NamedTuple):
    """A batch of proposals: acceptance probabilities, their mean and mean square, and the count.

    ``excess`` is the largest log L - log B so far, in nats; ``num_illegal`` counts likelihoods that
    are NaN or infinite, of proposals that are never kept.
    """

    acceptance_rate: Float[Array, ""]
    mean_square: Float[Array, ""]
    num_accepted: Int[Array, ""]
    num_proposed: Int[Array, ""]
    excess: Float[Array, ""]
    num_illegal: Int[Array, ""]
    num_evaluations: Int[Array, "2"]


class RejectionSampling(ParticleSampler):
    """Rejection sampling from the prior: exact, independent draws, and the evidence.

    Parameters
    ----------
    log_bound
        ``log B`` above: the largest log-likelihood there can be, or more, in nats. For a reward
        its maximum.
    num_particles
        Draws.
    batch_size
        Proposals at a time.
    max_proposals
        Proposals after which the run gives up.

    Raises
    ------
    TargetError
        If the prior cannot be sampled; if a proposal has a likelihood above the bound, with by how
        much: the draws are then not exact; if ``max_proposals`` were not enough.

    Notes
    -----
    ``history["acceptance_rate"]`` holds the acceptance of each batch, and every proposal is counted
    as an evaluation. The error of log Z is that of a mean of independent numbers. That the run
    stops when it has its draws biases Z by less than the square of that error.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"log_likelihood"})
    exactness: ClassVar[Exactness] = "exact"

    log_bound: Float[Array, ""] = eqx.field(converter=_log_bound)
    num_particles: int = size("num_particles", default=1000)
    batch_size: int = size("batch_size", default=4096)
    max_proposals: int = size("max_proposals", default=20_000_000)

    def check(self, target: Energy) -> None:
        prior = getattr(target, "prior", target)
        if isinstance(prior, Energy) and "sample" not in prior.offers:
            raise TargetError(f"RejectionSampling draws from the prior: {prior.refuse('sample')}")

    def init(self, rng_key: PRNGKeyArray, target: Energy) -> RejectionState:
        empty = jax.tree.map(
            lambda leaf: jnp.zeros((self.num_particles, *leaf.shape), leaf.dtype), target.template
        )
        zero = jnp.zeros((), jnp.int32)
        return RejectionState(empty, zero, zero, jnp.full_like(self.log_bound, -jnp.inf))

    def step(
        self, rng_key: PRNGKeyArray, target: Any, state: RejectionState
    ) -> tuple[RejectionState, RejectionInfo]:
        key_propose, key_accept = random.split(rng_key)
        # A posterior holds its prior; a model is its own, and its `sample` ignores the data.
        proposals = getattr(target, "prior", target).sample(key_propose, self.batch_size)
        log_likelihoods = jax.vmap(target.log_likelihood)(proposals)
        illegal = weights.count_illegal(log_likelihoods).astype(jnp.int32)
        above = weights.clean(log_likelihoods) - self.log_bound.astype(log_likelihoods.dtype)
        probabilities = jnp.exp(jnp.minimum(above, 0))
        uniforms = random.uniform(key_accept, above.shape, above.dtype)
        is_accepted = uniforms < probabilities

        # The first ones that are kept fill the buffer; what does not fit falls off its end.
        place = state.num_accepted + jnp.cumsum(is_accepted) - 1
        place = jnp.where(is_accepted, place, self.num_particles)
        draws = jax.tree.map(
            lambda buffer, x: buffer.at[place].set(x, mode="drop"), state.draws, proposals
        )
        excess = jnp.maximum(state.excess, jnp.max(above).astype(state.excess.dtype))
        after = RejectionState(
            draws,
            state.num_accepted + jnp.sum(is_accepted, dtype=jnp.int32),
            state.num_proposed + self.batch_size,
            excess,
        )
        return after, RejectionInfo(
            acceptance_rate=jnp.mean(probabilities),
            mean_square=jnp.mean(probabilities**2),
            num_accepted=after.num_accepted,
            num_proposed=after.num_proposed,
            excess=excess,
            num_illegal=illegal,
            num_evaluations=jnp.array([self.batch_size, 0], jnp.int32),
        )

    def done(self, state: RejectionState) -> Bool[Array, ""]:
        spent = state.num_proposed >= self.max_proposals
        return (state.num_accepted >= self.num_particles) | spent | self._is_violated(state.excess)

    def collect(
        self, rng_key: PRNGKeyArray, target: Energy, state: RejectionState, history: Any
    ) -> tuple[Position, None, Float[Any, ""]]:
        rate = np.mean(np.asarray(history["acceptance_rate"], np.float64))
        return state.draws, None, np.log(rate) + np.float64(self.log_bound)

    def log_evidence_error(self, history: dict[str, np.ndarray]) -> float | None:
        mean = np.mean(np.asarray(history["acceptance_rate"], np.float64))
        square = np.mean(np.asarray(history["mean_square"], np.float64))
        relative = max(square / mean**2 - 1, 0.0)
        return float(np.sqrt(relative / history["num_proposed"][-1]))

    def notes(self, history: dict[str, np.ndarray]) -> list[str]:
        excess = float(history["excess"][-1])
        accepted, proposed = (int(history[n][-1]) for n in ("num_accepted", "num_proposed"))
        if bool(self._is_violated(excess)):
            raise TargetError(
                f"RejectionSampling: a draw of the prior has a log-likelihood that is {excess:.4g} "
                f"nats above log_bound={float(self.log_bound):.6g}, so that no draw is exact. Give "
                "the maximum of the log-likelihood, or more"
            )
        if accepted < self.num_particles:
            raise TargetError(
                f"RejectionSampling: {accepted} of {proposed} proposals were accepted, fewer than "
                f"num_particles={self.num_particles}. Lower log_bound to the maximum of the "
                "log-likelihood if it is above that, raise max_proposals, or take a sampler that "
                "finds its way, such as samplers.TemperedSMC()"
            )
        if lost := int(history["num_illegal"].sum()):
            return [f"the likelihood of {lost} proposals is NaN or infinite; they were not kept"]
        return []

    def _is_violated(self, excess: Any) -> Any:
        """Beyond what rounding may do."""
        return excess > 16 * jnp.finfo(self.log_bound.dtype).eps * (1 + jnp.abs(self.log_bound))
