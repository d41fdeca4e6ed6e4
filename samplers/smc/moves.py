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
within a mode never reach.) Nor does a move pay that cannot: D stays below 1, so that none is made
where 1 - D_k < 1 / (2 (k + 1)). That a move was not worth it is otherwise known once it has been
made; the next temperatures do without it (`enough`).

A kernel that is tuned to the particles it moves does not leave their law invariant: directions in
which they happen to be spread are taken for wide ones. With a dense metric of d dimensions the
log-evidence of n particles is then off by an amount of order d^2 / n at every temperature, which no
spread between runs shows. So there are two kernels, each of which moves one half of the particles
and is tuned to the other.

That is not enough by itself. What a half remembers through a move depends on the errors of its
metric, which are those of the other half, and the other way round: after a move each half carries
the product of both errors, the next metrics are no longer foreign, and the evidence is off again,
the more so the more a move remembers (by half a nat at d = 24 and n = 512, and by the same where
the halves are never resampled together). Hence metrics are learnt from gradients as well, where
the states hold them (`samplers.mcmc.metrics`): on a Gaussian they have no error at all. And `HMC`
moves for the quarter of a period after which a Gaussian is forgotten.

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
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree

from ppl import weights
from ppl.energy import Energy, Position
from ppl.sampler import MarkovKernel

GAIN = 0.5  # of the mean gain a move, at which moves stop
FAILED = 0.2  # a rate below which a move, while the kernel is being tuned, says nothing
LEARN_FROM = 64  # particles a dimension; more of them make a metric dearer and hardly better


class Moved(NamedTuple):
    """Where the particles are, the kernel as it is tuned by then, and what it took.

    ``acceptance_rate`` is the weighted mean of the last move, NaN for a kernel without one;
    ``jump`` is D above. ``densities`` are the log-densities at the positions and, for a kernel that
    needs them, the gradients; None where its states are not plain.
    """

    positions: PyTree
    kernel: Any
    num_moves: Int[Array, ""]
    acceptance_rate: Float[Array, ""]
    jump: Float[Array, ""]
    num_diverging: Int[Array, ""]
    num_evaluations: Int[Array, "2"]
    densities: tuple[Array, PyTree] | None


def move(
    rng_key: PRNGKeyArray,
    kernel: MarkovKernel,
    target: Energy,
    positions: Position,
    log_weights: Float[Array, " n"],
    fewest: Any,
    most: Any,
    *,
    tune: bool = False,
    count: Any = True,
    densities: tuple[Array, PyTree] | None = None,
) -> Moved:
    """Move all particles between ``fewest`` and ``most`` times.

    Without ``count`` gains are not asked, and moves stop at ``fewest``. With ``tune`` the kernels
    of both halves are tuned before the first move and after each, and a move that was hardly ever
    accepted is no reason to stop. ``densities``, where these are known, are the log-densities at
    the positions and the gradients, or None, from which a kernel of plain states begins.
    """
    n, halves = len(log_weights), 2 if tune else 1
    shares = weights.probabilities(log_weights)
    start = flat(positions)
    scale = variances(start, shares)
    log_weights, positions = weights_apart(log_weights, halves), apart(positions, halves)
    arrays, rest = several(kernel, halves)
    densities = apart(densities, halves)
    states, spent = _started(rng_key, arrays, rest, target, positions, n, densities)

    def tuned(arrays: PyTree, states: Any, info: Any, **options: Any) -> PyTree:
        if not tune:
            return arrays
        watched = jax.vmap(jax.vmap(kernel.watch))(states)
        return crossed(arrays, rest, states.position, log_weights, info, watched, **options)

    def goes_on(k: Any, worth: Any) -> Any:
        return (k < most) & ((k < fewest) | worth)

    def body(carry: Any) -> Any:
        k, states, arrays, before, _, evaluations, diverging, _ = carry
        states, infos = _step(rng_key, k + 1, arrays, rest, target, states)
        info = together(infos, n)
        jump = mean_jump(flat(together(states.position, n)), start, scale, shares)
        rate = _mean_rate(info, shares)
        paid = jump - before >= GAIN * jump / (k + 1)
        worth = (count & paid & ~is_all(jump, k + 1)) | (tune & (rate < FAILED))
        evaluations += jnp.sum(info.num_evaluations, axis=0, dtype=jnp.int32)
        diverging += _num_diverging(info)
        # Of a last move only the step size is heard: metrics will be those of other particles.
        arrays = lax.cond(
            goes_on(k + 1, worth),
            lambda: tuned(arrays, states, infos),
            lambda: tuned(arrays, states, infos, scalars_only=True),
        )
        return k + 1, states, arrays, jump, rate, evaluations, diverging, worth

    zero, nothing = jnp.zeros((), jnp.int32), jnp.zeros((), start.dtype)
    arrays = tuned(arrays, states, None)
    carry = (zero, states, arrays, nothing, nothing, spent, zero, jnp.ones((), bool))
    k, states, arrays, jump, rate, evaluations, diverging, _ = lax.while_loop(
        lambda carry: goes_on(carry[0], carry[-1]), body, carry
    )
    positions, densities = together((states.position, densities_of(rest, states)), n)
    return Moved(positions, in_one(arrays, rest), k, rate, jump, diverging, evaluations, densities)


def chains(
    rng_key: PRNGKeyArray,
    kernel: MarkovKernel,
    target: Energy,
    positions: Position,
    length: int,
    cloud: tuple[Position, Float[Array, " n"], tuple[Array, PyTree] | None] | None = None,
    densities: tuple[Array, PyTree] | None = None,
) -> Moved:
    """Chains of ``length`` states, their starts included; all states come back, chain by chain.

    Leading axis of the positions: ``n length``. ``cloud``, if given, are the weighted particles
    that the starts were drawn from, in their order, with their densities, and the kernels are tuned
    to them; ``densities`` as in `move`.
    """
    n, halves = jax.tree.leaves(positions)[0].shape[0], 1 if cloud is None else 2
    begun = positions
    arrays, rest = several(kernel, halves)
    positions = apart(positions, halves)

    def tuned(arrays: PyTree, info: Any, **options: Any) -> PyTree:
        if cloud is None:
            return arrays
        others, log_weights, known = cloud
        watched = ()
        if known is not None:
            watched = jax.vmap(kernel.watch)(plain_states(rest, others, known))
        others, watched = apart((others, watched), halves)
        log_weights = weights_apart(log_weights, halves)
        return crossed(arrays, rest, others, log_weights, info, watched, **options)

    arrays = tuned(arrays, None)
    states, spent = _started(rng_key, arrays, rest, target, positions, n, apart(densities, halves))
    begun = begun, together(densities_of(rest, states), n)
    start = flat(begun[0])
    shares = jnp.full(n, 1 / n, start.dtype)

    def body(carry: Any, k: Any) -> Any:
        states, arrays = carry
        states, info = _step(rng_key, k + 1, arrays, rest, target, states)
        # The cloud has not changed: of what is tuned to it there is nothing new.
        arrays, info = tuned(arrays, info, scalars_only=True), together(info, n)
        evaluations = jnp.sum(info.num_evaluations, axis=0, dtype=jnp.int32)
        seen = (_mean_rate(info, shares), _num_diverging(info), evaluations)
        return (states, arrays), (together((states.position, densities_of(rest, states)), n), *seen)

    (last, arrays), (later, rates, diverging, evaluations) = lax.scan(
        body, (states, arrays), jnp.arange(length - 1)
    )

    def by_chain(start: Array, later: Array) -> Array:
        both = jnp.concatenate([start[:, None], jnp.swapaxes(later, 0, 1)], axis=1)
        return both.reshape(n * length, *start.shape[1:])

    positions, densities = jax.tree.map(by_chain, begun, later)
    return Moved(
        positions,
        in_one(arrays, rest),
        jnp.int32(length - 1),
        jnp.mean(rates),
        mean_jump(flat(together(last.position, n)), start, variances(start, shares), shares),
        jnp.sum(diverging),
        spent + jnp.sum(evaluations, axis=0),
        densities,
    )


def is_all(jump: Float[Array, ""], num_moves: Int[Array, ""]) -> Bool[Array, ""]:
    """Whether what is left of D cannot pay for another move."""
    return 1 - jump < GAIN / (num_moves + 1)


def enough(moved: Moved) -> Int[Array, ""]:
    """How many of these moves paid, where gains were asked."""
    last = ~is_all(moved.jump, moved.num_moves)
    return jnp.maximum(moved.num_moves - last, 1)


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
    kernel: MarkovKernel,
    positions: Position,
    log_weights: Float[Array, " n"],
    info: Any,
    watched: Any = (),
) -> MarkovKernel:
    """Arrays of the kernel, tuned to weighted particles, in the precisions they had."""
    before = eqx.filter(kernel, eqx.is_array)
    tuned = eqx.filter(kernel.retune(positions, log_weights, info, watched), eqx.is_array)
    return jax.tree.map(lambda new, old: new.astype(old.dtype), tuned, before)


def flat(positions: Position) -> Float[Array, "n d"]:
    """Rows of flat positions, as floating numbers also where they are tokens."""
    rows = jax.vmap(lambda position: ravel_pytree(position)[0])(positions)
    floating = jnp.issubdtype(rows.dtype, jnp.floating)
    return rows if floating else rows.astype(jnp.result_type(float))


def _live(shares: Float[Array, " n"], values: Float[Array, "n d"]) -> Float[Array, "n d"]:
    """Values of particles with weight; of others 0, where they may be NaN."""
    return jnp.where(shares[:, None] > 0, values, 0)


# Halves -----------------------------------------------------------------------------------------


def apart(tree: PyTree, halves: int) -> PyTree:
    """Particles in one or two halves; the last of an odd number stands in its half twice."""

    def one(x: Array) -> Array:
        if x.shape[0] % halves:
            x = jnp.concatenate([x, x[-1:]])
        return x.reshape(halves, -1, *x.shape[1:])

    return jax.tree.map(one, tree)


def weights_apart(log_weights: Float[Array, " n"], halves: int) -> Float[Array, "halves m"]:
    """Their weights; who stands there a second time has none."""
    rows = apart(log_weights, halves)
    return rows.at[-1, -1].set(-jnp.inf) if log_weights.shape[0] % halves else rows


def together(tree: PyTree, n: int) -> PyTree:
    """The inverse of `apart`."""
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[:n], tree)


def several(kernel: MarkovKernel, halves: int) -> tuple[PyTree, PyTree]:
    """Arrays of a kernel for each half, and the rest of it."""
    arrays, rest = eqx.partition(kernel, eqx.is_array)
    return jax.tree.map(lambda x: jnp.broadcast_to(x, (halves, *x.shape)), arrays), rest


def in_one(arrays: PyTree, rest: PyTree) -> Any:
    """One kernel to begin with at the next temperature: step sizes between those of both.

    The metric is that of one of them: the mean of two factors is a factor of nothing.
    """

    def mean(x: Array) -> Array:
        is_scalar = x.ndim == 1 and jnp.issubdtype(x.dtype, jnp.floating)
        return jnp.mean(x).astype(x.dtype) if is_scalar else x[0]

    return eqx.combine(jax.tree.map(mean, arrays), rest)


def crossed(
    arrays: PyTree,
    rest: PyTree,
    positions: PyTree,
    log_weights: Float[Array, "halves m"],
    info: Any,
    watched: Any = (),
    *,
    scalars_only: bool = False,
) -> PyTree:
    """Kernel of each half, tuned to the particles of the other one, where these can tell.

    Every so many of them are asked, as copies of a particle stand together. With ``scalars_only``
    metrics stay, which are most of the work.
    """

    def one(arrays: PyTree, *others: Any) -> PyTree:
        return retuned(eqx.combine(arrays, rest), *others)

    halves, m = log_weights.shape
    dimension = sum(x.size for x in jax.tree.leaves(positions)) // (halves * m)
    every = max(1, m // max(1, LEARN_FROM * dimension))
    seen = (positions, log_weights, info, watched)
    others = jax.tree.map(lambda x: jnp.flip(x[:, ::every], axis=0), seen)
    tuned = jax.vmap(one)(arrays, *others)
    alive = jnp.any(jnp.isfinite(others[1]), axis=1)

    def keep(new: Array, old: Array) -> Array:
        if scalars_only and old.ndim > 1:
            return old
        return jnp.where(alive.reshape(-1, *(1,) * (new.ndim - 1)), new, old)

    return jax.tree.map(keep, tuned, arrays)


# One move -------------------------------------------------------------------------------------


def _each_half(fn: Callable, arrays: PyTree, *operands: Any) -> Any:
    """One half after the other: side by side, both would take as many steps as the longer one."""
    halves = jax.tree.leaves(operands)[0].shape[0]
    if halves > 1:
        return lax.map(lambda half: fn(*half), (arrays, *operands))
    found = fn(*jax.tree.map(lambda x: x[0], (arrays, *operands)))
    return jax.tree.map(lambda x: x[None], found)


def _started(
    rng_key: PRNGKeyArray,
    arrays: PyTree,
    rest: PyTree,
    target: Energy,
    positions: PyTree,
    n: int,
    densities: tuple[Array, PyTree] | None,
) -> tuple[Any, Int[Array, "2"]]:
    """States of the kernels at these positions, and what they cost."""
    if densities is not None:
        return plain_states(rest, positions, densities), jnp.zeros(2, jnp.int32)
    halves, m = jax.tree.leaves(positions)[0].shape[:2]

    def one(arrays: PyTree, keys: Any, positions: Position) -> Any:
        kernel = eqx.combine(arrays, rest)
        return jax.vmap(kernel.init, (0, None, 0))(keys, target, positions)

    keys = random.split(random.fold_in(rng_key, 0), (halves, m))
    states = _each_half(one, arrays, keys, positions)
    # A state is of one density and, for kernels that use them, one gradient a particle.
    return states, jnp.array([n, n if "gradient" in rest.needs else 0], jnp.int32)


def _step(
    rng_key: PRNGKeyArray, k: Any, arrays: PyTree, rest: PyTree, target: Energy, states: Any
) -> Any:
    """Move number ``k`` of all particles."""
    halves, m = jax.tree.leaves(states)[0].shape[:2]

    def one(arrays: PyTree, keys: Any, states: Any) -> Any:
        kernel = eqx.combine(arrays, rest)
        return jax.vmap(kernel.step, (0, None, 0))(keys, target, states)

    keys = random.split(random.fold_in(rng_key, k), (halves, m))
    return _each_half(one, arrays, keys, states)


def plain_states(rest: PyTree, positions: PyTree, densities: tuple[Array, PyTree]) -> Any:
    """Plain states at these positions."""
    log_densities, gradients = densities
    known = (log_densities,) if gradients is None else (log_densities, gradients)
    return rest.plain_state(positions, *known)


def densities_of(rest: PyTree, states: Any) -> tuple[Array, PyTree] | None:
    """Log-densities and gradients of plain states."""
    if rest.plain_state is None:
        return None
    return states.log_density, getattr(states, "gradient", None)


def _mean_rate(info: Any, shares: Float[Array, " n"]) -> Float[Array, ""]:
    if not hasattr(info, "acceptance_rate"):
        return jnp.full((), jnp.nan, shares.dtype)
    return jnp.sum(jnp.where(shares > 0, info.acceptance_rate, 0) * shares)


def _num_diverging(info: Any) -> Int[Array, ""]:
    return jnp.sum(getattr(info, "diverging", jnp.zeros((), bool)), dtype=jnp.int32)
