"""Independent draws of a round Gaussian, weighed by any target: a proposal that learns nothing."""

from typing import ClassVar

import jax
import jax.numpy as jnp
from jax import random
from jax.flatten_util import ravel_pytree

from ppl.sampler import DirectSampler, positive


class GaussianProposal(DirectSampler):
    """N(0, scale^2 I) on the positions of the target."""

    exactness: ClassVar[str] = "asymptotically exact"

    scale: jax.Array = positive("scale", default=1.5)

    def draw(self, rng_key, target, n):
        like = jax.tree.map(lambda x: jnp.zeros(x.shape), target.template)
        flat, unravel = ravel_pytree(like)
        x = jax.vmap(unravel)(self.scale * random.normal(rng_key, (n, flat.size)))
        return x, self.log_weights(rng_key, target, x)

    def log_weights(self, rng_key, target, positions):
        def one(x):
            flat = ravel_pytree(x)[0] / self.scale
            log_q = -0.5 * jnp.sum(flat**2 + jnp.log(2 * jnp.pi)) - flat.size * jnp.log(self.scale)
            return target.log_density(x) - log_q

        return jax.vmap(one)(positions)

    def evaluations(self, n):
        return (n, 0)
