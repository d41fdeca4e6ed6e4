"""What a masked law says of a given sequence: its probability along random orders.

    log q(x | order) = sum_k log p(x_o(k) | x_o(1), .., x_o(k-1))
    log q(x) = log E_order[q(x | order)]  >=  E_order[log q(x | order)]             ([1], theorem 2)

q is the law of `FirstHitting`'s draws, whatever ``unmask`` is. The bound on the right is the ELBO
of masked diffusion, with its times integrated out, and what training maximizes. Where the
conditional laws are those of one joint law, all orders agree and both sides are its logarithm;
those of a network never quite do. The mean over K orders of the probabilities themselves is
unbiased for q(x), so that its logarithm lies below log q(x) on the average, and above the
ELBO [2].

References
----------
.. [1] Ou et al., "Your absorbing discrete diffusion secretly models the conditional distributions
   of clean data", ICLR 2025, arXiv:2406.03736. Theorem 2: forms of one bound.
.. [2] Burda, Grosse and Salakhutdinov, "Importance weighted autoencoders", ICLR 2016,
   arXiv:1509.00519.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax, random
from jaxtyping import Array, Float, Int, PRNGKeyArray


def along(
    target: Any, tokens: Int[Array, " length"], order: Int[Array, " length"]
) -> Float[Array, ""]:
    """Log q(x | order): ``order`` lists the places as they are revealed."""
    mask = jax.eval_shape(target.unmask, target.template).shape[1]
    rank = jnp.argsort(order)

    def at(k: Int[Array, ""]) -> Float[Array, ""]:
        place = order[k]
        return target.unmask(jnp.where(rank < k, tokens, mask))[place, tokens[place]]

    return jnp.sum(lax.map(at, jnp.arange(len(tokens))))


def along_orders(
    rng_key: PRNGKeyArray, target: Any, tokens: Int[Array, " length"], num_orders: int
) -> Float[Array, " orders"]:
    """Log q(x | order) of random orders, ``length`` calls of ``unmask`` each."""
    keys = random.split(rng_key, num_orders)
    orders = jax.vmap(random.permutation, (0, None))(keys, len(tokens))
    return jax.vmap(along, (None, None, 0))(target, tokens, orders)
