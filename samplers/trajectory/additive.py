"""A network for controls that are nearly sums over coordinates.

    u_i(x, t) = A_i(x, t) + sum_k c_ik(t) exp(-(x_i - g_k)^2 / 2 D^2),   g_k from -3 to 3, D apart
    c_ik(t)   = a sum of waves in time

What a coordinate does to itself is linear in what is learned, and has not to be carried through the
layers of A, where all coordinates share the width: on a target of many coordinates with modes of
their own, weakly coupled, most of the control is of this kind (exactly all of it on a product). It
begins as zero. No coordinate is taken to be like another; what couples them is left to A, a
perceptron. The idea of additive models in regression [1].

References
----------
.. [1] Hastie and Tibshirani, "Generalized additive models", Statistical Science 1, 1986,
   doi:10.1214/ss/1177013604.
"""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from samplers.networks import MLP, checked

REACH = 3.0  # of the bumps, in units of what the network is given


class AdditiveMLP(eqx.Module):
    """The u above, ``network(x, t)`` on vectors; write it for ``network`` of a learned sampler.

    Parameters
    ----------
    rng_key
        Key of the initial values of A.
    shape
        Of one point, ``(d,)``.
    width, depth
        Of A.
    num_bumps, num_waves
        k above, and pairs of waves in time.
    dtype
        Floating dtype of the weights.
    """

    together: MLP
    weights: Float[Array, "d bumps waves"]

    def __init__(
        self,
        rng_key: PRNGKeyArray,
        shape: tuple[int, ...],
        *,
        width: int = 64,
        depth: int = 2,
        num_bumps: int = 24,
        num_waves: int = 6,
        dtype: Any = None,
    ) -> None:
        checked("num_bumps", num_bumps, 2)
        checked("num_waves", num_waves, 0)
        if len(shape) != 1:
            raise ValueError(f"AdditiveMLP is a network on vectors; got a point of shape {shape}")
        dtype = jnp.result_type(float) if dtype is None else dtype
        self.together = MLP(rng_key, shape, width=width, depth=depth, dtype=dtype)
        self.weights = jnp.zeros((shape[0], num_bumps, 1 + 2 * num_waves), dtype)

    def __call__(self, x: Float[Array, " d"], t: Any) -> Float[Array, " d"]:
        _, num_bumps, num_functions = self.weights.shape
        dtype = self.weights.dtype
        angle = 0.5 * jnp.pi * jnp.arange(1, num_functions // 2 + 1, dtype=dtype) * t
        waves = jnp.concatenate([jnp.ones(1, dtype), jnp.sin(angle), jnp.cos(angle)])
        at = jnp.linspace(-REACH, REACH, num_bumps, dtype=dtype)
        bumps = jnp.exp(-0.5 * ((x[:, None] - at) / (at[1] - at[0])) ** 2)
        return self.together(x, t) + jnp.sum((self.weights @ waves) * bumps, axis=1)
