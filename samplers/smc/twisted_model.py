"""The Feynman-Kac model of a tilted sequence model: tokens drawn one by one, steered by a twist.

    q(s_t | s_<t)  ~  p(s_t | s_<t) psi_t(s_1..t)
    log G_t = log p(s_t | s_<t) - log q(s_t | s_<t) + log psi_t - log psi_{t-1},   psi_0 = 1

with psi_T = phi = exp(reward), and psi_t = phi as well from the end of a sequence on; what learns
the twists and reports the draws is `samplers.smc.twisted`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax, random
from jaxtyping import Array, Float, Int, PRNGKeyArray

from ppl import weights
from ppl.sequence import SequenceModel
from samplers.smc import feynman_kac as fk


class Twist(eqx.Module):
    """A user's twist and its parameters: log psi."""

    fn: Callable[..., Any] = eqx.field(static=True)
    row_fn: Callable[..., Any] | None = eqx.field(static=True)
    params: Any

    def row(self, tokens: Int[Array, " length"], t: Int[Array, ""], num_tokens: int) -> Array:
        """Log psi_t of the prefix before place t, continued by each token."""
        if self.row_fn is not None:
            return self.row_fn(self.params, tokens, t)
        log_psi = self.fn(self.params, tokens)
        if log_psi.ndim == 2:
            return log_psi[t]
        # One number a prefix: every token is tried.
        tried = jax.vmap(lambda s: tokens.at[t].set(s))(jnp.arange(num_tokens, dtype=jnp.int32))
        return jax.vmap(self.fn, (None, 0))(self.params, tried)[:, t]


class Prefix(NamedTuple):
    """A particle: tokens, those not yet drawn 0, and log psi of the prefix."""

    tokens: Int[Array, "*n length"]
    log_twist: Float[Array, "*n"]


class TwistedModel(fk.FeynmanKac):
    """The Feynman-Kac model of a tilted sequence model; row t draws token t."""

    target: Any
    twist: Twist
    twisted_proposal: bool = eqx.field(static=True)

    @property
    def places(self) -> Int[Array, " length"]:
        """The rows of a run."""
        return jnp.arange(self.target.prior.length)

    def start(self, rng_key: PRNGKeyArray, n: int) -> tuple[Prefix, Float[Array, " n"]]:
        tokens = jnp.zeros((n, self.target.prior.length), jnp.int32)
        log_one = jnp.zeros(n, jax.eval_shape(self._rows_at, tokens[0], jnp.int32(0))[1].dtype)
        return Prefix(tokens, log_one), log_one

    def advance(
        self, rng_key: PRNGKeyArray, particles: Prefix, row: Int[Array, ""]
    ) -> tuple[Prefix, Float[Array, " n"]]:
        def one(key: PRNGKeyArray, before: Prefix) -> tuple[Prefix, Array]:
            log_p, log_psi = self._rows_at(before.tokens, row)
            log_q = self._proposal(log_p, log_psi)
            # The default generator never draws what is rarer than 1e-7.
            token = random.categorical(key, log_q, mode="high").astype(jnp.int32)
            tokens = self.target.prior.padded(before.tokens.at[row].set(token))
            after = Prefix(tokens, self._reached(log_psi[token], tokens, row))
            return after, log_p[token] - log_q[token] + _step(before, after)

        return jax.vmap(one)(random.split(rng_key, len(particles.log_twist)), particles)

    def log_start_potential(self, particles: Prefix) -> Float[Array, " n"]:
        """Log G_0: nothing has been drawn."""
        return jnp.zeros_like(particles.log_twist)

    def log_potential(
        self, before: Prefix, particles: Prefix, row: Int[Array, ""]
    ) -> Float[Array, " n"]:
        """Log G_t of given pairs."""

        def one(before: Prefix, after: Prefix) -> Array:
            log_p, log_psi = self._rows_at(before.tokens, row)
            token = after.tokens[row]
            return (log_p - self._proposal(log_p, log_psi))[token] + _step(before, after)

        return jax.vmap(one)(before, particles)

    def along(self, tokens: Int[Array, " length"]) -> tuple[Array, Array]:
        """Log p - log q of each token of a sequence, and log psi of each of its prefixes."""

        def at(t: Int[Array, ""]) -> tuple[Array, Array]:
            log_p, log_psi = self._rows_at(tokens, t)
            token = tokens[t]
            return (log_p - self._proposal(log_p, log_psi))[token], log_psi[token]

        return jax.vmap(at)(self.places)

    def path(self, tokens: Int[Array, " length"]) -> Prefix:
        """The particle of a whole sequence at all times, from nothing on."""
        _, log_psi = self.along(tokens)
        log_psi = jax.vmap(self._reached, (0, None, 0))(log_psi, tokens, self.places)
        drawn = self.places[None] < jnp.arange(len(tokens) + 1)[:, None]
        none = jnp.zeros(1, log_psi.dtype)
        return Prefix(jnp.where(drawn, tokens, 0), jnp.concatenate([none, log_psi]))

    def _rows_at(self, tokens: Array, t: Array) -> tuple[Array, Array]:
        """Log p and log psi of every token at place t, given those before."""
        model: SequenceModel = self.target.prior
        log_p, log_psi = model.log_row(tokens, t), self.twist.row(tokens, t, model.num_tokens)
        if model.end_token is not None:
            # What has ended, or ends here, is worth what it is worth.
            whole = jnp.where(jnp.arange(model.length) < t, tokens, model.end_token)
            log_phi = weights.clean(self.target.log_likelihood(model.padded(whole)))
            log_psi = log_psi.at[model.end_token].set(log_phi.astype(log_psi.dtype))
        return log_p, log_psi

    def _proposal(self, log_p: Array, log_psi: Array) -> Array:
        if not self.twisted_proposal:
            return log_p
        log_q = log_p + log_psi
        # Without any hope left the model goes on as it would.
        return jax.nn.log_softmax(jnp.where(jnp.any(log_q > -jnp.inf), log_q, log_p))

    def _reached(self, log_psi: Array, tokens: Array, t: Array) -> Array:
        """Log psi_t, which is log phi where the sequence is whole."""
        if self.target.prior.end_token is not None:
            return log_psi
        log_phi = lambda: self.target.log_likelihood(tokens).astype(log_psi.dtype)
        return lax.cond(t == len(tokens) - 1, log_phi, lambda: log_psi)


def _step(before: Prefix, after: Prefix) -> Array:
    """Log psi_t - log psi_{t-1}; what had no hope has none."""
    lost = before.log_twist == -jnp.inf
    return jnp.where(lost, -jnp.inf, after.log_twist - jnp.where(lost, 0, before.log_twist))
