"""Independence Metropolis-Hastings: proposals from a sampler that weighs its draws.

    y ~ q, with log-weight w(y);   accept with probability min(1, e^(w(y) - w(x)))      ([1], 2.3.3)

where w = log pi - log q for a law q with a density. A draw at the end of a random path, as those of
`samplers.PIS` are, has the weight of its path instead: the chain then moves on paths, whose law
under the target ends in pi [2], and carries the weight along. Exact either way, whatever the
sampler has learned; what it has not learned shows in the acceptance rate. The chain forgets where
it was with each acceptance, so it crosses between modes as often as the proposals do, and stands
still for long where the weights have a heavy tail.

References
----------
.. [1] Tierney, "Markov chains for exploring posterior distributions", Ann. Statist. 22, 1994,
   doi:10.1214/aos/1176325750.
.. [2] Andrieu, Doucet and Holenstein, "Particle Markov chain Monte Carlo methods", J. R. Stat. Soc.
   B 72, 2010, doi:10.1111/j.1467-9868.2009.00736.x. Section 4.2: a chain on an extended space.
"""

from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jax import random
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree

from ppl import weights
from ppl.energy import Energy, Position, TargetError
from ppl.sampler import DirectSampler, Exactness, MarkovKernel
from ppl.template import describe
from samplers.mcmc.metropolis import accept


class IndependenceState(NamedTuple):
    """A position and the log-weight (nats) it came with."""

    position: PyTree
    log_weight: Float[Array, ""]


class IndependenceInfo(NamedTuple):
    """What the Metropolis test said, and the weight that the chain now carries.

    ``diverging`` where the weight of the proposal is no number.
    """

    acceptance_rate: Float[Array, ""]
    is_accepted: Bool[Array, ""]
    diverging: Bool[Array, ""]
    log_weight: Float[Array, ""]
    num_evaluations: Int[Array, "2"]


class IndependenceMetropolis(MarkovKernel):
    """Independence Metropolis-Hastings: exact.

    Parameters
    ----------
    proposal
        A sampler of independent, weighted draws of the same target: ``draws.sampler`` of a trained
        `PIS`, `DDS`, `CMCD`, `GaussianVI`, ...

    Raises
    ------
    TargetError
        If it draws without weights, or draws of another shape.
    TypeError
        If it is not trained, or no sampler of independent draws.

    Differences from the paper
    --------------------------
    The weight of the start is drawn by the proposal, given the position; of one that cannot tell
    it, it is zero: the first proposal is accepted.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"log_density"})
    exactness: ClassVar[Exactness] = "exact"

    proposal: Any

    def __check_init__(self) -> None:
        require_draws("proposal", self.proposal, "IndependenceMetropolis(draws.sampler)")

    def check(self, target: Energy) -> None:
        check_proposal("IndependenceMetropolis", self.proposal, target)

    def init(self, rng_key: PRNGKeyArray, target: Energy, position: Position) -> IndependenceState:
        batch = jax.tree.map(lambda x: x[None], position)
        log_weights = self.proposal.log_weights(rng_key, target, batch)
        if log_weights is None:
            log_weights = jnp.full(1, -jnp.inf)
        return IndependenceState(position, log_weights[0])

    def step(
        self, rng_key: PRNGKeyArray, target: Energy, state: IndependenceState
    ) -> tuple[IndependenceState, IndependenceInfo]:
        key_draw, key_accept = random.split(rng_key)
        drawn, log_weights = self.proposal.draw(key_draw, target, 1)
        proposed = IndependenceState(
            jax.tree.map(lambda x: x[0], drawn), log_weights[0].astype(state.log_weight.dtype)
        )
        # A start without weight takes the first proposal that has any.
        diverging = weights.is_illegal(proposed.log_weight)
        never = diverging | (proposed.log_weight == -jnp.inf)
        log_ratio = jnp.where(never, -jnp.inf, proposed.log_weight - state.log_weight)
        state, rate, is_accepted = accept(key_accept, log_ratio, proposed, state)
        evaluations = jnp.array(self.proposal.evaluations(1), jnp.int32)
        info = IndependenceInfo(rate, is_accepted, diverging, state.log_weight, evaluations)
        return state, info


# The door -----------------------------------------------------------------------------------------


def require_draws(field: str, value: Any, write: str) -> None:
    """Raise unless the value of a field is a sampler of independent draws, trained if need be."""
    if isinstance(value, DirectSampler) or type(value) is object:
        return
    raise TypeError(
        f"{field} must be a sampler of independent draws; got {type(value).__name__}. Train one, "
        f"draws = ppl.sample(samplers.PIS(), target), and write {write}"
    )


def check_proposal(user: str, proposal: Any, target: Energy) -> None:
    """Raise unless a sampler gives weighted draws of this target."""
    name = type(getattr(proposal, "sampler", proposal)).__name__
    me = f"{user} by {name}"
    for capability in sorted(proposal.needs - target.offers):
        raise TargetError(f"{me} needs {capability!r}: {target.refuse(capability)}")
    try:
        drawn, log_weights = jax.eval_shape(lambda k: proposal.draw(k, target, 1), random.key(0))
    except (TypeError, ValueError) as error:
        raise TargetError(f"{me} was trained on another target: {error}") from error
    if log_weights is None:
        raise TargetError(f"{me} cannot be exact: {name} draws without weights")
    one = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), drawn)
    if describe(one) != describe(target.template):
        raise TargetError(
            f"{me} proposes {describe(one)}; positions of this target are "
            f"{describe(target.template)}"
        )
