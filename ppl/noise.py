"""Normal random numbers, two from each block of the generator.

    z = r (cos theta, sin theta),    r = sqrt(-2 log u),  theta = 2 pi v,    u, v ~ U(0, 1)     [1]

u and v are the two words of a block of Threefry [2], the generator of JAX's keys, whose counter is
the number of the pair. `jax.random.normal` makes a block for every number and keeps one word of it;
on a CPU it also runs the rounds as a loop over memory. Where noise is what a step costs, as in the
solvers of a diffusion with a small denoiser, this one is several times as fast.

The numbers are others than JAX's. Where many keys draw a few numbers each, and these have to stay
the same, `samplers.mcmc.normals` lays JAX's own out differently instead.

u is the middle of one of 2^31 intervals, so that the largest number is 6.7, and the tail is right
up to there; `jax.random.normal` in float32 inverts a uniform number of 24 bits and ends at 5.4. v
has 24 bits or more.

References
----------
.. [1] Box and Muller, "A note on the generation of random normal deviates", Annals of Mathematical
   Statistics 29, 1958, doi:10.1214/aoms/1177706645.
.. [2] Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011,
   doi:10.1145/2063384.2063405. Threefry-2x32 with 20 rounds: section 4.2 and table 2.
"""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax, random
from jaxtyping import Array, Float, PRNGKeyArray, UInt32

ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
PARITY = 0x1BD11BDA


@partial(jax.jit, static_argnames=("shape", "dtype"))
def normal(
    rng_key: PRNGKeyArray, shape: tuple[int, ...] = (), dtype: Any = float
) -> Float[Array, "..."]:
    """Independent standard normal numbers, as `jax.random.normal`, but not the same ones.

    In float32 and from a key of the default kind; anything else is left to `jax.random.normal`.
    """
    if random.key_impl(rng_key) != "threefry2x32" or jnp.result_type(dtype) != jnp.float32:
        return random.normal(rng_key, shape, dtype)
    size = math.prod(shape)
    # As the parts of a complex number both are made at once: XLA runs a program for each array that
    # goes into memory, and would encrypt every block for one word, and again for the other.
    first, second = _blocks(random.key_data(rng_key), -(-size // 2))
    uniform = lax.optimization_barrier(lax.complex(_uniform(first), _uniform(second)))
    pairs = lax.optimization_barrier(lax.complex(*_transform(uniform.real, uniform.imag)))
    return jnp.stack([pairs.real, pairs.imag], axis=1).reshape(-1)[:size].reshape(shape)


def _blocks(key: UInt32[Array, "2"], n: int) -> tuple[UInt32[Array, " n"], UInt32[Array, " n"]]:
    """Both words of the blocks 0, 1, ... of a key."""
    schedule = (key[0], key[1], key[0] ^ key[1] ^ jnp.uint32(PARITY))
    counter = lax.iota(jnp.uint32, n)
    a, b = jnp.broadcast_to(schedule[0], n), counter + schedule[1]
    for i in range(1, 6):
        for by in ROTATIONS[(i - 1) % 2]:
            a = a + b
            b = (b << by | b >> (32 - by)) ^ a
        a = a + schedule[i % 3]
        b = b + schedule[(i + 1) % 3] + jnp.uint32(i)
    return a, b


def _uniform(word: UInt32[Array, " n"]) -> Float[Array, " n"]:
    """A number above 0 and at most 1, of the first 31 bits."""
    return ((word >> 1).astype(jnp.int32).astype(jnp.float32) + 0.5) * 2.0**-31


def _transform(
    u: Float[Array, " n"], v: Float[Array, " n"]
) -> tuple[Float[Array, " n"], Float[Array, " n"]]:
    """The equation above; sine and cosine by their series, within an octant."""
    octant = jnp.floor(8 * v)
    x = (8 * v - octant) * (math.pi / 4)
    y = x * x
    sine = x * _series(y, (1.0, -1 / 6, 1 / 120, -1 / 5040, 1 / 362880))
    cosine = _series(y, (1.0, -1 / 2, 1 / 24, -1 / 720, 1 / 40320))
    r, bits = jnp.sqrt(-2 * jnp.log(u)), octant.astype(jnp.int32)
    # Any way to lay an octant over the circle is one: a swap, and two signs.
    swapped, down, left = (bits & bit != 0 for bit in (1, 2, 4))
    one, other = jnp.where(swapped, sine, cosine), jnp.where(swapped, cosine, sine)
    return r * jnp.where(down, -one, one), r * jnp.where(left, -other, other)


def _series(y: Array, coefficients: Sequence[float]) -> Array:
    """The polynomial in y, by Horner's rule."""
    total = jnp.full_like(y, coefficients[-1])
    for coefficient in coefficients[-2::-1]:
        total = total * y + coefficient
    return total
