"""What diffusion samplers learn: a control, the target's gradient among what it sees.

    u(x, t) = clip(A(x / s, t) + b(t) grad log R(x), 10^4)                     ([1], equation 15)

A is a network that begins as zero, b a function of time that begins as a constant; the gradient is
clipped and no gradient of the loss goes through it. Without the second term (``b`` None) the target
is seen at the ends of paths only.

References
----------
.. [1] Zhang and Chen, "Path integral sampler: a stochastic control approach for sampling", ICLR
   2022, arXiv:2111.15141.
"""

from functools import partial
from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, PRNGKeyArray

from samplers.networks import MLP

LARGEST = 1e4
NUM_WAVES = 8
small = partial(MLP, width=64, depth=2)


class Gain(eqx.Module):
    """A sum of waves in time, learned, that begins as the constant ``first``."""

    constant: Float[Array, ""]
    waves: Float[Array, "2 k"]

    def __init__(self, first: float, dtype: Any) -> None:
        self.constant = jnp.asarray(first, dtype)
        self.waves = jnp.zeros((2, NUM_WAVES), dtype)

    def __call__(self, t: Float[Array, ""]) -> Float[Array, ""]:
        angle = 0.5 * jnp.pi * jnp.arange(1, NUM_WAVES + 1, dtype=t.dtype) * t
        return self.constant + jnp.vdot(self.waves, jnp.stack([jnp.sin(angle), jnp.cos(angle)]))


class Control(eqx.Module):
    """The u above."""

    network: Any
    gain: Gain | None

    def __init__(
        self, rng_key: PRNGKeyArray, network: Any, size: int, first: float | None, dtype: Any
    ) -> None:
        self.network = network(rng_key, (size,), dtype=dtype)
        self.gain = None if first is None else Gain(first, dtype)

    def __call__(
        self, x: Float[Array, " d"], t: Float[Array, ""], gradient: Float[Array, " d"] | None
    ) -> Float[Array, " d"]:
        """``x`` in units of the reference."""
        u = self.network(x, t)
        if self.gain is not None and gradient is not None:
            u = u + self.gain(t) * lax.stop_gradient(gradient)
        return jnp.clip(u, -LARGEST, LARGEST)
