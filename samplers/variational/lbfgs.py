"""Descents by L-BFGS from several starts, for samplers that begin at a mode.

    x' = x - t B g,   B ~ H^-1 from the last ten pairs (x' - x, g' - g)

The direction is Optax's L-BFGS [1]; the step length t meets the strong Wolfe conditions by its zoom
line search. A descent has converged when by its own estimate it has had next to nothing left to
gain for three steps,

    g . B g / 2  <=  max(tolerance, rounding of the objective),

in nats: the same for any units of the position. (B may not know yet how long a flat direction is,
hence three.)

References
----------
.. [1] Liu and Nocedal, "On the limited memory BFGS method for large scale optimization", Math.
   Program. 45, 1989, doi:10.1007/BF01589116.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from ppl.energy import Energy, Position, TargetError
from ppl.keys import chain_keys
from ppl.sampler import where
from ppl.start import ATTEMPTS, jittered

MEMORY = 10  # pairs
LINE_SEARCH_STEPS = 30
QUIET = 3  # steps with next to nothing to gain
IDLE = 5  # steps without any gain after which a descent ends

type Objective = Callable[[Float[Array, " d"]], Float[Array, ""]]


class Descent(NamedTuple):
    """Where a descent stands.

    position, value, gradient
        Flat position, and the objective (nats) and its gradient there.
    gain
        Estimate of what the objective was above its minimum before the last step, in nats.
    converged, ended
        Nothing left to gain; no further steps, for this reason or another.
    quiet, idle
        Steps since there was something to gain, and since the objective last fell.
    iterations, evaluations
        Steps taken, and evaluations of objective and gradient spent.
    optimizer
        Optax's state.
    """

    position: Float[Array, " d"]
    value: Float[Array, ""]
    gradient: Float[Array, " d"]
    gain: Float[Array, ""]
    converged: Bool[Array, ""]
    ended: Bool[Array, ""]
    quiet: Int[Array, ""]
    idle: Int[Array, ""]
    iterations: Int[Array, ""]
    evaluations: Int[Array, ""]
    optimizer: Any


def _solver() -> Any:
    search = optax.scale_by_zoom_linesearch(max_linesearch_steps=LINE_SEARCH_STEPS)
    return optax.lbfgs(memory_size=MEMORY, linesearch=search)


def begin(rng_key: PRNGKeyArray, target: Energy, objective: Objective, num_starts: int) -> Descent:
    """Descents (leading axis) from jittered starts; one without a finite start has ended."""
    positions, good, attempts = jittered(
        chain_keys(rng_key, num_starts), target, with_gradient=True
    )

    def one(position: Position, good: Bool[Array, ""]) -> Descent:
        x, _ = ravel_pytree(position)
        value, gradient = jax.value_and_grad(objective)(x)
        zero, infinity = jnp.int32(0), jnp.asarray(jnp.inf, value.dtype)
        return Descent(
            x,
            jnp.where(good, value, infinity),
            gradient,
            infinity,
            jnp.zeros((), bool),
            ~good,
            zero,
            zero,
            zero,
            attempts + 1,
            _solver().init(x),
        )

    return jax.vmap(one)(positions, good)


def advance(objective: Objective, old: Descent, tolerance: Float[Array, ""]) -> Descent:
    """One step of one descent; one that has ended stands still."""
    updates, optimizer = _solver().update(
        old.gradient, old.optimizer, old.position,
        value=old.value, grad=old.gradient, value_fn=guarded(objective),
    )  # fmt: skip
    line = optimizer[-1]
    length = jnp.where(line.learning_rate > 0, line.learning_rate, 1)
    gain = -jnp.vdot(updates, old.gradient) / length / 2
    position = old.position + updates
    fell = line.value < old.value
    idle = jnp.where(fell, 0, old.idle + 1)
    rounding = 4 * jnp.finfo(old.value.dtype).eps * jnp.abs(line.value)
    finite = jnp.isfinite(line.value) & jnp.all(jnp.isfinite(position))
    quiet = jnp.where(gain <= jnp.maximum(tolerance, rounding), old.quiet + 1, 0)
    converged = finite & (quiet >= QUIET)
    taken = finite & (line.value <= old.value + rounding)
    moved = Descent(
        jnp.where(taken, position, old.position),
        jnp.where(taken, line.value, old.value),
        jnp.where(taken, line.grad, old.gradient),
        gain,
        converged,
        converged | (idle >= IDLE) | ~finite,
        quiet,
        idle,
        old.iterations + 1,
        old.evaluations + line.info.num_linesearch_steps.astype(jnp.int32),
        optimizer,
    )
    moved = jax.tree.map(lambda new, old: new.astype(old.dtype), moved, old)
    return where(old.ended, old, moved)


def guarded(objective: Objective) -> Objective:
    """The objective, infinite where it is no number: a line search steps back from there."""

    def fn(x: Float[Array, " d"]) -> Float[Array, ""]:
        value = objective(x)
        return jnp.where(jnp.isfinite(value), value, jnp.inf)

    return fn


def best(descents: Descent) -> Descent:
    """The lowest of several descents (leading axis)."""
    values = jnp.where(jnp.isnan(descents.value), jnp.inf, descents.value)
    lowest = jnp.argmin(values)
    return jax.tree.map(lambda x: x[lowest], descents)


def flat(target: Energy) -> tuple[Callable[[Array], Position], Objective]:
    """From flat positions to positions, and minus the log-density of a flat one."""
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), target.template)
    unravel: Callable[[Array], Position] = ravel_pytree(zeros)[1]
    return unravel, lambda x: -target.log_density(unravel(x))


def spent(old: Descent, new: Descent) -> Int[Array, "2"]:
    """Evaluations of (log-density, gradient) of a step; the first one pays for the starts."""
    start = jnp.where(old.iterations == 0, old.evaluations, 0)
    count = jnp.sum(jnp.where(old.ended, start, new.evaluations - old.evaluations + start))
    return jnp.stack([count, count]).astype(jnp.int32)


def notes(name: str, history: dict[str, np.ndarray]) -> list[str]:
    """What a reader should hear about the best descent of one run.

    ``history`` has ``log_density``, ``gain`` and ``converged`` of the best descent at each step.

    Raises
    ------
    TargetError
        If no start had a finite density and gradient.
    """
    last = {field: x[-1] for field, x in history.items() if len(x)}
    if not last or not np.isfinite(last["log_density"]):
        raise TargetError(
            f"{name} found no start with a finite log-density and gradient in {ATTEMPTS} attempts "
            "(uniform on (-2, 2), unconstrained); widen the support or the prior, or shift and "
            "scale the parameters so that the mass lies near the origin"
        )
    if last["converged"]:
        return []
    return [
        f"{name}: the optimization did not converge; its best point may lie {last['gain']:.2g} "
        "nats below the mode. Raise max_iterations, or look for a density without a maximum (a "
        "scale that runs to zero), or for a kink"
    ]
