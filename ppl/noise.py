"""Normal random numbers, two from each block of the generator.

    z = r (cos theta, sin theta),    r = sqrt(-2 log u),  theta = 2 pi v,    u, v ~ U(0, 1)     [1]

u and v are the two words of a block of Threefry [2], the generator of JAX's keys, whose counter is
the number of the pair. `jax.random.normal` makes a block for every number and keeps one word of it;
on a CPU it also runs the rounds as a loop over memory. Where noise is what a step costs, as in the
solvers of a diffusion with a small denoiser, this one is several times as fast.

Blocks have 14 rounds, where JAX takes 20 for a margin: the authors know of no statistical flaw of
Threefry-2x32 with 13 or more [3]; one more, since a test longer than any battery found one in the
13 rounds of its sibling of 64 bits, and none in 14. Six rounds are a fifth of the time of a number.
Keys are split and folded by JAX, with all 20.

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
   doi:10.1145/2063384.2063405. Section 4.2.
.. [3] D. E. Shaw Research, "Random123", 2011, ``threefry.h``: remarks on the numbers of rounds.
"""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax, random
from jaxtyping import Array, Float, Int, Key, PRNGKeyArray, UInt32

ROTATIONS = (13, 15, 26, 6, 17, 29, 16, 24)
PARITY = 0x1BD11BDA
ROUNDS = 14
MANY = 2**18  # numbers of a key that are written to memory before they are used
# Polynomials of least largest error, below 5e-9, over the ranges that they are asked for.
ATANH = (2.0, 0.6666705, 0.39952575, 0.30436564)  # 2 atanh(s) / s in s^2, |s| <= 1/5
SINE = (1.0, -0.166666507, 0.00833203688, -0.00019504022)  # sin(x) / x in x^2, |x| <= pi/4
COSINE = (1.0, -0.499999996, 0.0416666167, -0.00138866192, 2.43799294e-05)  # cos(x)


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
    uniform = lax.optimization_barrier(lax.complex(_uniform(first), _turn(second)))
    pairs = lax.optimization_barrier(lax.complex(*_transform(uniform.real, uniform.imag)))
    numbers = jnp.stack([pairs.real, pairs.imag], axis=1).reshape(-1)[:size].reshape(shape)
    # Woven into what they are used for, which is best where caches hold them, very many cost more
    # than a pass of their own over memory.
    return lax.optimization_barrier(numbers) if size >= MANY else numbers


def fold_each(rng_key: PRNGKeyArray, numbers: Int[Array, " n"]) -> Key[Array, " n"]:
    """The keys of `jax.random.fold_in`, one for each number, in one program and not in a loop."""
    if random.key_impl(rng_key) != "threefry2x32":
        return jax.vmap(random.fold_in, (None, 0))(rng_key, numbers)
    words = _encrypted(random.key_data(rng_key), numbers.astype(jnp.uint32), rounds=20)
    return random.wrap_key_data(jnp.stack(words, axis=1), impl="threefry2x32")


def _blocks(
    key: UInt32[Array, "2"], n: int, rounds: int = ROUNDS
) -> tuple[UInt32[Array, " n"], UInt32[Array, " n"]]:
    """Both words of the blocks 0, 1, ... of a key."""
    return _encrypted(key, lax.iota(jnp.uint32, n), rounds)


def _encrypted(
    key: UInt32[Array, "2"], counter: UInt32[Array, " n"], rounds: int
) -> tuple[UInt32[Array, " n"], UInt32[Array, " n"]]:
    schedule = (key[0], key[1], key[0] ^ key[1] ^ jnp.uint32(PARITY))
    a, b = jnp.broadcast_to(schedule[0], counter.shape), counter + schedule[1]
    for i in range(rounds):
        by = ROTATIONS[i % 8]
        a = a + b
        b = (b << by | b >> (32 - by)) ^ a
        injected, rest = divmod(i + 1, 4)
        if rest == 0:
            a = a + schedule[injected % 3]
            b = b + schedule[(injected + 1) % 3] + jnp.uint32(injected)
    return a, b


def _uniform(word: UInt32[Array, " n"]) -> Float[Array, " n"]:
    """A number above 0 and at most 1, of the first 31 bits."""
    return ((word >> 1).astype(jnp.int32).astype(jnp.float32) + 0.5) * 2.0**-31


def _turn(word: UInt32[Array, " n"]) -> Float[Array, " n"]:
    """A number between -1 and 1, of all bits."""
    return lax.bitcast_convert_type(word, jnp.int32).astype(jnp.float32) * 2.0**-31


def _transform(
    u: Float[Array, " n"], v: Float[Array, " n"]
) -> tuple[Float[Array, " n"], Float[Array, " n"]]:
    """The equation above, the circle laid out in quarters: a sign and a swap for half of v each."""
    swapped = jnp.abs(v) > 0.5
    x = (jnp.abs(v) - jnp.where(swapped, 0.75, 0.25)) * math.pi
    r = jnp.sqrt(-2 * _log(u))
    r = jnp.where(v < 0, -r, r)
    sine, cosine = x * _series(x * x, SINE), _series(x * x, COSINE)
    return r * jnp.where(swapped, sine, cosine), r * jnp.where(swapped, cosine, sine)


def _log(u: Float[Array, " n"]) -> Float[Array, " n"]:
    """Logarithm of ordinary positive numbers: u = 2^k m, s = (m - 1) / (m + 1), 2/3 <= m < 4/3."""
    bits = lax.bitcast_convert_type(u, jnp.int32)
    k = (bits - 0x3F2AAAAB) >> 23
    m = lax.bitcast_convert_type(bits - (k << 23), jnp.float32)
    s = (m - 1) / (m + 1)
    return s * _series(s * s, ATANH) + k.astype(jnp.float32) * math.log(2)


def _series(y: Array, coefficients: Sequence[float]) -> Array:
    """The polynomial in y, by Horner's rule."""
    total = jnp.full_like(y, coefficients[-1])
    for coefficient in coefficients[-2::-1]:
        total = total * y + coefficient
    return total
