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
    n = len(log_weights)
    shares = weights.probabilities(log_weights)
    start = flat(positions)
    scale = _variances(start, shares)
    init_keys = random.split(random.fold_in(rng_key, 0), n)
    states = jax.vmap(kernel.init, (0, None, 0))(init_keys, target, positions)

    arrays, rest = eqx.partition(kernel, eqx.is_array)

    def one(k: Any, states: Any, arrays: Any) -> tuple[Any, Any]:
        kernel = eqx.combine(arrays, rest)
        keys = random.split(random.fold_in(rng_key, k), n)
        return jax.vmap(kernel.step, (0, None, 0))(keys, target, states)

    def mean_rate(info: Any) -> Float[Array, ""]:
        rates = getattr(info, "acceptance_rate", jnp.full(n, jnp.nan, start.dtype))
        return jnp.sum(_live(shares, rates[:, None])[:, 0] * shares)

    def body(carry: Any) -> Any:
        k, states, arrays, before, _, evaluations, diverging, _ = carry
        states, info = one(k + 1, states, arrays)
        if tune:
            arrays = retuned(eqx.combine(arrays, rest), states.position, log_weights, info)
        squares = _live(shares, (flat(states.position) - start) ** 2) / (2 * scale)
        jump = jnp.mean(shares @ squares)
        rate = mean_rate(info)
        worth = (jump - before >= GAIN * jump / (k + 1)) | (tune & (rate < FAILED))
        evaluations += jnp.sum(info.num_evaluations, axis=0, dtype=jnp.int32)
        if hasattr(info, "diverging"):
            diverging += jnp.sum(info.diverging, dtype=jnp.int32)
        return k + 1, states, arrays, jump, info, evaluations, diverging, worth

    def unfinished(carry: Any) -> Any:
        k, *_, worth = carry
        return (k < most) & ((k < fewest) | worth)

    # A state is of one density and, for kernels that use them, one gradient a particle.
    spent = jnp.array([n, n if "gradient" in kernel.needs else 0], jnp.int32)
    zero = jnp.zeros((), jnp.int32)
    _, info = jax.eval_shape(one, zero, states, arrays)
    blank = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), info)
    carry = (
        zero,
        states,
        arrays,
        jnp.zeros((), start.dtype),
        blank,
        spent,
        zero,
        jnp.ones((), bool),
    )
    k, states, arrays, jump, info, evaluations, diverging, _ = lax.while_loop(
        unfinished, body, carry
    )

    kernel = eqx.combine(arrays, rest)
    return Moved(states.position, kernel, k, mean_rate(info), jump, diverging, evaluations)


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


def _variances(x: Float[Array, "n d"], shares: Float[Array, " n"]) -> Float[Array, " d"]:
    # Measured from one of them, where copies of it lie at zero and large numbers have gone.
    x = _live(shares, x - x[jnp.argmax(shares)])
    variances = shares @ _live(shares, (x - shares @ x) ** 2)
    return jnp.where(variances > 0, variances, 1)
