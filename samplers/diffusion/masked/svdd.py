"""Soft value-based decoding of masked diffusion: at each reveal the best of a few, by chance.

    c_1..c_M ~ p(. | x_t): M ways to reveal,   x_(t-1) = c_j with probability ~ exp(v_(t-1)(c_j))

The method of `samplers.diffusion.steering.svdd`, which says how far its draws are right, where a
move is a reveal: v is the reward of the tokens so far with the likeliest for the others, or a value
function of the user's, see `samplers.diffusion.masked.reveals`. Biased; `MaskedNestedSVDD` mends it
by weights.

References
----------
.. [1] Li et al., "Derivative-free guidance in continuous and discrete diffusion models with soft
   value-based decoding", 2024, arXiv:2408.08252. Algorithm 1; sections 4.1 and 4.2.
"""

from typing import Any, ClassVar

import equinox as eqx
from jax import random
from jaxtyping import Array, Float, PRNGKeyArray

from ppl.sampler import Exactness, size
from samplers.diffusion.masked.reveals import Reveal, Revealed, RevealModel, SteeredReveals
from samplers.diffusion.steering.candidates import chosen, repeated


class MaskedSVDDModel(RevealModel):
    """Reveals with the choice among candidates in each."""

    target: Any
    value: Any
    tokens_per_step: int = eqx.field(static=True)
    num_candidates: int = eqx.field(static=True)
    nested: bool = eqx.field(static=True)

    def advance(
        self, rng_key: PRNGKeyArray, particles: Revealed, row: Reveal
    ) -> tuple[Revealed, Float[Array, " n"]]:
        key_move, key_choice = random.split(rng_key)
        candidates = self.moved(key_move, repeated(particles, self.num_candidates))
        values = self.promised(candidates, row)
        return chosen(key_choice, particles, candidates, values, nested=self.nested)


class MaskedCandidates(eqx.Module):
    """What both versions share, besides `SteeredReveals`."""

    exactness: ClassVar[Exactness]

    num_particles: eqx.AbstractVar[int]
    num_candidates: eqx.AbstractVar[int]
    value: eqx.AbstractVar[Any]
    tokens_per_step: eqx.AbstractVar[int]

    def spent(self) -> tuple[int, int]:
        calls = self.num_particles * self.num_candidates
        return calls, calls

    def on_levels(self, target: Any) -> MaskedSVDDModel:
        return MaskedSVDDModel(  # pyright: ignore[reportCallIssue]
            target=target, value=self.value, tokens_per_step=self.tokens_per_step,
            num_candidates=self.num_candidates, nested=self.exactness != "biased",
        )  # fmt: skip


class MaskedSVDD(MaskedCandidates, SteeredReveals):
    """Soft value-based decoding of masked diffusion: biased, without weights and evidence.

    The target is a reward, ``ppl.tilt(prior, reward)``, on a `MaskedPrior` or whatever else offers
    ``unmask``.

    Parameters
    ----------
    num_particles
        Draws, each by itself.
    num_candidates
        M: ways to reveal, from which each is chosen.
    value
        ``value(tokens) -> scalar`` of tokens and masks, in place of the reward of the likeliest
        tokens: an approximation of the soft value; a module, if it has parameters.
    tokens_per_step
        Tokens revealed in a step.

    Raises
    ------
    TargetError
        For a target that is no reward on a masked law, or a reward that is NaN.

    Differences from the paper
    --------------------------
    The published code takes the best candidate, not one by chance.
    """

    exactness: ClassVar[Exactness] = "biased"
    # Never: there are no weights.
    resample_below: ClassVar[float] = 0.0  # pyright: ignore[reportIncompatibleVariableOverride]
    resampling: ClassVar[str] = "stratified"  # pyright: ignore[reportIncompatibleVariableOverride]

    num_particles: int = size("num_particles", default=1024)
    num_candidates: int = size("num_candidates", default=10)
    value: Any = None
    tokens_per_step: int = size("tokens_per_step", default=1)
    length: int | None = eqx.field(static=True, default=None)
