"""The semilinear engine: one scan over a table of rows, one call of the denoiser a row.

    D, carry = rule(denoiser, x, row, carry)          `denoise`
    u' = A u + B h(x, D) + S z                        `mean`, then `advance`

The three are apart so that others can come in between: a potential that weighs particles needs the
denoised value of the row it is at, and the mean and S of the step are its transition density. The
noise of row i is that of ``fold_in(rng_key, i)``. The table is data: a new one of equal shape
compiles nothing. What compiles is the number of rows, of registers, of values of history, and of
noises.

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
    q = row.G[0] * state.x + row.G[1] * denoised
    if state.history:
        q = row.F * q + (1 - row.F) * state.history[0]
    history = (q, *state.history)

    def register(k: int) -> Array:
        terms = [row.A[k, j] * u for j, u in enumerate(state.registers)]
        terms += [row.B[k, j] * h for j, h in enumerate(history)]
        return reduce(jnp.add, terms)

    return State(tuple(register(k) for k in range(len(state.registers))), history[:-1])


def advance(
    rng_key: PRNGKeyArray, state: State, denoised: Float[Array, "n ..."], row: Rows
) -> State:
    """The state after the row, a draw from N(mean, S S')."""
    after = mean(state, denoised, row)
    num_noises = row.S.shape[-1]
    if num_noises == 0:
        return after
    key = random.fold_in(rng_key, row.index)
    noise = random.normal(key, (num_noises, *state.x.shape), state.x.dtype)
    registers = tuple(
        u + sum(row.S[k, m] * noise[m] for m in range(num_noises))
        for k, u in enumerate(after.registers)
    )
    return State(registers, after.history)


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

    def step(loop: tuple[State, PyTree], row: Rows) -> tuple[tuple[State, PyTree], Any]:
        state, carry = loop
        denoised, carry = denoise(denoiser, state.x, row, carry, rule)
        seen = (state.x, denoised) if trace else None
        return (advance(rng_key, state, denoised, row), carry), seen

    scan = _scan_with_little_memory if remat else lax.scan
    (state, carry), seen = scan(step, (state, carry), rows)
    return state, carry, seen


def _scan_with_little_memory(step: Any, loop: Any, rows: Rows) -> Any:
    """Scan whose gradient remembers the ends of about sqrt(N) pieces, and one piece at a time."""
    num = len(rows.F)
    length = max(1, math.isqrt(num))
    whole = num // length * length
    split = lambda x: x[:whole].reshape(num // length, length, *x.shape[1:])
    one = jax.checkpoint(step)
    piece = jax.checkpoint(lambda loop, rows: lax.scan(one, loop, rows))
    loop, seen = lax.scan(piece, loop, jax.tree.map(split, rows))
    loop, last = lax.scan(one, loop, jax.tree.map(lambda x: x[whole:], rows))
    join = lambda x, y: jnp.concatenate([x.reshape(whole, *x.shape[2:]), y])
    return loop, jax.tree.map(join, seen, last)
