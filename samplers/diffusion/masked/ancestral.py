"""Ancestral sampling of masked diffusion, on a grid of times, with or without cached calls.

    t_k = 1 - k / T:   in step k = 0 .. T - 1 each masked place is revealed with probability
                       (t_k - t_(k+1)) / t_k = 1 / (T - k),   x_i ~ p(x_i | tokens not masked)

Tokens of one step are drawn independently of each other: biased, of length L by the L^2 / (2 T)
pairs that meet in a step. `FirstHitting` is the limit of many steps. A call of ``unmask`` serves
until a token is revealed [1]: on the average there are

    T (1 - (1 - 1 / T)^L)  calls,  fewer than T and than L.

When a place is revealed does not depend on what is revealed: its step is uniform on 0 .. T - 1,
drawn at the start, and steps without a reveal are not taken at all. Without the cache all T steps
are, each with its call, as in [2]; the draws are the same, bit for bit.

References
----------
.. [1] Ou et al., "Your absorbing discrete diffusion secretly models the conditional distributions
   of clean data", ICLR 2025, arXiv:2406.03736. The cached sampler.
.. [2] Sahoo et al., "Simple and effective masked diffusion language models", NeurIPS 2024,
   arXiv:2406.07524.
"""

import math
from dataclasses import replace
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax, random
from jaxtyping import Array, Int, PRNGKeyArray

from ppl.energy import Energy
from ppl.sampler import DirectSampler, Exactness, size
from samplers.diffusion.masked.categorical import draw_tokens
from samplers.diffusion.masked.process import all_masked, num_open, shape_of


class MaskedAncestral(DirectSampler):
    """Ancestral sampling of masked diffusion on a grid of times: biased.

    Parameters
    ----------
    num_steps
        T above.
    cached
        Whether a call of ``unmask`` serves until a token changes. ``num_evaluations`` counts the
        calls of a draw, with the cache their mean.

    Raises
    ------
    TargetError
        For a target whose positions are no sequences of tokens.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"unmask"})
    exactness: ClassVar[Exactness] = "biased"
    batch_size: ClassVar[int] = 256

    num_steps: int = size("num_steps", default=1024)
    cached: bool = eqx.field(static=True, default=True)
    length: int | None = eqx.field(static=True, default=None)  # to be revealed; `resolve` knows

    def check(self, target: Energy) -> None:
        shape_of(target, "MaskedAncestral")

    def resolve(self, target: Any) -> "MaskedAncestral":
        return replace(self, length=num_open(target))

    def draw(
        self, rng_key: PRNGKeyArray, target: Any, n: int
    ) -> tuple[Int[Array, "n length"], None]:
        key_steps, key_tokens = random.split(rng_key)
        blank, mask = all_masked(target, n)
        due = random.randint(key_steps, blank.shape, 0, self.num_steps)
        keys = random.split(key_tokens, n)

        def step(tokens: Array, now: Array) -> Array:
            """One step of each sequence, its own: a call, and the tokens that are due."""
            log_probs = jax.vmap(target.unmask)(tokens)
            here = jax.vmap(random.fold_in)(keys, now)
            drawn = jax.vmap(draw_tokens)(here, log_probs).astype(tokens.dtype)
            return jnp.where(due == now[:, None], drawn, tokens)

        if self.cached:
            over = self.num_steps
            next_due = lambda tokens: jnp.min(jnp.where(tokens == mask, due, over), axis=1)
            tokens = lax.while_loop(
                lambda tokens: jnp.any(tokens == mask),
                lambda tokens: step(tokens, next_due(tokens)),
                blank,
            )
        else:
            every = jnp.arange(self.num_steps)
            every = jnp.broadcast_to(every[:, None], (self.num_steps, n))
            tokens, _ = lax.scan(lambda tokens, now: (step(tokens, now), None), blank, every)
        return tokens, None

    def evaluations(self, n: int) -> tuple[int, int]:
        assert self.length is not None, "resolve(target) first, as ppl.sample does"
        return (0, math.ceil(n * self.num_calls(self.length)))

    def num_calls(self, length: int) -> float:
        """Mean number of calls for a sequence of this length."""
        t = self.num_steps
        return -t * math.expm1(length * math.log1p(-1 / t)) if self.cached and t > 1 else float(t)
