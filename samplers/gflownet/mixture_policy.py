"""A policy of sequences: the way of writing of a mixture of laws under which letters are apart.

    q(x) = sum_k w_k prod_t p_kt(x_t),   p_kt(a) ~ exp(theta_kt . phi(a))
    P_F(x_t | x_<t) = sum_k w_k(x_<t) p_kt(x_t),   w_k(x_<t) ~ w_k prod_s<t p_ks(x_s)
    log F(x_<t) = log sum_k w_k prod_s<t p_ks(x_s)                               less log Z

What is written says which component this is, and that says what comes next. A network has to find
out both by itself; here one table serves both, and what is learned of a component at one place is
known at all others. Where sequences may stop, a component says at which places; that it did not
stop earlier is not held against it.

phi(a) are the features of a letter: where these say which it is, p_kt is any law; where they are
the bits of a word, these are independent, and there is less to learn. It suits rewards of some
kinds of sequences, each of its own letters; where the letters of a kind depend on each other it can
only come near.

Differences from the literature
-------------------------------
None claimed: mixtures of products are the latent class models, see [1], here as a policy.

References
----------
.. [1] McLachlan and Peel, "Finite mixture models", Wiley, 2000, doi:10.1002/0471721182.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import random
from jax.scipy.special import logsumexp
from jaxtyping import Array, Float, PRNGKeyArray

from ppl.environment import Environment, State
from ppl.sampler import positive, size
from ppl.template import TargetError, describe
from samplers.gflownet.policies import Policy, Said

SMALLEST = 1e-30


class Mixture(eqx.Module):
    """Weights theta of a letter's features, logits of the stop, logits of the components."""

    theta: Float[Array, "places components features"]
    stops: Float[Array, "places_and_end components"]
    shares: Float[Array, " components"]

    def __call__(self, environment: Environment, state: State) -> Said:
        n, t = environment.num_actions, jnp.sum(state >= 0)
        log_p = self.log_letters(environment)
        table = jnp.moveaxis(log_p, 1, 0).reshape(len(self.shares), -1)
        written = jax.nn.one_hot(state, n, dtype=table.dtype)  # zeros where a place is empty
        agree = jax.nn.log_softmax(self.shares) + table @ written.reshape(-1)
        share = jax.nn.softmax(agree)
        may_stop = environment.forward_mask(state)[n]
        stop = jnp.where(may_stop, jax.nn.sigmoid(self.stops[t]), 0.0)
        letters = (share * (1 - stop)) @ jnp.exp(log_p).at[t].get(mode="clip")
        forward = jnp.append(letters, share @ stop)
        forward = jnp.log(jnp.maximum(forward, SMALLEST))
        return Said(forward, jnp.zeros(n), logsumexp(agree), jnp.zeros((n, 0)))

    def log_letters(self, environment: Environment) -> Float[Array, "places components letters"]:
        """Log-probability of each letter at each place in each component."""
        length = len(self.theta)
        alike = lambda letter: environment.features(jnp.full(length, letter))[0]
        phi = jax.vmap(alike)(jnp.arange(environment.num_actions))
        return jax.nn.log_softmax(self.theta @ phi.T)


class MixturePolicy(Policy):
    """A mixture of laws of independent letters, for sequences that are written from the left.

    Parameters
    ----------
    num_components
        Of the mixture: some more than there are kinds.
    spread
        Standard deviation of the first logits: without any, components would stay alike.
    """

    num_components: int = size("num_components", default=64)
    spread: Float[Array, ""] = positive("spread", default=0.3)

    def check(self, environment: Environment) -> None:
        template = environment.template
        like = jax.tree.leaves(template)
        fits = len(like) == 1 and like[0].shape == (environment.max_length,)
        if not (fits and jnp.issubdtype(like[0].dtype, jnp.integer)) or not bool(
            jnp.all(jax.tree.leaves(environment.initial())[0] == -1)
        ):
            raise TargetError(
                "MixturePolicy writes sequences from the left: a state must be an array of as many "
                "integers as there are moves on the longest way, -1 where nothing is written; got "
                f"{describe(template)} and max_length={environment.max_length}. Write "
                "policy=samplers.MLPPolicy()"
            )

    def start(self, rng_key: PRNGKeyArray, environment: Environment) -> Any:
        places, num = environment.max_length, self.num_components
        width = jax.eval_shape(environment.features, environment.template).shape[-1]
        theta = self.spread * random.normal(rng_key, (places, num, width))
        return Mixture(theta, jnp.zeros((places + 1, num)), jnp.zeros(num))
