"""Laws of the numbers that moves of a mixed environment carry, on the open unit interval.

    u = sigmoid(m_k + s_k z),   z logistic,   k with probability w_k

With m = 0 and s = 1 this is the uniform law, and where one s_k is at least 1 the density is bounded
from below, so that the weights of draws of a bounded density are bounded. What a policy says is
relative to a first law that is nearly uniform.
"""

import jax
import jax.numpy as jnp
from jax import random
from jax.scipy.special import logit, logsumexp
from jaxtyping import Array, Float, PRNGKeyArray

FIRST_MEANS = (0.0, -2.0, 0.0, 2.0)
FIRST_SCALES = (1.0, 0.5, 0.5, 0.5)
NUM_KINDS = len(FIRST_MEANS)
EDGE = 1e-6  # what is drawn keeps this distance from 0 and 1, for logits that are finite


def num_parameters(num_values: int) -> int:
    """Numbers that a policy says for one move."""
    return 3 * NUM_KINDS * num_values


def _law(said: Float[Array, " parameters"]) -> tuple[Array, Array, Array]:
    """Log-weights, means and log-scales, (values, kinds)."""
    logits, means, log_scales = said.reshape(3, -1, NUM_KINDS)
    first_mean, first_scale = jnp.array(FIRST_MEANS), jnp.log(jnp.array(FIRST_SCALES))
    return jax.nn.log_softmax(logits), first_mean + means, first_scale + log_scales


def noise(rng_key: PRNGKeyArray, shape: tuple[int, ...], num_values: int) -> tuple[Array, Array]:
    """What `draw` makes values of, for each of some moves."""
    key_kind, key_logistic = random.split(rng_key)
    kinds = random.gumbel(key_kind, (*shape, num_values, NUM_KINDS))
    return kinds, random.logistic(key_logistic, (*shape, num_values))


def draw(noise: tuple[Array, Array], said: Float[Array, " parameters"]) -> Float[Array, " values"]:
    """Values of one move."""
    log_w, means, log_scales = _law(said)
    kind = jnp.argmax(log_w + noise[0], axis=-1)[:, None]
    mean, log_scale = (jnp.take_along_axis(x, kind, 1)[:, 0] for x in (means, log_scales))
    return jnp.clip(jax.nn.sigmoid(mean + jnp.exp(log_scale) * noise[1]), EDGE, 1 - EDGE)


def log_prob(said: Float[Array, " parameters"], values: Float[Array, " values"]) -> Array:
    """Log-density of the values of one move."""
    log_w, means, log_scales = _law(said)
    inside = jnp.clip(values, EDGE, 1 - EDGE)
    z = (logit(inside)[:, None] - means) * jnp.exp(-log_scales)
    log_logistic = -z - 2 * jax.nn.softplus(-z)
    log_p = logsumexp(log_w + log_logistic - log_scales, axis=-1)
    return jnp.sum(log_p - jnp.log(inside) - jnp.log1p(-inside))
