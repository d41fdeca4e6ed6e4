"""Metropolis-Hastings over sequences, with suffixes drawn from a language model.

    i ~ U{0, .., T - 1};   y'_t = y_t for t < i,   y'_t ~ p(. | y'_<t) for t >= i
    log alpha = log pi(y') - log pi(y) + log T - log T'
                + sum_{t >= i} log p(y_t | y_<t) - sum_{t >= i} log p(y'_t | y'_<t)

A place of the sequence is drawn, what comes before it stays, and a model p writes the rest anew.
The target pi is any density over sequences: ``ppl.tilt(model, reward)`` is p(y) exp(reward(y)), and
the two sums cancel against it; a density without the model in it, exp(reward(y)) alone, asks for
them. They are sums over the suffix: with means in their place, as in a public release, the chain
leaves no law of interest invariant. Its draws come from the bulk of the model: what the model
hardly ever writes is hardly ever proposed.

References
----------
.. [1] Faria et al., "QUEST: Quality-aware Metropolis-Hastings sampling for machine translation",
   NeurIPS 2024, arXiv:2406.00049. Section 3.
.. [2] Hastings, "Monte Carlo sampling methods using Markov chains and their applications",
   Biometrika 57, 1970, doi:10.1093/biomet/57.1.97.
"""

from dataclasses import replace
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jax import random
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from ppl.energy import Energy, TargetError
from ppl.sampler import Exactness, MarkovKernel
from ppl.sequence import SequenceModel
from ppl.template import describe
from samplers.mcmc.metropolis import accept, illegal


class SequenceState(NamedTuple):
    """Tokens, their log-density (nats), and the model's log-probability of each."""

    position: Int[Array, " length"]
    log_density: Float[Array, ""]
    log_probs: Float[Array, " length"]


class SequenceInfo(NamedTuple):
    """What the Metropolis test said, and the place from which the proposal was new."""

    acceptance_rate: Float[Array, ""]
    is_accepted: Bool[Array, ""]
    diverging: Bool[Array, ""]
    first: Int[Array, ""]
    num_evaluations: Int[Array, "2"]


class SequenceMetropolis(MarkovKernel):
    """Metropolis-Hastings over sequences: exact.

    Parameters
    ----------
    proposal
        The `ppl.SequenceModel` that writes suffixes. None: the target's own, where the target is
        one or is a reward on one.

    Raises
    ------
    TargetError
        Before compilation: for a target that is no law of sequences of the proposal's length, or
        has no model of its own where none is given.

    Differences from the paper
    --------------------------
    The log-probabilities of a suffix are added up, where the authors' release averages them; the
    log-ratio is not clipped.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"log_density"})
    exactness: ClassVar[Exactness] = "exact"

    proposal: SequenceModel | None = None

    def check(self, target: Energy) -> None:
        model = _model_of(self, target)
        if model is None:
            raise TargetError(
                "SequenceMetropolis needs a model that writes suffixes: "
                "SequenceMetropolis(proposal=ppl.SequenceModel(...)), or a target "
                f"ppl.tilt(model, reward); got a {type(target).__name__} on "
                f"{describe(target.template)}"
            )
        leaves = jax.tree.leaves(target.template)
        same = len(leaves) == 1 and leaves[0].shape == (model.length,)
        if not same or not jnp.issubdtype(leaves[0].dtype, jnp.integer):
            raise TargetError(
                f"SequenceMetropolis moves sequences of tokens, {describe(model.template)}; this "
                f"target's positions are {describe(target.template)}. For real numbers use "
                "samplers.NUTS() or samplers.RandomWalk()."
            )

    def resolve(self, target: Energy) -> "SequenceMetropolis":
        return replace(self, proposal=_model_of(self, target))

    def init(
        self, rng_key: PRNGKeyArray, target: Energy, position: Int[Array, " length"]
    ) -> SequenceState:
        assert self.proposal is not None, "resolve(target) first, as ppl.sample does"
        tokens = self.proposal.padded(position)
        return SequenceState(tokens, target.log_density(tokens), self.proposal.log_probs(tokens))

    def step(
        self, rng_key: PRNGKeyArray, target: Energy, state: SequenceState
    ) -> tuple[SequenceState, SequenceInfo]:
        model = self.proposal
        assert model is not None, "resolve(target) first, as ppl.sample does"
        key_first, key_suffix, key_accept = random.split(rng_key, 3)
        size = model.size(state.position)
        first = random.randint(key_first, (), 0, size)
        tokens = model.redraw(key_suffix, state.position, first)
        proposed = SequenceState(tokens, target.log_density(tokens), model.log_probs(tokens))

        log_ratio = (
            proposed.log_density
            - state.log_density
            + log_proposal_ratio(
                state.log_probs, proposed.log_probs, size, model.size(tokens), first
            )
        )
        diverging = illegal(proposed.log_density)
        log_ratio = jnp.where(diverging, -jnp.inf, log_ratio)
        state, acceptance_rate, is_accepted = accept(key_accept, log_ratio, proposed, state)
        evaluations = jnp.array([1, 0], jnp.int32)
        return state, SequenceInfo(acceptance_rate, is_accepted, diverging, first, evaluations)


def log_proposal_ratio(
    log_probs: Float[Array, " length"],
    new_log_probs: Float[Array, " length"],
    size: Int[Array, ""],
    new_size: Int[Array, ""],
    first: Int[Array, ""],
) -> Float[Array, ""]:
    """Log of the odds of the way back to the way there, given the place ``first``."""
    suffix = jnp.arange(log_probs.size) >= first
    back, there = (jnp.sum(jnp.where(suffix, x, 0.0)) for x in (log_probs, new_log_probs))
    odds = size.astype(log_probs.dtype) / new_size.astype(log_probs.dtype)
    return jnp.log(odds) + back - there


def _model_of(kernel: SequenceMetropolis, target: Any) -> SequenceModel | None:
    for model in (kernel.proposal, target, getattr(target, "prior", None)):
        if isinstance(model, SequenceModel):
            return model
    return None
