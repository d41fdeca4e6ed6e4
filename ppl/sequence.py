"""Autoregressive laws of sequences of tokens, as targets, priors and proposals.

    p(y) = prod_t p(y_t | y_1, ..., y_{t-1}),   up to and with the end token

A position is an integer array of fixed length; after its first end token it holds end tokens only.
A sequence that has not ended by the last place ends there: its last token is the end token, with
probability one. Without an end token all sequences have the full length.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax, random
from jax.core import Tracer
from jaxtyping import Array, ArrayLike, Bool, Float, Int, PRNGKeyArray

from ppl.energy import Energy, TargetError
from ppl.template import as_data


class SequenceModel(Energy):
    """An autoregressive model of token sequences: normalized, and drawn token by token.

    With a reward on top, ``ppl.tilt(model, reward)``, it is the law of controlled generation.

    Parameters
    ----------
    logits_fn
        ``logits_fn(params, tokens) -> (length, num_tokens)``: row t holds the logits of token t,
        and depends on the tokens before t only, as those of a causal transformer fed with its
        tokens shifted by one. A plain function; what can change goes into ``params``.
    params
        Its parameters, traced.
    length
        Length of a position, the end token included.
    end_token
        The token that ends a sequence; None: none does.
    row_fn
        ``row_fn(params, tokens, t) -> (num_tokens,)``: row t alone, where that is cheaper than all
        rows, as for a model that looks back a few places. Drawing asks for one row at a time.

    Raises
    ------
    TargetError
        For a function that returns other shapes, that looks ahead, or whose rows cannot be
        normalized, and for a ``row_fn`` that disagrees; before compilation.

    Examples
    --------
    >>> import jax.numpy as jnp, ppl
    >>> steady = lambda params, tokens: jnp.broadcast_to(params, (5, 3))
    >>> model = ppl.SequenceModel(steady, jnp.log(jnp.array([0.42, 0.28, 0.3])), 5, end_token=2)
    >>> round(float(jnp.exp(model.log_density(jnp.array([1, 0, 2, 2, 2])))), 5)
    0.03528
    """

    logits_fn: Callable[..., Any] = eqx.field(static=True)
    params: Any
    length: int = eqx.field(static=True)
    end_token: int | None = eqx.field(static=True)
    num_tokens: int = eqx.field(static=True)
    row_fn: Callable[..., Any] | None = eqx.field(static=True)

    def __init__(
        self,
        logits_fn: Callable[..., ArrayLike],
        params: Any,
        length: int,
        end_token: int | None = None,
        row_fn: Callable[..., ArrayLike] | None = None,
    ):
        if not callable(logits_fn):
            raise TargetError(f"logits_fn must be a function (params, tokens); got {logits_fn!r}")
        if isinstance(length, bool) or not isinstance(length, int | np.integer) or length < 1:
            raise TargetError(f"length must be an integer, at least 1; got {length!r}")
        self.logits_fn, self.params = logits_fn, as_data(params)
        self.length, self.end_token, self.row_fn = int(length), end_token, row_fn
        out = jax.eval_shape(logits_fn, self.params, self.template)
        shape = getattr(out, "shape", None)
        if shape is None or len(shape) != 2 or shape[0] != length:
            raise TargetError(
                f"logits_fn must return logits of shape (length, num_tokens) = ({length}, ...), a "
                f"row for each place; got {shape}"
            )
        self.num_tokens = shape[1]
        if end_token is not None and not 0 <= end_token < self.num_tokens:
            raise TargetError(
                f"end_token must be one of the {self.num_tokens} tokens of logits_fn, 0 to "
                f"{self.num_tokens - 1}; got {end_token!r}"
            )
        self._try_out()

    @property
    def template(self) -> jax.ShapeDtypeStruct:
        """Tokens of one sequence."""
        return jax.ShapeDtypeStruct((self.length,), jnp.dtype("int32"))

    @property
    def offers(self) -> frozenset[str]:
        return self._with_gradient("log_density", "sample", "log_normalizer")

    @property
    def log_normalizer(self) -> Float[Array, ""]:
        """Zero: the law is normalized."""
        return jnp.zeros(())

    def log_density(self, position: Int[Array, " length"]) -> Float[Array, ""]:
        """Log-probability of a sequence; -inf where something follows its end."""
        total = jnp.sum(self.log_probs(position))
        return jnp.where(jnp.all(self.padded(position) == position), total, -jnp.inf)

    def log_probs(self, tokens: Int[Array, " length"]) -> Float[Array, " length"]:
        """Log-probability of each token given those before it; zero after the end."""
        log_p = jnp.take_along_axis(self.log_rows(tokens), tokens[:, None], axis=1)[:, 0]
        return jnp.where(self._after_end(tokens), 0.0, log_p)

    def log_rows(self, tokens: Int[Array, " length"]) -> Float[Array, "length num_tokens"]:
        """Log-probability of every token at every place, given the tokens before."""
        rows = jax.nn.log_softmax(jnp.asarray(self.logits_fn(self.params, tokens)), axis=1)
        over = jnp.arange(self.length) == self.length - 1
        return self._ended(rows, (over | self._after_end(tokens))[:, None])

    def log_row(
        self, tokens: Int[Array, " length"], t: Int[Array, ""]
    ) -> Float[Array, " num_tokens"]:
        """Log-probability of every token at place t, given the tokens before."""
        if self.row_fn is None:
            return self.log_rows(tokens)[t]
        row = jax.nn.log_softmax(jnp.asarray(self.row_fn(self.params, tokens, t)))
        return self._ended(row, (t == self.length - 1) | self.is_over(tokens, t))

    def sample(self, rng_key: PRNGKeyArray, n: int) -> Int[Array, "n length"]:
        """Draw ``n`` sequences."""
        empty = jnp.zeros(self.length, jnp.int32)
        return jax.vmap(lambda key: self.redraw(key, empty, jnp.int32(0)))(random.split(rng_key, n))

    def redraw(
        self, rng_key: PRNGKeyArray, tokens: Int[Array, " length"], first: Int[Array, ""]
    ) -> Int[Array, " length"]:
        """Keep the tokens before ``first`` and draw the rest from the model."""

        def place(tokens: Array, t: Array) -> tuple[Array, None]:
            row = self.log_row(tokens, t)
            # A draw decides all that follows: the default generator never draws what is rarer
            # than 1e-7.
            drawn = random.categorical(random.fold_in(rng_key, t), row, mode="high")
            token = jnp.where(t < first, tokens[t], drawn.astype(jnp.int32))
            tokens = tokens.at[t].set(token)
            return self.padded(tokens), None

        return lax.scan(place, tokens, jnp.arange(self.length))[0]

    def size(self, tokens: Int[Array, " length"]) -> Int[Array, ""]:
        """Number of tokens up to and with the first end token."""
        if self.end_token is None:
            return jnp.int32(self.length)
        is_end = tokens == self.end_token
        return jnp.where(jnp.any(is_end), jnp.argmax(is_end) + 1, self.length).astype(jnp.int32)

    def is_over(self, tokens: Int[Array, " length"], t: Int[Array, ""]) -> Bool[Array, ""]:
        """Whether the sequence has ended before place t."""
        if self.end_token is None:
            return jnp.zeros((), bool)
        return jnp.any((tokens == self.end_token) & (jnp.arange(self.length) < t))

    def padded(self, tokens: Int[Array, " length"]) -> Int[Array, " length"]:
        """Same sequence, with end tokens after its end."""
        if self.end_token is None:
            return tokens
        return jnp.where(self._after_end(tokens), self.end_token, tokens).astype(jnp.int32)

    def _after_end(self, tokens: Array) -> Bool[Array, " length"]:
        return jnp.arange(self.length) >= self.size(tokens)

    def _ended(self, rows: Array, over: Bool[Array, "*rows"]) -> Array:
        """Rows where what is over goes on with the end token, for sure."""
        if self.end_token is None:
            return rows
        last = jnp.full(self.num_tokens, -jnp.inf, rows.dtype).at[self.end_token].set(0.0)
        return jnp.where(over, last, rows)

    def _try_out(self) -> None:
        """Look at the rows of a sequence: proper logits, and no look ahead."""
        if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(self.params)):
            return
        tokens = np.random.default_rng(0).integers(self.num_tokens, size=self.length)
        tokens = tokens.astype(np.int32)
        logits = np.asarray(jax.jit(self.logits_fn)(self.params, tokens), np.float64)
        bad = np.isnan(logits).any(1) | (logits == np.inf).any(1) | (logits == -np.inf).all(1)
        if bad.any():
            raise TargetError(
                "the log-probabilities of logits_fn do not normalize: at place "
                f"{int(np.argmax(bad))} its logits are {logits[np.argmax(bad)]}; they must be "
                "finite, or -inf for a token that cannot follow, never NaN and never all -inf"
            )
        if looks_ahead(self.logits_fn, self.params, self.length, self.num_tokens):
            raise TargetError(
                "logits_fn looks ahead: row t must depend on the tokens before t only, and rows up "
                f"to {self.length // 2} changed with the tokens from {self.length // 2} on. Shift "
                "the tokens by one, or mask the model causally"
            )
        if self.row_fn is not None:
            self._try_rows(tokens, logits)

    def _try_rows(self, tokens: np.ndarray, logits: np.ndarray) -> None:
        """Look at all rows of `row_fn`."""
        assert self.row_fn is not None
        one_by_one = jax.jit(jax.vmap(self.row_fn, (None, None, 0)))
        rows = np.asarray(one_by_one(self.params, tokens, jnp.arange(self.length)))
        same = rows.shape == logits.shape
        if not same or not np.allclose(rows, logits, rtol=1e-3, atol=1e-3):
            t = int(np.argmax((~np.isclose(rows, logits)).any(1))) if same else 0
            raise TargetError(
                f"row_fn must return the row of logits_fn at place t: at place {t} it returns "
                f"{rows[t]}, and that row is {logits[t]}"
            )


def looks_ahead(
    fn: Callable[..., Any], params: Any, length: int, num_tokens: int, own: int = 0
) -> bool:
    """Whether entry t of ``fn(params, tokens)`` changes with later tokens, tried on two sequences.

    Its own token counts as later, unless ``own`` is 1.
    """
    rng = np.random.default_rng(1)
    one = rng.integers(num_tokens, size=length).astype(np.int32)
    half, other = length // 2, one.copy()
    other[half:] = (one[half:] + 1 + rng.integers(max(num_tokens - 1, 1))) % num_tokens
    rows = jax.jit(jax.vmap(fn, (None, 0)))(params, np.stack([one, other]))
    before, after = np.asarray(rows, np.float64)[:, : half + 1 - own]
    return not np.allclose(before, after, rtol=1e-3, atol=1e-3)
