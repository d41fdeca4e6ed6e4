"""The reveals of a masked law as the moves of a Feynman-Kac model, and the run of one.

    x_T: masks,    x_(t-1) ~ M_t(x_t, .): the tokens of k masked places, any k of them

Time runs from T to 0, the number of reveals that are left, and x_0 is the draw; with k = 1 it has
the law of the target's prior, as `samplers.FirstHitting` draws it. A particle carries
``unmask(x_t)``, which the next reveal needs, and the sequence whose masked places hold their
likeliest tokens: what is promised so far, and what a reward is asked of [1]. So N particles cost
what N plain draws cost. A value function of the user's, on tokens and masks, may stand in for it.

References
----------
.. [1] Li et al., "Derivative-free guidance in continuous and discrete diffusion models with soft
   value-based decoding", 2024, arXiv:2408.08252. Section 4: masked diffusion.
"""

from dataclasses import replace
from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import random
from jax.core import Tracer
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from ppl import weights
from ppl.energy import Energy, TargetError
from samplers.diffusion.chain import AlongLevels, LevelInfo, LevelState, ReverseModel
from samplers.diffusion.masked.process import (
    all_masked,
    likeliest,
    random_places,
    reveal,
    shape_of,
)

# The model --------------------------------------------------------------------------------------


class Reveal(NamedTuple):
    """One move, or all of them with a leading axis; ``index`` counts from 0."""

    index: Any
    is_last: Any


class Revealed(NamedTuple):
    """Particles: tokens, what ``unmask`` says of them, what is promised, and a memory.

    ``denoised`` holds the tokens, and the likeliest in the masked places.
    """

    tokens: Int[Array, "n length"]
    log_probs: Float[Array, "n length num_tokens"]
    denoised: Int[Array, "n length"]
    memory: PyTree


class RevealModel(ReverseModel):
    """Reveals of the prior of a target, ``tokens_per_step`` at a time.

    A method defines ``advance``; `moved` is the move, `promised` what it is weighed by.
    """

    target: eqx.AbstractVar[Any]
    value: eqx.AbstractVar[Any]
    tokens_per_step: eqx.AbstractVar[int]

    @property
    def steps(self) -> Reveal:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The rows of a run."""
        length = jax.tree.leaves(self.target.prior.template)[0].shape[0]
        index = jnp.arange(-(-length // self.tokens_per_step))
        return Reveal(index, index == len(index) - 1)

    def positions(self, particles: Revealed) -> Int[Array, "n length"]:
        return particles.tokens

    def start(self, rng_key: PRNGKeyArray, n: int) -> tuple[Revealed, Float[Array, " n"]]:
        """Masks: all particles are alike, and one call of ``unmask`` will do."""
        one = self.arrived(all_masked(self.target.prior, 1)[0])
        particles = jax.tree.map(lambda x: jnp.repeat(x, n, axis=0), one)
        zeros = jnp.zeros(n, particles.log_probs.dtype)
        return particles._replace(memory=self.begin(zeros)), zeros

    def begin(self, zeros: Float[Array, " n"]) -> PyTree:
        """What particles remember of the start, whose reward counts as zero."""
        return zeros

    def moved(self, rng_key: PRNGKeyArray, particles: Revealed) -> Revealed:
        """A draw from M_t, and what is promised after it."""
        mask, count = particles.log_probs.shape[-1], self.tokens_per_step

        def one(key: PRNGKeyArray, tokens: Array, log_probs: Array) -> Array:
            key_places, key_tokens = random.split(key)
            places = random_places(key_places, tokens == mask, count)
            return reveal(key_tokens, tokens, log_probs, places)

        keys = random.split(rng_key, len(particles.tokens))
        return self.arrived(jax.vmap(one)(keys, particles.tokens, particles.log_probs))

    def arrived(self, tokens: Int[Array, "n length"]) -> Revealed:
        """Particles of these tokens."""
        log_probs = jax.vmap(self.target.prior.unmask)(tokens)
        return Revealed(tokens, log_probs, jax.vmap(likeliest)(tokens, log_probs), ())

    def promised(self, particles: Revealed, step: Reveal) -> Float[Array, " n"]:
        """What particles promise after a step, and after the last one have."""
        dtype = particles.log_probs.dtype
        rewards = jax.vmap(self.target.log_likelihood)(particles.denoised).astype(dtype)
        if self.value is None:
            return rewards
        guess = jax.vmap(self.value)(particles.tokens).astype(dtype)
        return jnp.where(step.is_last, rewards, guess)


# The sampler ------------------------------------------------------------------------------------


class SteeredReveals(AlongLevels):
    """A sampler whose particles are revealed token by token; a method defines ``on_levels``.

    Attributes
    ----------
    value
        A value function of tokens and masks, or None.
    tokens_per_step
        Tokens revealed in a step, each by itself; with more than one the law that is steered is
        that of ``FirstHitting(tokens_per_call=...)``.
    length
        Of a sequence; `resolve` knows.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"unmask", "log_likelihood"})
    weighs: ClassVar[str] = "reward"

    value: eqx.AbstractVar[Any]
    tokens_per_step: eqx.AbstractVar[int]
    length: eqx.AbstractVar[int | None]

    def check(self, target: Any) -> None:
        """Raise unless this is a reward on a masked law, finite where one looks first."""
        name, prior = type(self).__name__, getattr(target, "prior", None)
        if not hasattr(prior, "unmask"):
            raise TargetError(
                f"{name} steers the draws of a masked law, as in ppl.tilt(prior, reward) with a "
                f"samplers.MaskedPrior; the prior of this target is a {type(prior).__name__}"
            )
        length, _ = shape_of(prior, name)
        if self.tokens_per_step > length:
            raise ValueError(
                f"tokens_per_step must be at most the length of a sequence, {length}; got "
                f"{self.tokens_per_step}"
            )
        _check_reward(self.resolve(target).on_levels(target), name)

    def resolve(self, target: Any) -> "SteeredReveals":
        return replace(self, length=jax.tree.leaves(target.prior.template)[0].shape[0])

    @property
    def num_moves(self) -> int:
        assert self.length is not None, "resolve(target) first, as ppl.sample does"
        return -(-self.length // self.tokens_per_step)

    def spent(self) -> tuple[int, int]:
        return self.num_particles, self.num_particles

    def step(
        self, rng_key: PRNGKeyArray, target: Energy, state: LevelState
    ) -> tuple[LevelState, LevelInfo]:
        after, info = AlongLevels.step(self, rng_key, target, state)
        # The start is one call for all, and no reward.
        spent = jnp.asarray(self.spent(), jnp.int32) + jnp.array([0, 1]) * (state.step == 0)
        return after, info._replace(num_evaluations=spent.astype(jnp.int32))


@eqx.filter_jit
def _first_reward(model: Any) -> tuple[Array, Array]:
    first = model.start(random.key(0), 1)[0].denoised[0]
    return model.target.log_likelihood(first), first


def _check_reward(model: Any, name: str) -> None:
    """Raise where the first reward that is met is no number."""
    leaves = jax.tree.leaves(eqx.filter(model, eqx.is_array))
    if any(isinstance(leaf, Tracer) for leaf in leaves):
        return
    value, tokens = _first_reward(model)
    if weights.is_illegal(np.asarray(value)):
        raise TargetError(
            f"{name}: the reward is {float(value)} at the first sequence that is promised, "
            f"{np.asarray(tokens).tolist()}; expected a number, or -inf for what is impossible"
        )
