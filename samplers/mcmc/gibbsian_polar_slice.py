"""Gibbsian polar slice sampling.

    x = c + r theta,  |theta| = 1        lr(r, theta) = (d - 1) log r + log pi(c + r theta)
    height      l = lr(r, theta) - e,  e ~ Exp(1)
    direction   a uniform great circle through theta, shrunk to a point of {lr(r, .) > l}
    radius      stepping out by the width w from r, shrunk to a point of {lr(., theta) > l}

A slice sampler in polar coordinates, whose volume element r^(d-1) is part of what is sliced. A
level set of a heavy-tailed or a funnel-shaped density is long and thin in Cartesian coordinates,
and near a ball in these: one step can go from the bulk to the far tail and back. It needs no
gradient and is exact for any width and center c; both are tuned in warm-up, the center to the
middle of the draws, the width to their typical distance from it. It does little where level sets
are long about any center, as on a Gaussian with scales far apart.

References
----------
.. [1] Schär, Habeck and Rudolf, "Gibbsian polar slice sampling", ICML 2023, arXiv:2302.03945.
   Algorithms 1 to 3.
.. [2] Roberts and Rosenthal, "The polar slice sampler", Stochastic Models 18, 2002,
   doi:10.1081/STM-120004467.
.. [3] Neal, "Slice sampling", Annals of Statistics 31, 2003, doi:10.1214/aos/1056562461. Stepping
   out and shrinkage, Figures 3 and 5.
"""

from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax, random
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree

from ppl.energy import Energy, Position, TargetError
from ppl.sampler import Exactness, MarkovKernel, Record, WarmUp, positive, where
from ppl.template import describe, dimension, float_dtype
from samplers.mcmc.shrinkage import shrink
from samplers.mcmc.windows import flatten, optional

MAX_STEPS = 100  # of stepping out, on both sides together
SMALLEST = 1e-5  # radius, in units of the width: nearer to the center there is no direction


class PolarSliceState(NamedTuple):
    """A position and the log-density (nats) there."""

    position: PyTree
    log_density: Float[Array, ""]


class PolarSliceInfo(NamedTuple):
    """How the search went.

    ``acceptance_rate``: share of the points tried within brackets that were taken; ``exhausted``: a
    search ended at its cap, where exactness ends too; ``diverging``: a density that was NaN or
    infinite was taken for zero; ``point``: the flat position, for warm-up.
    """

    acceptance_rate: Float[Array, ""]
    exhausted: Bool[Array, ""]
    diverging: Bool[Array, ""]
    num_evaluations: Int[Array, "2"]
    point: tuple[Float[Array, " d"]]


def _flat(center: Any) -> Any:
    """Converter: a flat vector of finite numbers, or None."""
    if center is None or isinstance(center, jax.Array) or type(center) is object:
        return center
    array = np.asarray(center)
    if array.dtype.kind not in "iuf" or array.ndim != 1 or not np.all(np.isfinite(array)):
        raise ValueError(f"center must be a flat vector of finite numbers; got {center!r}")
    return jnp.asarray(array, jnp.result_type(float))


class GibbsianPolarSlice(MarkovKernel):
    """Gibbsian polar slice sampling: exact, gradient-free, for heavy tails.

    Parameters
    ----------
    width
        By which the bracket of the radius steps out, in units of the position. None: the dimension,
        and then the typical radius that warm-up finds.
    center
        The origin c of the polar coordinates, a flat vector. None: zero, and then the middle of the
        draws that warm-up finds.

    Differences from the paper
    --------------------------
    The center is a parameter. Stepping out is limited to 100 steps in Neal's way [3], which keeps
    it exact: in the tail of a Cauchy law it would otherwise take longer than anyone waits.
    Shrinking is capped at 100 points a stage, and ``stats["exhausted"]`` says where that was felt.
    A chain within 1e-5 widths of the center has no direction and takes a random one.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"log_density"})
    exactness: ClassVar[Exactness] = "exact"
    fixed_length: ClassVar[bool] = False

    width: Any = optional(positive("width"))
    center: Any = eqx.field(default=None, converter=_flat)

    def check(self, target: Energy) -> None:
        leaves = jax.tree.leaves(target.template)
        if not all(jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in leaves):
            raise TargetError(
                "GibbsianPolarSlice moves along circles and rays, so every part of a position must "
                f"be floating; this target's positions are {describe(target.template)}"
            )
        if dimension(target.template) < 2:
            raise TargetError(
                "GibbsianPolarSlice needs at least two dimensions: a direction in one dimension is "
                f"a sign; this target's positions are {describe(target.template)}. Use "
                "samplers.RandomWalk() or samplers.NUTS()."
            )

    def resolve(self, target: Energy) -> "GibbsianPolarSlice":
        d, dtype = dimension(target.template), float_dtype(target.template)
        center = jnp.zeros(d) if self.center is None else self.center
        if center.shape != (d,):
            raise ValueError(f"center must have shape ({d},) for this target; got {center.shape}")
        width = d if self.width is None else self.width
        return GibbsianPolarSlice(jnp.asarray(width, dtype), center.astype(dtype))

    def warmup(self, target: Energy) -> "CenterWarmUp":
        return CenterWarmUp()

    def init(self, rng_key: PRNGKeyArray, target: Energy, position: Position) -> PolarSliceState:
        return PolarSliceState(position, target.log_density(position))

    def step(
        self, rng_key: PRNGKeyArray, target: Energy, state: PolarSliceState
    ) -> tuple[PolarSliceState, PolarSliceInfo]:
        assert self.center is not None, "resolve(target) first, as ppl.sample does"
        key_height, key_circle, key_turn, key_radius = random.split(rng_key, 4)
        x, unravel = ravel_pytree(state.position)
        y, w = x - self.center, self.width
        r = jnp.maximum(jnp.linalg.norm(y), SMALLEST * w)
        normal = random.normal(key_circle, (2, y.size), y.dtype)
        theta = jnp.where(r > SMALLEST * w, y / r, _unit(normal[1]))

        def level(r: Array, theta: Array) -> tuple[Array, PolarSliceState]:
            position = unravel(self.center + r * theta)
            log_density = target.log_density(position)
            return lr(r, log_density, y.size), PolarSliceState(position, log_density)

        height = lr(r, state.log_density, y.size) - random.exponential(key_height, (), y.dtype)

        # A great circle through theta; the bracket is the whole of it, cut at a random place.
        across = _unit(normal[0] - jnp.vdot(normal[0], theta) * theta)
        turn = lambda angle: theta * jnp.cos(angle) + across * jnp.sin(angle)
        key_cut, key_turn = random.split(key_turn)
        cut = random.uniform(key_cut, (), y.dtype, 0, 2 * jnp.pi)

        def along_circle(angle: Array) -> tuple[Array, Any]:
            value, point = level(r, turn(angle))
            return value, (point, angle)

        zero = jnp.zeros((), y.dtype)
        turned = shrink(
            key_turn, (cut - 2 * jnp.pi, cut), zero, along_circle, height, (state, zero)
        )
        state, angle = turned.point
        # Rounding would otherwise let the length of the direction drift.
        theta = _unit(turn(angle))

        inside = lambda r: level(r, theta)[0] > height
        key_place, key_share, key_radius = random.split(key_radius, 3)
        low = r - w * random.uniform(key_place, (), y.dtype)
        # A cap on the steps, shared out at random between the two ends, leaves the search exact.
        steps_up = random.randint(key_share, (), 0, MAX_STEPS)
        high, spent_up = _step_out(inside, low + w, w, steps_up)
        low, spent_down = _step_out(inside, jnp.maximum(low, 0), -w, MAX_STEPS - 1 - steps_up)
        moved = shrink(
            key_radius, (low, high), r, lambda r: level(r, theta), height, turned.point[0]
        )

        tries = turned.tries + moved.tries
        stuck = ~turned.is_found | ~moved.is_found
        spent = tries + spent_up + spent_down
        return moved.point, PolarSliceInfo(
            jnp.where(stuck, 0.0, 2 / tries).astype(y.dtype),
            stuck,
            turned.diverging | moved.diverging,
            jnp.stack([spent, jnp.zeros_like(spent)]),
            (ravel_pytree(moved.point.position)[0],),
        )

    def retune(
        self, particles: Position, log_weights: Float[Array, " n"], info: Any, watched: Any = ()
    ) -> "GibbsianPolarSlice":
        """Center at the weighted mean, and the width the geometric mean of the radii about it."""
        x = flatten(particles)
        weights = jax.nn.softmax(log_weights)
        center = (weights @ x).astype(x.dtype)
        radius = jnp.maximum(jnp.linalg.norm(x - center, axis=1), SMALLEST * self.width)
        width = jnp.exp(weights @ jnp.log(radius)).astype(self.width.dtype)
        return GibbsianPolarSlice(width, center)


def lr(r: Float[Array, ""], log_density: Float[Array, ""], d: int) -> Float[Array, ""]:
    """Log of density and volume element in polar coordinates; -inf at the center."""
    return (d - 1) * jnp.log(r) + log_density


def _unit(v: Float[Array, " d"]) -> Float[Array, " d"]:
    return v / jnp.linalg.norm(v)


def _step_out(
    inside: Callable[[Float[Array, ""]], Bool[Array, ""]],
    end: Float[Array, ""],
    by: Float[Array, ""],
    at_most: Int[Array, ""],
) -> tuple[Float[Array, ""], Int[Array, ""]]:
    """Move ``end`` until it is outside the slice or at zero; also the evaluations spent."""

    def unfinished(carry: tuple[Array, Array, Array]) -> Array:
        _, is_inside, steps = carry
        return is_inside & (steps < at_most)

    def body(carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        end, _, steps = carry
        is_inside = inside(end)
        return jnp.where(is_inside, jnp.maximum(end + by, 0), end), is_inside, steps + 1

    start = (end, jnp.ones((), bool), jnp.int32(0))
    end, _, steps = lax.while_loop(unfinished, body, start)
    return end, steps


# Warm-up --------------------------------------------------------------------------------------


class CenterState(NamedTuple):
    """Running sums of a window: of weights, of weighted draws, of log radii; steps taken."""

    weight: Float[Array, ""]
    weighted: Float[Array, " d"]
    log_radius: Float[Array, ""]
    steps: Float[Array, ""]


class CenterWarmUp(WarmUp):
    """Tune ``kernel.center`` and ``kernel.width`` to the draws of three growing windows.

    The width is the geometric mean of the radii. The center is the mean of the draws weighted by
    ``1 / (1 + (radius / width)^2)``: the mean where radii are alike, and a middle where the law
    has none because its tails are heavy.
    """

    def windows(self, num_steps: int) -> list[int]:
        first, second = num_steps // 10, 3 * num_steps // 10
        return [n for n in (first, second, num_steps - first - second) if n]

    def init(
        self, rng_key: PRNGKeyArray, target: Energy, kernel: Any, states: Any
    ) -> tuple[Any, CenterState]:
        return kernel, _empty(kernel)

    def step(self, kernel: Any, adaptation: CenterState, infos: Any) -> tuple[Any, CenterState]:
        (x,) = infos.point
        radius = jnp.linalg.norm(x - kernel.center, axis=1)
        weights = 1 / (1 + (radius / kernel.width) ** 2)
        log_radius = jnp.log(jnp.maximum(radius, SMALLEST * kernel.width))
        return kernel, CenterState(
            adaptation.weight + jnp.mean(weights),
            adaptation.weighted + jnp.mean(weights[:, None] * x, axis=0),
            adaptation.log_radius + jnp.mean(log_radius),
            adaptation.steps + 1,
        )

    def end_chunk(
        self,
        rng_key: PRNGKeyArray,
        target: Energy,
        kernel: Any,
        adaptation: CenterState,
        states: Any,
        record: Record,
        count: Int[Array, ""],
        window_ends: Bool[Array, ""],
        is_last: Bool[Array, ""],
    ) -> tuple[Any, CenterState, Any]:
        center = adaptation.weighted / adaptation.weight
        width = jnp.exp(adaptation.log_radius / adaptation.steps)
        kernel, adaptation = where(
            window_ends,
            (GibbsianPolarSlice(width, center), _empty(kernel)),
            (kernel, adaptation),
        )
        return kernel, adaptation, states


def _empty(kernel: GibbsianPolarSlice) -> CenterState:
    zero = jnp.zeros((), kernel.center.dtype)
    return CenterState(zero, jnp.zeros_like(kernel.center), zero, zero)
