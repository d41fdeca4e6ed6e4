"""First-hitting sampler: masked tokens revealed one at a time, each time one is due.

    tau_(n-1) = tau_n u^(1/n),  u ~ U(0, 1):   the next reveal, of n tokens that are masked
    i ~ any masked place,   x_i ~ p(x_i | the tokens that are not masked)

Steps of the reverse process in which nothing happens are not taken [1]: it jumps from one reveal to
the next, for a call of ``unmask`` a token, whatever the number of steps would have been.
The law is that of the process in continuous time: exact. Times drop out, since ``unmask`` does not
look at them (see `samplers.diffusion.masked.process`).

Several tokens at a call, ``tokens_per_call=k``, are k places drawn independently given the others:
k times fewer calls, and biased, by as much as these k depend on each other.

References
----------
.. [1] Zheng et al., "Masked diffusion models are secretly time-agnostic masked models and exploit
   inaccurate categorical sampling", ICLR 2025, arXiv:2409.02908. The first-hitting sampler, and
   its parallel form.
"""

from dataclasses import replace
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax, random
from jaxtyping import Array, Int, PRNGKeyArray

from ppl.energy import Energy
from ppl.sampler import DirectSampler, Exactness, size
from samplers.diffusion.masked.process import (
    all_masked,
    num_open,
    random_places,
    reveal,
    shape_of,
)


class _Claim:
    """Exact with one token at a call, the default of the class."""

    def __get__(self, sampler: Any, cls: type) -> Exactness:
        return "exact" if sampler is None or sampler.tokens_per_call == 1 else "biased"


class FirstHitting(DirectSampler):
    """First-hitting draws of a masked law: exact with one token at a call.

    Parameters
    ----------
    tokens_per_call
        Tokens that are revealed after each call of ``unmask``; more than one is biased.

    Raises
    ------
    TargetError
        For a target whose positions are no sequences of tokens.
    ValueError
        For more tokens at a call than a sequence has.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"unmask"})
    exactness: ClassVar[Any] = _Claim()
    batch_size: ClassVar[int] = 256

    tokens_per_call: int = size("tokens_per_call", default=1)
    length: int | None = eqx.field(static=True, default=None)  # to be revealed; `resolve` knows

    def check(self, target: Energy) -> None:
        length, _ = shape_of(target, "FirstHitting")
        if self.tokens_per_call > length:
            raise ValueError(
                f"tokens_per_call must be at most the length of a sequence, {length}; got "
                f"{self.tokens_per_call}"
            )

    def resolve(self, target: Any) -> "FirstHitting":
        return replace(self, length=num_open(target))

    def draw(
        self, rng_key: PRNGKeyArray, target: Any, n: int
    ) -> tuple[Int[Array, "n length"], None]:
        key_order, key_tokens = random.split(rng_key)
        blank, mask = all_masked(target, n)
        length, k = blank.shape[1], self.tokens_per_call
        count = length if self.length is None else self.length
        order = lambda key, tokens: random_places(key, tokens == mask, count)
        orders = jax.vmap(order)(random.split(key_order, n), blank)
        calls = -(-count // k)
        beyond = jnp.full((n, calls * k - count), length)  # the last call may have fewer
        places = jnp.concatenate([orders, beyond], axis=1).reshape(n, calls, k)

        def call(tokens: Array, at: tuple[Array, Array]) -> tuple[Array, None]:
            now, places = at
            keys = random.split(random.fold_in(key_tokens, now), n)
            log_probs = jax.vmap(target.unmask)(tokens)
            return jax.vmap(reveal)(keys, tokens, log_probs, places), None

        return lax.scan(call, blank, (jnp.arange(calls), places.swapaxes(0, 1)))[0], None

    def evaluations(self, n: int) -> tuple[int, int]:
        # What tells the tokens of all places costs what a denoiser costs.
        assert self.length is not None, "resolve(target) first, as ppl.sample does"
        return (0, n * -(-self.length // self.tokens_per_call))
