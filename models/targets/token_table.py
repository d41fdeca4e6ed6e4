"""A law of short sequences of tokens as a table of all of them: every question has its answer.

    p(x_1 .. x_L) = table[x_1, .., x_L] / Z
    p(x_i = v | some of the tokens) = a sum over the others

The conditional laws are what masked diffusion learns (`samplers.MaskedPrior`), here exact; the law
under a reward is another table.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import random
from jax.scipy.special import logsumexp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from models.targets.known import Known


class TokenTable(Known):
    """A law of sequences given by the log-probabilities of all, up to a constant.

    Parameters
    ----------
    log_table
        An axis for each place, all of the size num_tokens: at least two tokens, not all -inf.
    """

    log_table: Float[Array, "..."]

    def __init__(self, log_table: Any) -> None:
        log_table = jnp.asarray(log_table, float)
        if log_table.ndim < 1 or len(set(log_table.shape)) != 1 or log_table.shape[0] < 2:
            raise ValueError(
                "log_table must have an axis for each place, all of one size of at least 2, the "
                f"number of tokens; got shape {log_table.shape}"
            )
        self.log_table = log_table

    @property
    def offers(self) -> frozenset[str]:
        return self._with_gradient("log_density", "sample", "log_normalizer", "unmask")

    @property
    def template(self) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((self.log_table.ndim,), jnp.int32)

    @property
    def num_tokens(self) -> int:
        """Number of tokens, the mask not counted."""
        return self.log_table.shape[0]

    @property
    def sequences(self) -> Int[np.ndarray, "all length"]:
        """All sequences, the last token running fastest: the order of ``log_table.ravel()``."""
        return np.stack(np.unravel_index(np.arange(self.log_table.size), self.log_table.shape), 1)

    def log_density(self, position: Int[Array, " length"]) -> Float[Array, ""]:
        return self.log_table[tuple(position)]

    @property
    def log_normalizer(self) -> Float[Array, ""]:
        return logsumexp(self.log_table)

    @property
    def modes(self) -> Int[Array, "1 length"]:
        """The likeliest sequence."""
        best = jnp.unravel_index(jnp.argmax(self.log_table), self.log_table.shape)
        return jnp.stack(best).astype(jnp.int32)[None]

    def sample(self, rng_key: PRNGKeyArray, n: int) -> Int[Array, "n length"]:
        number = random.categorical(rng_key, self.log_table.ravel(), shape=(n,), mode="high")
        places = jnp.unravel_index(number, self.log_table.shape)
        return jnp.stack(places, axis=1).astype(jnp.int32)

    def unmask(self, tokens: Int[Array, " length"]) -> Float[Array, "length num_tokens"]:
        """Log-probabilities of the tokens of each place, given those that are not masked."""
        length, num_tokens = self.log_table.ndim, self.num_tokens
        is_it = tokens[:, None] == jnp.arange(num_tokens)
        allowed = is_it | (tokens == num_tokens)[:, None]
        log_p = self.log_table
        for i in range(length):
            shape = [num_tokens if axis == i else 1 for axis in range(length)]
            log_p = jnp.where(allowed[i].reshape(shape), log_p, -jnp.inf)
        total = logsumexp(log_p)
        axes = range(length)
        rows = [logsumexp(log_p, axis=tuple(j for j in axes if j != i)) - total for i in axes]
        return jnp.stack(rows)

    def tilted(self, reward: Callable[..., Any], strength: float = 1.0) -> "TokenTable":
        """The law under a reward; the difference of the two log Z is that of ``ppl.tilt``."""
        values = jax.vmap(reward)(jnp.asarray(self.sequences, jnp.int32))
        return TokenTable(self.log_table + strength * values.reshape(self.log_table.shape))
