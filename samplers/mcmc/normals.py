"""Normal noise for many keys at once, as `jax.random.normal` draws it, several times faster.

A vmapped ``random.normal(key, (d,))`` fills an array of n rows. Where d is no multiple of the
vectors of a processor its code is mostly scalar, both the generator's and that of the inverse error
function: with d = 10 the noise of thousands of chains or particles cost more than three gradients
of a simple target. Element i of a draw is a function of the key and of i alone,

    bits_i = x xor y,   (x, y) = key data of fold_in(key, i)

so that it can be made as d rows of n. The draws are the same, and do not depend on n.
"""

import jax
import jax.numpy as jnp
from jax import lax, random
from jax.custom_batching import custom_vmap
from jax.typing import DTypeLike
from jaxtyping import Array, Float, PRNGKeyArray

from ppl.keys import Keys


def normal(rng_key: PRNGKeyArray, dimension: int, dtype: DTypeLike) -> Float[Array, " d"]:
    """Draw ``random.normal(rng_key, (dimension,), dtype)``, in a layout that suits a vmap."""

    def plain(rng_key: PRNGKeyArray) -> Float[Array, " d"]:
        return random.normal(rng_key, (dimension,), dtype)

    if not _is_known(rng_key, dtype):
        return plain(rng_key)
    draw = custom_vmap(plain)

    @draw.def_vmap
    def _(n: int, in_batched: list, keys: Keys) -> tuple[Float[Array, "n d"], bool]:
        def element(i: Array) -> Array:
            folded = jax.vmap(lambda key: random.key_data(random.fold_in(key, i)))(keys)
            return folded[:, 0] ^ folded[:, 1]

        bits = jax.vmap(element)(jnp.arange(dimension, dtype=jnp.uint32))
        return jnp.moveaxis(_from_bits(bits), 0, 1), True

    return draw(rng_key)


def _is_known(rng_key: PRNGKeyArray, dtype: DTypeLike) -> bool:
    """Whether this generator and precision are the ones above."""
    is_typed = jnp.issubdtype(rng_key.dtype, jax.dtypes.prng_key)
    is_default = is_typed and str(random.key_impl(rng_key)) == "threefry2x32"
    return is_default and jnp.dtype(dtype) == jnp.float32 and jax.config.jax_threefry_partitionable


def _from_bits(bits: Array) -> Array:
    """JAX's: 23 bits make a number on (-1, 1), and that a normal one."""
    low = jnp.nextafter(jnp.float32(-1), jnp.float32(0))
    one_to_two = lax.bitcast_convert_type((bits >> 9) | jnp.uint32(0x3F800000), jnp.float32)
    uniform = jnp.maximum(low, (one_to_two - 1) * (1 - low) + low)
    return jnp.float32(2**0.5) * lax.erf_inv(uniform)
