"""The engine's second executor: all rows of a window at once, by Picard iteration (ParaDiGMS).

    repeat    D_i = denoiser(x_i, level_i)              for all rows i of the window, in one batch
              x_(i+1) = A x_i + B h_i + S z_i           row after row, which costs next to nothing
              move the window to its first row that has not settled

Each sweep makes at least one more row exact, so that there are at most as many sweeps as rows; on
smooth problems there are far fewer. The noise is that of `integrate`, row by row, and so is the
result, up to the tolerance. It pays where a batch of calls takes little longer than one call, as on
an accelerator.

References
----------
.. [1] Shih et al., "Parallel sampling of diffusion models", NeurIPS 2023, arXiv:2305.16317.
   Algorithm 1.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int, PRNGKeyArray

from samplers.diffusion import integrate as engine
from samplers.diffusion.integrate import Denoiser, State
from samplers.diffusion.rules import Plain, Rule
from samplers.diffusion.tables import Rows


def picard(
    rng_key: PRNGKeyArray,
    denoiser: Denoiser,
    x: Float[Array, "n ..."],
    rows: Rows,
    *,
    window: int | None = None,
    tolerance: Any = 1e-4,
    rule: Rule | None = None,
) -> tuple[State, Int[Array, ""]]:
    """Run the rows; returns the last state and the number of sweeps.

    Parameters
    ----------
    window
        Rows at once; None: all of them.
    tolerance
        A row has settled when no point of the batch moves by more than this, root mean square over
        its entries, in units of the noise of the level.

    Raises
    ------
    ValueError
        For a rule with a memory, which must see the rows in order.

    Differences from the paper
    --------------------------
    The linear part of a step is solved exactly in each sweep, only denoised values are those of the
    sweep before. Movement is measured against the noise of the level instead of that of the step,
    which deterministic solvers do not have.
    """
    rule = Plain() if rule is None else rule
    if jax.tree.leaves(jax.eval_shape(rule.init, x[0])):
        raise ValueError(
            f"{type(rule).__name__} remembers something from row to row; rows that run at the same "
            "time need a rule without a memory. Use the sequential executor: window=None"
        )
    num = len(rows.F)
    size = num if window is None else min(window, num)
    rows = engine.cast(_with_idle(rows, size), x.dtype)
    one = jax.vmap(lambda x, row: engine.denoise(denoiser, x, row, (), rule)[0])

    def step(state: State, item: Any) -> tuple[State, State]:
        row, denoised = item
        after = engine.advance(rng_key, state, denoised, row)
        return after, after

    def sweep(loop: Any) -> Any:
        first, state, guesses, sweeps = loop
        rows_here = jax.tree.map(lambda x: lax.dynamic_slice_in_dim(x, first, size), rows)
        values = one(guesses, rows_here)
        _, states = lax.scan(step, state, (rows_here, values))
        found = states.x  # after each row
        moved = (found[:-1] - guesses[1:]) ** 2
        moved = jnp.max(jnp.mean(moved.reshape(*moved.shape[:2], -1), axis=2), axis=1)
        settled = moved <= (tolerance * rows_here.level.sigma[1:]) ** 2
        stride = 1 + jnp.sum(jnp.cumprod(settled.astype(jnp.int32)), dtype=jnp.int32)
        state = jax.tree.map(lambda x: x[stride - 1], states)
        # Beyond the window the last point found is the guess.
        follow = jnp.minimum(jnp.arange(size) + stride - 1, size - 1)
        return first + stride, state, found[follow], sweeps + 1

    start = engine.start(x, rows)
    guesses = jnp.broadcast_to(x, (size, *x.shape))
    zero = jnp.zeros((), jnp.int32)
    _, state, _, sweeps = lax.while_loop(
        lambda loop: loop[0] < num, sweep, (zero, start, guesses, zero)
    )
    return state, sweeps


def _with_idle(rows: Rows, extra: int) -> Rows:
    """Rows that change nothing behind the last one, where a window may look."""
    more = lambda x: jnp.concatenate([jnp.asarray(x), jnp.repeat(jnp.asarray(x[-1:]), extra, 0)])
    long = jax.tree.map(more, rows)
    idle = (jnp.arange(len(rows.F) + extra) >= len(rows.F))[:, None, None]
    return long._replace(
        index=jnp.arange(len(idle), dtype=jnp.int32),
        A=jnp.where(idle, jnp.eye(rows.A.shape[-1], dtype=long.A.dtype), long.A),
        B=jnp.where(idle, 0, long.B),
        S=jnp.where(idle, 0, long.S),
    )
