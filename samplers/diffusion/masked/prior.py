"""A masked prior: a law of sequences by what it says of masked tokens.

    unmask(tokens)_iv = log p(x_i = v | the tokens that are not masked)

is one network of the tokens, without time [1]; see `samplers.diffusion.masked.process`. The law is
that of its own draws, tokens revealed one at a time in a random order, by `FirstHitting`. So it can
be drawn from exactly, whatever the network is; its log-probabilities are sums over all orders, and
`log_density_bound` estimates them from below.

``prior.given(tokens)`` is its law where some tokens are known, for filling in the others: what is
known counts as revealed first, the rest follows in a random order. Where the conditional laws are
those of one joint law, this is its law given these tokens, exactly.

References
----------
.. [1] Ou et al., "Your absorbing discrete diffusion secretly models the conditional distributions
   of clean data", ICLR 2025, arXiv:2406.03736. Theorem 1.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, Int, PRNGKeyArray

from ppl.energy import Energy, TargetError
from ppl.template import as_template, describe
from ppl.weights import log_mean_exp
from samplers.diffusion.masked.first_hitting import FirstHitting
from samplers.diffusion.masked.orders import along_orders


class MaskedPrior(Energy):
    """A law of token sequences, given by the conditional laws of masked tokens.

    Parameters
    ----------
    network
        ``network(tokens) -> (length, num_tokens)``: logits of the token of each place, for a
        sequence in which some places hold the mask, which is ``num_tokens``. Rows of places that
        are not masked are not looked at. A function, or an Equinox module if it has parameters.
    length
        Number of places.
    num_tokens
        Number of tokens, 0, 1, ..; the mask not counted.

    Raises
    ------
    TargetError
        For a network that is none, takes a time, returns another shape, or logits of a masked
        sequence that are NaN; before compilation.
    """

    network: Callable[..., Any]
    length: int = eqx.field(static=True)
    num_tokens: int = eqx.field(static=True)
    known: Int[Array, " length"] | None  # the mask where a place is open; None: all are

    def __init__(self, network: Any, length: Any, num_tokens: Any) -> None:
        for name, value in {"length": length, "num_tokens": num_tokens}.items():
            if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
                raise TargetError(f"{name} must be an integer, at least 1; got {value!r}")
        if not callable(network):
            raise TargetError(f"network must be a function of the tokens; got {network!r}")
        self.network, self.length, self.num_tokens = network, int(length), int(num_tokens)
        self.known = None
        self._try_out()

    # What it is -----------------------------------------------------------------------------

    @property
    def template(self) -> jax.ShapeDtypeStruct:
        """Tokens of one sequence."""
        return jax.ShapeDtypeStruct((self.length,), jnp.dtype("int32"))

    @property
    def offers(self) -> frozenset[str]:
        return self._with_gradient("unmask", "sample")

    def refuse(self, capability: str) -> str:
        if capability in ("log_density", "gradient"):
            return (
                "a masked prior has no log-density: that is a sum over all orders of the places. "
                "Its log_density_bound(rng_key, tokens) estimates it from below; "
                "samplers.FirstHitting() draws from it, samplers.MaskedFKSteering() from its tilts"
            )
        return Energy.refuse(self, capability)

    def given(self, tokens: Any) -> "MaskedPrior":
        """The same law where some tokens are known, traced; others hold the mask, ``num_tokens``.

        A draw of `FirstHitting` costs as many calls of the network as there are others.

        Raises
        ------
        TargetError
            For tokens of another length, and numbers that are neither tokens nor the mask.
        """
        known = jnp.asarray(tokens)
        if known.shape != (self.length,) or not jnp.issubdtype(known.dtype, jnp.integer):
            raise TargetError(
                f"given(tokens) takes one sequence of {self.length} integers, {self.num_tokens} "
                f"(the mask) where a token is not known; got {describe(as_template(known))}"
            )
        values = () if isinstance(known, Tracer) else np.asarray(known)
        if any(not 0 <= value <= self.num_tokens for value in values):
            raise TargetError(
                f"tokens are 0 to {self.num_tokens - 1}, and {self.num_tokens} (the mask) where "
                f"one is not known; got {values.tolist()}"  # pyright: ignore[reportAttributeAccessIssue]
            )
        known = known.astype(self.template.dtype)
        return eqx.tree_at(lambda prior: prior.known, self, known, is_leaf=lambda x: x is None)

    # What it does ---------------------------------------------------------------------------

    def unmask(self, tokens: Int[Array, " length"]) -> Float[Array, "length num_tokens"]:
        """Log-probabilities of the tokens of each place, given those not masked."""
        if self.known is None:
            return jax.nn.log_softmax(jnp.asarray(self.network(tokens)), axis=1)
        is_open = self.known == self.num_tokens
        seen = jnp.where(is_open, tokens, self.known)
        log_probs = jax.nn.log_softmax(jnp.asarray(self.network(seen)), axis=1)
        is_it = self.known[:, None] == jnp.arange(self.num_tokens)
        return jnp.where(is_open[:, None], log_probs, jnp.where(is_it, 0.0, -jnp.inf))

    def sample(self, rng_key: PRNGKeyArray, n: int) -> Int[Array, "n length"]:
        """``n`` exact draws, ``length`` calls of the network each."""
        return FirstHitting().draw(rng_key, self, n)[0]

    def log_density(self, position: Int[Array, " length"]) -> Float[Array, ""]:
        raise TargetError(self.refuse("log_density"))

    def log_density_bound(
        self, rng_key: PRNGKeyArray, tokens: Int[Array, " length"], num_orders: int = 1
    ) -> Float[Array, ""]:
        """Estimate of the log-probability of a sequence, too low on the average.

        With one order its mean is the ELBO; with more it rises to the log-probability, and costs
        ``length`` calls of the network each.
        """
        return log_mean_exp(along_orders(rng_key, self, tokens, num_orders))

    # Checks ---------------------------------------------------------------------------------

    def _try_out(self) -> None:
        expected = (self.length, self.num_tokens)
        try:
            out = jax.eval_shape(self.network, self.template)
        except TypeError as error:
            raise TargetError(
                "the network of a masked prior takes the tokens alone, (length,) = "
                f"({self.length},), and no time: {error}"
            ) from error
        shape = getattr(out, "shape", None)
        if shape != expected:
            mask = shape == (self.length, self.num_tokens + 1)
            raise TargetError(
                f"the network must return logits of shape (length, num_tokens) = {expected}; got "
                f"{shape}" + (". The mask has no column: it is never drawn" if mask else "")
            )
        leaves = jax.tree.leaves(eqx.filter(self.network, eqx.is_array))
        if any(isinstance(leaf, Tracer) for leaf in leaves):
            return
        blank = np.full(self.length, self.num_tokens, np.int32)
        logits = np.asarray(eqx.filter_jit(lambda fn, x: fn(x))(self.network, blank))
        bad = np.isnan(logits).any(1) | (logits == np.inf).any(1) | (logits == -np.inf).all(1)
        if bad.any():
            place = int(np.argmax(bad))
            raise TargetError(
                "the network's logits of a sequence of masks do not normalize: at place "
                f"{place} they are {logits[place]}. They must be finite, or -inf for a token that "
                "cannot be there; and the network must know the mask, token "
                f"{self.num_tokens} (an embedding has {self.num_tokens + 1} rows)"
            )
