"""The semilinear engine: one scan over a table of rows, one call of the denoiser a row.

    D, carry = rule(denoiser, x, row, carry)          `denoise`
    u' = A u + B h(x, D) + S z                        `mean`, then `advance`

The three are apart so that others can come in between: a potential that weighs particles needs the
denoised value of the row it is at, and the mean and S of the step are its transition density. The
noise of row i is that of ``fold_in(rng_key, i)``. The table is data: a new one of equal shape
compiles nothing. What compiles is the number of rows, of registers, of values of history and of
noises, and whether there is a filter.

Points have a leading batch axis. A rule is written for a single point.
"""

import math
from collections.abc import Callable
from functools import reduce
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax, random
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from ppl.noise import fold_each, normal
from samplers.diffusion.paths import Level
from samplers.diffusion.rules import Plain, Rule
from samplers.diffusion.tables import Rows

type Denoiser = Callable[[Array, Level], Array]  # of a single point


class State(NamedTuple):
    """Registers, of which the first is the point, and the older values of the history."""

    registers: tuple[Float[Array, "n ..."], ...]
    history: tuple[Float[Array, "n ..."], ...]

    @property
    def x(self) -> Float[Array, "n ..."]:
        """The points."""
        return self.registers[0]


def start(x: Float[Array, "n ..."] | tuple[Array, ...], rows: Rows) -> State:
    """State before the first row; a tuple fills the registers one by one."""
    registers = x if isinstance(x, tuple) else (x,) * rows.A.shape[-1]
    return State(registers, (jnp.zeros_like(registers[0]),) * (rows.B.shape[-1] - 1))


def cast(rows: Rows, dtype: Any) -> Rows:
    """The table in the number format of the points."""
    return jax.tree.map(
        lambda x: x if jnp.issubdtype(x.dtype, jnp.integer) else jnp.asarray(x, dtype), rows
    )


def denoise(
    denoiser: Denoiser, x: Float[Array, "n ..."], row: Rows, carry: PyTree, rule: Rule
) -> tuple[Float[Array, "n ..."], PyTree]:
    """Denoised values of a batch, and what the rule remembers of each point."""
    return jax.vmap(lambda x, carry: rule(denoiser, x, row, carry))(x, carry)


def mean(state: State, denoised: Float[Array, "n ..."], row: Rows) -> State:
    """The state after the row, but for its noise."""
    q = _value(state.x, denoised, state.history[:1], row)
    history = (q, *state.history)
    return State(_combined(state.registers, history, row), history[:-1])


def _value(x: Array, denoised: Array, previous: tuple[Array, ...], row: Rows) -> Array:
    """What goes into the history: q."""
    q = row.G[0] * x + row.G[1] * denoised
    return row.F[0] * q + (1 - row.F[0]) * previous[0] if row.F.shape[-1] else q


def _combined(
    registers: tuple[Array, ...], history: tuple[Array, ...], row: Rows
) -> tuple[Array, ...]:
    """``A u + B h``."""

    def register(k: int) -> Array:
        terms = [row.A[k, j] * u for j, u in enumerate(registers)]
        terms += [row.B[k, j] * h for j, h in enumerate(history)]
        return reduce(jnp.add, terms)

    return tuple(register(k) for k in range(len(registers)))


def advance(
    rng_key: PRNGKeyArray, state: State, denoised: Float[Array, "n ..."], row: Rows
) -> State:
    """The state after the row, a draw from N(mean, S S')."""
    after = mean(state, denoised, row)
    key = random.fold_in(rng_key, row.index)
    return after._replace(registers=_noisy(key, after.registers, row))


def _noisy(rng_key: PRNGKeyArray, registers: tuple[Array, ...], row: Rows) -> tuple[Array, ...]:
    """``u + S z``, with the row's own key."""
    num_noises = row.S.shape[-1]
    if num_noises == 0:
        return registers
    x = registers[0]
    noise = normal(rng_key, (num_noises, *x.shape), x.dtype)
    return tuple(
        u + sum(row.S[k, m] * noise[m] for m in range(num_noises)) for k, u in enumerate(registers)
    )


# All rows ---------------------------------------------------------------------------------------


def integrate(
    rng_key: PRNGKeyArray,
    denoiser: Denoiser,
    x: Float[Array, "n ..."] | tuple[Array, ...],
    rows: Rows,
    *,
    rule: Rule | None = None,
    trace: bool = False,
    remat: bool = False,
) -> tuple[State, PyTree, tuple[Array, Array] | None]:
    """Run the rows, one after the other.

    Parameters
    ----------
    denoiser
        ``denoiser(x, level)`` of a single point: the mean of the data given x at this level.
    x
        Points at the level of the first row, with a leading batch axis; or a tuple, one for each
        register.
    rule
        What is done to the denoised value: see `samplers.diffusion.rules`.
    trace
        Whether to return the points and the denoised values of all rows.
    remat
        Recompute instead of remembering when a gradient is taken: for N rows the memory is that of
        2 sqrt(N) points and of one call of the denoiser.

    Returns
    -------
    state, carry, trace
        The last state; what the rule remembers, one entry a point; and the points before each row
        and their denoised values, (rows, n, ...), or None.
    """
    state = start(x, rows)
    rule = Plain() if rule is None else rule
    rows = cast(rows, state.x.dtype)
    carry = jax.vmap(rule.init)(state.x)
    size = rows.B.shape[-1]
    keys = fold_each(rng_key, jnp.asarray(rows.index))
    slots = (rows.index[:, None] - jnp.arange(size)) % size  # of the history in a ring, by age

    def step(
        loop: tuple[Any, Any, PyTree], own: tuple[PRNGKeyArray, Array, Rows]
    ) -> tuple[tuple[Any, Any, PyTree], Any]:
        (registers, ring, carry), (key, slot, row) = loop, own
        denoised, carry = denoise(denoiser, registers[0], row, carry, rule)
        seen = (registers[0], denoised) if trace else None
        previous = (_at(ring, slot[1]),) if row.F.shape[-1] else ()
        q = _value(registers[0], denoised, previous, row)
        history = (q,)
        if size > 1:
            # Written over the oldest value first, and read then: two passes, and no copy.
            ring = lax.dynamic_update_index_in_dim(ring, q, slot[0], 0)
            registers, ring = lax.optimization_barrier((registers, ring))
            history = tuple(_at(ring, slot[age]) for age in range(size))
        registers = _noisy(key, _combined(registers, history, row), row)
        return (registers, ring, carry), seen

    scan = _scan_with_little_memory if remat else lax.scan
    ring = jnp.stack((*state.history, jnp.zeros_like(state.x))) if size > 1 else ()
    loop = (state.registers, ring, carry)
    (registers, ring, carry), seen = scan(step, loop, (keys, slots, rows))
    history = tuple(_at(ring, slots[-1, age]) for age in range(size - 1))
    return State(registers, history), carry, seen


def _at(ring: Any, slot: Array) -> Float[Array, "n ..."]:
    return lax.dynamic_index_in_dim(ring, slot, keepdims=False)


def _scan_with_little_memory(step: Any, loop: Any, rows: Any) -> Any:
    """Scan whose gradient remembers the ends of about sqrt(N) pieces, and one piece at a time."""
    num = len(jax.tree.leaves(rows)[0])
    length = max(1, math.isqrt(num))
    whole = num // length * length
    split = lambda x: x[:whole].reshape(num // length, length, *x.shape[1:])
    one = jax.checkpoint(step)
    piece = jax.checkpoint(lambda loop, rows: lax.scan(one, loop, rows))
    loop, seen = lax.scan(piece, loop, jax.tree.map(split, rows))
    loop, last = lax.scan(one, loop, jax.tree.map(lambda x: x[whole:], rows))
    join = lambda x, y: jnp.concatenate([x.reshape(whole, *x.shape[2:]), y])
    return loop, jax.tree.map(join, seen, last)
