"""Inverse temperatures of tempering: where exchanges are refused at equal rates.

    b_0 = 0 < b_1 < ... < b_N = 1;   r_k: rate at which exchanges of b_k and b_{k+1} are refused
    Lambda(b_k) = r_0 + ... + r_{k-1};   new b_k:  Lambda(b_k) = Lambda(1) k / N

after each round of warm-up, in rounds of doubled length ([1], section 5.4). Lambda, the barrier,
hardly depends on the ladder that it was measured on.

References
----------
.. [1] S. Syed, A. Bouchard-Cote, G. Deligiannidis, A. Doucet, "Non-reversible parallel tempering: a
   scalable highly parallel MCMC scheme", J. R. Stat. Soc. B 84, 2022, arXiv:1905.02939.
"""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree

from ppl import weights
from ppl.energy import Energy
from ppl.sampler import Record, WarmUp
from samplers.smc.path import Path, next_inverse_temperature

FIRST, LAST = 25, 100  # lengths of warm-up's rounds, in a warm-up long enough for them

each = eqx.filter_vmap  # over rungs: the leading axis of all arrays


def log_odds(log_ratios: Any, ladder: Any) -> Any:
    """Log of the Metropolis ratio of exchanging neighbors; rungs are the last axis."""
    lower, upper = log_ratios[..., :-1], log_ratios[..., 1:]
    # A draw of the reference without likelihood is never let in.
    return (ladder[1:] - ladder[:-1]) * (lower - upper)


def refusals(log_ratios: Any, ladder: Any) -> Any:
    """Probability that an exchange is refused, for each pair of neighbors."""
    xp = jnp if isinstance(log_ratios, jax.Array) else np
    return 1 - xp.exp(xp.minimum(log_odds(weights.clean(log_ratios), ladder), 0))


def first_ladder(
    log_ratios: Float[Array, "*batch"], ladder: Float[Array, " rung"]
) -> Float[Array, " rung"]:
    """Geometric, from where draws of the reference keep half of their effective size."""
    values, zero = log_ratios.ravel(), jnp.zeros((), ladder.dtype)
    half = jnp.full((), 0.5, ladder.dtype)
    first = next_inverse_temperature(values, jnp.zeros_like(values), zero, half)
    steps = len(ladder) - 1
    first = jnp.minimum(first.astype(ladder.dtype), 1 / steps)
    powers = jnp.linspace(1.0, 0.0, steps, dtype=ladder.dtype)
    return jnp.concatenate([zero[None], (first**powers).at[-1].set(1)])


def next_ladder(
    rates: Float[Array, " step"], ladder: Float[Array, " rung"]
) -> tuple[Float[Array, " rung"], Int[Array, " step"]]:
    """Inverse temperatures of equal rates of refusal, and for each above 0 the nearest old one.

    The barrier up to b is the sum of the rates below it; between rungs it is taken to be linear in
    log b, below the first one in b.
    """
    steps = len(rates)
    barrier = jnp.cumsum(jnp.maximum(rates, 1e-3))  # of the rungs above the reference
    goal = jnp.arange(1, steps + 1, dtype=ladder.dtype) / steps * barrier[-1]
    inside = jnp.exp(jnp.interp(goal, barrier, jnp.log(ladder[1:])))
    found = jnp.where(goal < barrier[0], goal / barrier[0] * ladder[1], inside)
    nearest = jnp.argmin(jnp.abs(goal[:, None] - barrier), axis=1)
    return jnp.concatenate([ladder[:1], found.at[-1].set(1)]), nearest


class TemperingAdaptation(NamedTuple):
    """The warm-up of each rung's kernel, and refusals added up over a round."""

    moves: Any
    refused: Float[Array, " step"]
    scans: Int[Array, ""]


class TemperingWarmUp(WarmUp):
    """Temperatures to equal rates of refusal, and the kernel of each by its own warm-up.

    A round is twice as long as the one before; after each the temperatures move. The last one is
    for the kernels alone.
    """

    of_move: Any  # a WarmUp, or None

    def windows(self, num_steps: int) -> list[int]:
        first, last = min(FIRST, num_steps // 5), min(LAST, num_steps // 4)
        if not first:
            return [num_steps] if num_steps else []
        lengths, length, left = [], first, num_steps - last
        while left >= 3 * length:
            lengths.append(length)
            left, length = left - length, 2 * length
        return [*lengths, left, last]

    def init(
        self, rng_key: PRNGKeyArray, target: Energy, kernel: Any, states: Any
    ) -> tuple[Any, TemperingAdaptation]:
        if kernel.schedule is None:
            kernel = _with(kernel, ladder=first_ladder(states.log_ratios, kernel.ladder))
        path, adaptations = Path(target, kernel.reference), ()
        if self.of_move is not None:

            def one(move: Any, b: Array, moved: Any) -> Any:
                return self.of_move.init(rng_key, path.at(b), move, moved)

            rungs_first = jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), states.moved)
            moves, adaptations = each(one)(kernel.moves, kernel.ladder[1:], rungs_first)
            kernel = _with(kernel, moves=moves)
        refused = jnp.zeros_like(kernel.ladder[1:])
        return kernel, TemperingAdaptation(adaptations, refused, jnp.int32(0))

    def step(
        self, kernel: Any, adaptation: TemperingAdaptation, infos: Any
    ) -> tuple[Any, TemperingAdaptation]:
        moves, adaptations = kernel.moves, adaptation.moves
        if self.of_move is not None:
            rungs_first = jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), infos.infos[0])

            def one(move: Any, adaptation: Any, infos: Any) -> Any:
                return self.of_move.step(move, adaptation, infos)

            moves, adaptations = each(one)(moves, adaptations, rungs_first)
        refused = jnp.mean(refusals(infos.log_ratios, kernel.ladder), axis=0)
        return _with(kernel, moves=moves), TemperingAdaptation(
            adaptations, adaptation.refused + refused.astype(adaptation.refused.dtype),
            adaptation.scans + 1,
        )  # fmt: skip

    def end_chunk(
        self,
        rng_key: PRNGKeyArray,
        target: Energy,
        kernel: Any,
        adaptation: TemperingAdaptation,
        states: Any,
        record: Record,
        count: Int[Array, ""],
        window_ends: Bool[Array, ""],
        is_last: Bool[Array, ""],
    ) -> tuple[Any, TemperingAdaptation, Any]:
        path, moves, adaptations = Path(target, kernel.reference), kernel.moves, adaptation.moves
        if self.of_move is not None:
            has_windows = len(self.of_move.windows(1000)) > 1

            def one(move: Any, adaptation: Any, b: Array, moved: Any, rows: Any) -> Any:
                own = Record(rows[0], {}, rows[1])
                # Kernels are begun anew in each scan: the states that come back are not used.
                return self.of_move.end_chunk(
                    rng_key, path.at(b), move, adaptation, moved, own, count,
                    window_ends if has_windows else is_last, is_last,
                )[:2]  # fmt: skip

            moved = jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), states.moved)
            rows = jax.tree.map(lambda x: jnp.moveaxis(x, 2, 0), record.watched)
            moves, adaptations = each(one)(moves, adaptations, kernel.ladder[1:], moved, rows)

        move_on = window_ends & ~is_last & (kernel.schedule is None)
        rates = adaptation.refused / jnp.maximum(adaptation.scans, 1)
        ladder, nearest = next_ladder(rates, kernel.ladder)
        ladder = jnp.where(move_on, ladder, kernel.ladder)
        nearest = jnp.where(move_on, nearest, jnp.arange(len(nearest)))
        # A kernel at a new temperature begins as that of the nearest old one, and learns on.
        moves, adaptations = each(lambda at: _row((moves, adaptations), at))(nearest)
        kernel = _with(kernel, ladder=ladder, moves=moves, warm=kernel.warm | is_last)
        refused = jnp.where(window_ends, 0, adaptation.refused)
        scans = jnp.where(window_ends, 0, adaptation.scans)
        return kernel, TemperingAdaptation(adaptations, refused, scans), states


def _with(kernel: Any, **fields: Any) -> Any:
    return eqx.tree_at(lambda k: [getattr(k, n) for n in fields], kernel, list(fields.values()))


def _row(tree: PyTree, at: Int[Array, ""]) -> PyTree:
    arrays, rest = eqx.partition(tree, eqx.is_array)
    return eqx.combine(jax.tree.map(lambda x: x[at], arrays), rest)
