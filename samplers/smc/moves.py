"""Moves of a population by a Markov kernel, as many as they are worth.

All particles take a step side by side, and another one while it pays. What a step buys is measured
by the squared distance from where the particles started, in units of twice their variance and
averaged over coordinates:

    D_k = mean_j  sum_i W_i (x_ij^k - x_ij^0)^2 / (2 var_j)

D rises from 0 to 1 - rho, with rho what is left of the correlation with the start when everything
has mixed that mixes: 0 within one mode, the correlation between modes where there are several.
Moves stop when the last one gained less than half of what the moves have gained on average,

    D_k - D_{k-1} < D_k / (2 k)

which does not depend on how fast the kernel is: with D_k = (1 - rho) (1 - exp(-k / tau)) it stops
near k = 2 tau, whatever tau and rho. (The rule of [1]_ stops at a fixed correlation, which moves
within a mode never reach.)

References
----------
.. [1] N. Kantas, A. Beskos, A. Jasra, "Sequential Monte Carlo methods for high-dimensional inverse
   problems", SIAM/ASA J. Uncertainty Quantification 2, 2014, arXiv:1307.6127. Section 4.2.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax, random
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from ppl import weights
from ppl.energy import Energy, Position
from ppl.sampler import MarkovKernel

GAIN = 0.5  # of the mean gain a move, at which moves stop
FAILED = 0.2  # a rate below which a move, while the kernel is being tuned, says nothing


class Moved(NamedTuple):
    """Where the particles are, the kernel as it is tuned by then, and what it took.

    ``acceptance_rate`` is the weighted mean of the last move, NaN for a kernel without one;
    ``jump`` is D above.
    """

    positions: PyTree
    kernel: Any
    num_moves: Int[Array, ""]
    acceptance_rate: Float[Array, ""]
    jump: Float[Array, ""]
    num_diverging: Int[Array, ""]
    num_evaluations: Int[Array, "2"]


def move(
    rng_key: PRNGKeyArray,
    kernel: MarkovKernel,
    target: Energy,
    positions: Position,
    log_weights: Float[Array, " n"],
    fewest: int,
    most: int,
    *,
    tune: bool = False,
) -> Moved:
    """Move all particles between ``fewest`` and ``most`` times.

    With ``tune`` the kernel is tuned to the particles after each move, and a move that was hardly
    ever accepted is no reason to stop.
    """
    shares = weights.probabilities(log_weights)
    start = flat(positions)
    scale = variances(start, shares)
    states, spent = _started(rng_key, kernel, target, positions)
    arrays, rest = eqx.partition(kernel, eqx.is_array)

    def body(carry: Any) -> Any:
        k, states, arrays, before, _, evaluations, diverging, _ = carry
        states, info = _step(rng_key, k + 1, eqx.combine(arrays, rest), target, states)
        if tune:
            arrays = retuned(eqx.combine(arrays, rest), states.position, log_weights, info)
        jump = mean_jump(flat(states.position), start, scale, shares)
        rate = _mean_rate(info, shares)
        worth = (jump - before >= GAIN * jump / (k + 1)) | (tune & (rate < FAILED))
        evaluations += jnp.sum(info.num_evaluations, axis=0, dtype=jnp.int32)
        diverging += _num_diverging(info)
        return k + 1, states, arrays, jump, rate, evaluations, diverging, worth

    def unfinished(carry: Any) -> Any:
        k, *_, worth = carry
        return (k < most) & ((k < fewest) | worth)

    zero, nothing = jnp.zeros((), jnp.int32), jnp.zeros((), start.dtype)
    carry = (zero, states, arrays, nothing, nothing, spent, zero, jnp.ones((), bool))
    k, states, arrays, jump, rate, evaluations, diverging, _ = lax.while_loop(
        unfinished, body, carry
    )
    kernel = eqx.combine(arrays, rest)
    return Moved(states.position, kernel, k, rate, jump, diverging, evaluations)


def chains(
    rng_key: PRNGKeyArray,
    kernel: MarkovKernel,
    target: Energy,
    positions: Position,
    length: int,
    retune: Callable[[MarkovKernel, Any], Any] | None = None,
) -> Moved:
    """Chains of ``length`` states, their starts included; all states come back, chain by chain.

    Leading axis of the positions: ``n length``. ``retune(kernel, info)``, if given, tunes the
    kernel after each move.
    """
    n = jax.tree.leaves(positions)[0].shape[0]
    shares = jnp.full(n, 1 / n, flat(positions).dtype)
    states, spent = _started(rng_key, kernel, target, positions)
    arrays, rest = eqx.partition(kernel, eqx.is_array)

    def body(carry: Any, k: Any) -> Any:
        states, arrays = carry
        kernel = eqx.combine(arrays, rest)
        states, info = _step(rng_key, k + 1, kernel, target, states)
        if retune is not None:
            arrays = retune(kernel, info)
        evaluations = jnp.sum(info.num_evaluations, axis=0, dtype=jnp.int32)
        seen = (_mean_rate(info, shares), _num_diverging(info), evaluations)
        return (states, arrays), (states.position, *seen)

    (last, arrays), (later, rates, diverging, evaluations) = lax.scan(
        body, (states, arrays), jnp.arange(length - 1)
    )

    def by_chain(start: Array, later: Array) -> Array:
        together = jnp.concatenate([start[:, None], jnp.swapaxes(later, 0, 1)], axis=1)
        return together.reshape(n * length, *start.shape[1:])

    start = flat(positions)
    return Moved(
        jax.tree.map(by_chain, positions, later),
        eqx.combine(arrays, rest),
        jnp.int32(length - 1),
        jnp.mean(rates),
        mean_jump(flat(last.position), start, variances(start, shares), shares),
        jnp.sum(diverging),
        spent + jnp.sum(evaluations, axis=0),
    )


def mean_jump(
    x: Float[Array, "n d"],
    start: Float[Array, "n d"],
    scale: Float[Array, " d"],
    shares: Float[Array, " n"],
) -> Float[Array, ""]:
    """D above."""
    return jnp.mean(shares @ (_live(shares, (x - start) ** 2) / (2 * scale)))


def variances(x: Float[Array, "n d"], shares: Float[Array, " n"]) -> Float[Array, " d"]:
    """Weighted variances of the coordinates; 1 for one that does not vary."""
    # Measured from one of them, where copies of it lie at zero and large numbers have gone.
    x = _live(shares, x - x[jnp.argmax(shares)])
    found = shares @ _live(shares, (x - shares @ x) ** 2)
    return jnp.where(found > 0, found, 1)


def retuned(
    kernel: MarkovKernel, positions: Position, log_weights: Float[Array, " n"], info: Any
) -> MarkovKernel:
    """Arrays of the kernel, tuned to weighted particles, in the precisions they had."""
    before = eqx.filter(kernel, eqx.is_array)
    tuned = eqx.filter(kernel.retune(positions, log_weights, info), eqx.is_array)
    return jax.tree.map(lambda new, old: new.astype(old.dtype), tuned, before)


def flat(positions: Position) -> Float[Array, "n d"]:
    """Rows of flat positions, as floating numbers also where they are tokens."""
    rows = jax.vmap(lambda position: ravel_pytree(position)[0])(positions)
    floating = jnp.issubdtype(rows.dtype, jnp.floating)
    return rows if floating else rows.astype(jnp.result_type(float))


def _live(shares: Float[Array, " n"], values: Float[Array, "n d"]) -> Float[Array, "n d"]:
    """Values of particles with weight; of others 0, where they may be NaN."""
    return jnp.where(shares[:, None] > 0, values, 0)


# One move -------------------------------------------------------------------------------------


def _started(
    rng_key: PRNGKeyArray, kernel: MarkovKernel, target: Energy, positions: Position
) -> tuple[Any, Int[Array, "2"]]:
    """States of the kernel at these positions, and what they cost."""
    n = jax.tree.leaves(positions)[0].shape[0]
    keys = random.split(random.fold_in(rng_key, 0), n)
    states = jax.vmap(kernel.init, (0, None, 0))(keys, target, positions)
    # A state is of one density and, for kernels that use them, one gradient a particle.
    return states, jnp.array([n, n if "gradient" in kernel.needs else 0], jnp.int32)


def _step(rng_key: PRNGKeyArray, k: Any, kernel: Any, target: Energy, states: Any) -> Any:
    """Move number ``k`` of all particles, side by side."""
    n = jax.tree.leaves(states)[0].shape[0]
    keys = random.split(random.fold_in(rng_key, k), n)
    return jax.vmap(kernel.step, (0, None, 0))(keys, target, states)


def _mean_rate(info: Any, shares: Float[Array, " n"]) -> Float[Array, ""]:
    if not hasattr(info, "acceptance_rate"):
        return jnp.full((), jnp.nan, shares.dtype)
    return jnp.sum(jnp.where(shares > 0, info.acceptance_rate, 0) * shares)


def _num_diverging(info: Any) -> Int[Array, ""]:
    return jnp.sum(getattr(info, "diverging", jnp.zeros((), bool)), dtype=jnp.int32)
