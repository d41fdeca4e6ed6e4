"""Convex functions with their proximal maps, for targets that gradients alone cannot serve.

    prox(x, t) = argmin_y g(y) + |y - x|^2 / (2 t)

``g(x)`` is ``each.value(x)`` in nats, the map is ``each(x, t)``. All are closed forms or finish in
finitely many operations, except the total variation of an image, which is solved to a tolerance
that its duality gap certifies. `ppl.composite` joins one to a smooth target.

References
----------
.. [1] Parikh and Boyd, "Proximal algorithms", Found. Trends Optim. 1, 2014,
   doi:10.1561/2400000003. Chapter 6: all but the total variations.
.. [2] Duchi, Shalev-Shwartz, Singer and Chandra, "Efficient projections onto the l1-ball", ICML
   2008, doi:10.1145/1390156.1390191. Figure 1: the simplex.
.. [3] Condat, "A direct algorithm for 1-D total variation denoising", IEEE Signal Process. Lett.
   20, 2013, doi:10.1109/LSP.2013.2278339.
.. [4] Chambolle, "An algorithm for total variation minimization and applications", J. Math. Imaging
   Vis. 20, 2004, doi:10.1023/B:JMIV.0000011325.36760.1e. The dual problem.
.. [5] Beck and Teboulle, "Fast gradient-based algorithms for constrained total variation image
   denoising", IEEE Trans. Image Process. 18, 2009, doi:10.1109/TIP.2009.2076294. Algorithm FGP.
"""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer
from jaxtyping import Array, Bool, Float, Int

from ppl.energy import TargetError
from ppl.proximal import ProximalMap
from ppl.sampler import positive, size


def real(name: str, *, infinite: bool = False) -> Any:
    """Field: a number or an array of numbers, stored as an array."""

    def convert(value: Any) -> Any:
        if isinstance(value, Tracer) or type(value) is object:
            return value
        try:
            array = np.asarray(value)
            good = array.dtype.kind in "iuf" and not np.isnan(array).any()
            good = good and (infinite or bool(np.isfinite(array).all()))
        except (TypeError, ValueError):
            good = False
        if not good:
            raise ValueError(f"{name} must be a number or an array of numbers; got {value!r}")
        if isinstance(value, jax.Array) and jnp.issubdtype(value.dtype, jnp.floating):
            return value
        return jnp.asarray(value, jnp.result_type(float))

    return convert


class L1(ProximalMap):
    """``g(x) = strength sum_i |x_i|``: a Laplace density. Its map is the soft threshold."""

    strength: Float[Array, "..."] = positive("strength", default=1.0)

    def value(self, x: Float[Array, "..."]) -> Float[Array, ""]:
        return jnp.sum(like(self.strength, x) * jnp.abs(x))

    def __call__(self, x: Float[Array, "..."], step: Any) -> Float[Array, "..."]:
        return jnp.sign(x) * jnp.maximum(jnp.abs(x) - step * like(self.strength, x), 0)


class GroupL2(ProximalMap):
    """``g(x) = strength sum_groups |x_group|``, Euclidean norms: whole groups vanish together.

    A group runs along ``axis``; with None the whole array is one group.
    """

    strength: Float[Array, ""] = positive("strength", default=1.0)
    axis: int | None = eqx.field(static=True, default=-1)

    def value(self, x: Float[Array, "..."]) -> Float[Array, ""]:
        return like(self.strength, x) * jnp.sum(_norm(x, self.axis))

    def __call__(self, x: Float[Array, "..."], step: Any) -> Float[Array, "..."]:
        threshold, norm = step * like(self.strength, x), _norm(x, self.axis)
        return x * jnp.maximum(1 - threshold / jnp.maximum(norm, threshold), 0)


class Box(ProximalMap):
    """``lower <= x <= upper``: g is 0 inside, infinite outside. Its map is the projection."""

    lower: Float[Array, "..."] = eqx.field(
        converter=real("lower", infinite=True), default=-float("inf")
    )
    upper: Float[Array, "..."] = eqx.field(
        converter=real("upper", infinite=True), default=float("inf")
    )

    def __check_init__(self):
        require_order("Box", self.lower, self.upper)

    def value(self, x: Float[Array, "..."]) -> Float[Array, ""]:
        inside = jnp.all((x >= like(self.lower, x)) & (x <= like(self.upper, x)))
        return jnp.where(inside, 0, jnp.inf).astype(x.dtype)

    def __call__(self, x: Float[Array, "..."], step: Any) -> Float[Array, "..."]:
        return jnp.clip(x, like(self.lower, x), like(self.upper, x))


class Simplex(ProximalMap):
    """``x_i >= 0, sum_i x_i = total`` along the last axis: g is 0 there, infinite elsewhere.

    The simplex has no volume, so that no density on the whole space lives on it: only a sampler
    that smooths (`MYULA`, `SKROCK`) can use it, and its draws lie near the simplex, not on it.
    """

    total: Float[Array, ""] = positive("total", default=1.0)

    def value(self, x: Float[Array, "..."]) -> Float[Array, ""]:
        total, n = like(self.total, x), x.shape[-1]
        rounding = 4 * n * jnp.finfo(x.dtype).eps * total
        on_it = jnp.all(x >= 0) & jnp.all(jnp.abs(jnp.sum(x, axis=-1) - total) <= rounding)
        return jnp.where(on_it, 0, jnp.inf).astype(x.dtype)

    def __call__(self, x: Float[Array, "..."], step: Any) -> Float[Array, "..."]:
        # With theta_k = (sum of the k largest - total) / k, the one of the largest k that keeps its
        # k-th number positive is subtracted (figure 1 of [2]).
        descending = jnp.flip(jnp.sort(x, axis=-1), axis=-1)
        k = jnp.arange(1, x.shape[-1] + 1)
        theta = (jnp.cumsum(descending, axis=-1) - like(self.total, x)) / k.astype(x.dtype)
        last = jnp.sum(descending > theta, axis=-1, keepdims=True) - 1
        return jnp.maximum(x - jnp.take_along_axis(theta, last, axis=-1), 0)


class NuclearNorm(ProximalMap):
    """``g(X) = strength sum_i s_i(X)``, singular values of a matrix: low rank.

    Its map is the soft threshold of the singular values. Leading axes are matrices of their own.
    """

    strength: Float[Array, ""] = positive("strength", default=1.0)

    def value(self, x: Float[Array, "..."]) -> Float[Array, ""]:
        _require_ndim(self, x, 2)
        return like(self.strength, x) * jnp.sum(jnp.linalg.svd(x, compute_uv=False))

    def __call__(self, x: Float[Array, "..."], step: Any) -> Float[Array, "..."]:
        _require_ndim(self, x, 2)
        u, s, vt = jnp.linalg.svd(x, full_matrices=False)
        return (u * jnp.maximum(s - step * like(self.strength, x), 0)[..., None, :]) @ vt


class Quadratic(ProximalMap):
    """``g(x) = sum_i strength_i (x_i - center_i)^2 / 2``: an independent Gaussian."""

    strength: Float[Array, "..."] = positive("strength", default=1.0)
    center: Float[Array, "..."] = eqx.field(converter=real("center"), default=0.0)

    def value(self, x: Float[Array, "..."]) -> Float[Array, ""]:
        return jnp.sum(like(self.strength, x) * (x - like(self.center, x)) ** 2) / 2

    def __call__(self, x: Float[Array, "..."], step: Any) -> Float[Array, "..."]:
        pull = step * like(self.strength, x)
        return (x + pull * like(self.center, x)) / (1 + pull)


# Total variation ------------------------------------------------------------------------------


class TotalVariation1D(ProximalMap):
    """``g(x) = strength sum_i |x_{i+1} - x_i|`` along a vector: piecewise constant signals.

    Its map is exact, by Condat's direct algorithm [3].
    """

    strength: Float[Array, ""] = positive("strength", default=1.0)

    def value(self, x: Float[Array, "..."]) -> Float[Array, ""]:
        _require_ndim(self, x, 1, exactly=True)
        return like(self.strength, x) * jnp.sum(jnp.abs(jnp.diff(x)))

    def __call__(self, x: Float[Array, "..."], step: Any) -> Float[Array, "..."]:
        _require_ndim(self, x, 1, exactly=True)
        return _taut_string(x, step * like(self.strength, x))


class _String(NamedTuple):
    """Where the algorithm of [3] stands, in its symbols.

    A segment starts at ``first`` and has been followed to ``k``; its level lies between ``v_min``
    and ``v_max``, ``u_min`` and ``u_max`` are the dual variable at k if it is one or the other, and
    ``k_minus``, ``k_plus`` are the last places where it could have jumped down or up.
    """

    k: Int[Array, ""]
    first: Int[Array, ""]
    k_minus: Int[Array, ""]
    k_plus: Int[Array, ""]
    v_min: Float[Array, ""]
    v_max: Float[Array, ""]
    u_min: Float[Array, ""]
    u_max: Float[Array, ""]
    levels: Float[Array, " n"]
    starts: Bool[Array, " n"]
    done: Bool[Array, ""]


def _taut_string(y: Float[Array, " n"], strength: Float[Array, ""]) -> Float[Array, " n"]:
    """Minimize ``|x - y|^2 / 2 + strength sum |x_{i+1} - x_i|``."""
    n = y.shape[0]

    def close(s: _String, level: Array, last: Array) -> _String:
        """End the segment at ``last``, at this level; a new one starts behind it."""
        return s._replace(
            levels=s.levels.at[s.first].set(level), starts=s.starts.at[s.first].set(True),
            first=last + 1, k=last + 1,
        )  # fmt: skip

    def at(k: Array) -> Array:
        return y[jnp.minimum(k, n - 1)]

    def advance(s: _String) -> _String:
        u_min, u_max = s.u_min + at(s.k + 1) - s.v_min, s.u_max + at(s.k + 1) - s.v_max

        def jump_down() -> _String:
            c = close(s, s.v_min, s.k_minus)
            return c._replace(
                k_minus=c.k, k_plus=c.k, v_min=at(c.k), v_max=at(c.k) + 2 * strength,
                u_min=strength, u_max=-strength,
            )  # fmt: skip

        def jump_up() -> _String:
            c = close(s, s.v_max, s.k_plus)
            return c._replace(
                k_minus=c.k, k_plus=c.k, v_min=at(c.k) - 2 * strength, v_max=at(c.k),
                u_min=strength, u_max=-strength,
            )  # fmt: skip

        def go_on() -> _String:
            k, low, high = s.k + 1, u_min >= strength, u_max <= -strength
            length = (k - s.first + 1).astype(y.dtype)
            return s._replace(
                k=k,
                v_min=jnp.where(low, s.v_min + (u_min - strength) / length, s.v_min),
                v_max=jnp.where(high, s.v_max + (u_max + strength) / length, s.v_max),
                u_min=jnp.where(low, strength, u_min),
                u_max=jnp.where(high, -strength, u_max),
                k_minus=jnp.where(low, k, s.k_minus),
                k_plus=jnp.where(high, k, s.k_plus),
            )

        return lax.cond(
            u_min < -strength, jump_down, lambda: lax.cond(u_max > strength, jump_up, go_on)
        )

    def at_the_end(s: _String) -> _String:
        """At the last place the dual variable must be zero."""

        def jump_down() -> _String:
            c = close(s, s.v_min, s.k_minus)
            return c._replace(
                k_minus=c.k, v_min=at(c.k), u_min=strength, u_max=at(c.k) + strength - s.v_max
            )

        def jump_up() -> _String:
            c = close(s, s.v_max, s.k_plus)
            return c._replace(
                k_plus=c.k, v_max=at(c.k), u_max=-strength, u_min=at(c.k) - strength - s.v_min
            )

        def finish() -> _String:
            level = s.v_min + s.u_min / (s.k - s.first + 1).astype(y.dtype)
            return close(s, level, s.k)._replace(done=jnp.asarray(True))

        return lax.cond(s.u_min < 0, jump_down, lambda: lax.cond(s.u_max > 0, jump_up, finish))

    zero = jnp.int32(0)
    begun = _String(
        zero, zero, zero, zero, y[0] - strength, y[0] + strength, strength, -strength,
        jnp.zeros_like(y), jnp.zeros(n, bool), jnp.asarray(False),
    )  # fmt: skip
    end = lax.while_loop(
        lambda s: ~s.done, lambda s: lax.cond(s.k == n - 1, at_the_end, advance, s), begun
    )
    start = lax.cummax(jnp.where(end.starts, jnp.arange(n), 0))
    return end.levels[start]


class TotalVariation2D(ProximalMap):
    """``g(x) = strength sum_ij |(grad x)_ij|``, the isotropic total variation of an image.

    Forward differences, none across the border. Its map is solved by fast gradient projection on
    the dual [4, 5], until the duality gap certifies that the root mean square error of a pixel is
    below ``tolerance * sqrt(step)``, so that it is small beside the noise of a Langevin step.

    Parameters
    ----------
    strength
        Nats for each unit of variation.
    tolerance
        The error allowed, as above.
    max_iterations
        Iterations after which the solver gives up and returns what it has.
    """

    strength: Float[Array, ""] = positive("strength", default=1.0)
    tolerance: Float[Array, ""] = positive("tolerance", default=0.01)
    max_iterations: int = size("max_iterations", default=500)

    def value(self, x: Float[Array, "..."]) -> Float[Array, ""]:
        _require_ndim(self, x, 2, exactly=True)
        return like(self.strength, x) * jnp.sum(_norm(image_gradient(x), 0))

    def __call__(self, x: Float[Array, "..."], step: Any) -> Float[Array, "..."]:
        _require_ndim(self, x, 2, exactly=True)
        weight = step * like(self.strength, x)
        # The objective is 1-strongly convex: |y - prox|^2 / 2 is at most the gap. In single
        # precision a gap below the rounding of its terms is not seen, and not asked for.
        allowed = x.size * (like(self.tolerance, x) ** 2 * step) / 2
        allowed = jnp.maximum(allowed, 8 * jnp.finfo(x.dtype).eps * jnp.vdot(x, x))

        def image(p: Float[Array, "2 n m"]) -> Float[Array, "n m"]:
            return x - weight * image_gradient_adjoint(p)

        def gap(p: Float[Array, "2 n m"]) -> Float[Array, ""]:
            # weight TV(y) - weight <p, grad y>: each term of the sum is positive.
            gradient = image_gradient(image(p))
            return weight * jnp.sum(_norm(gradient, 0) - jnp.sum(p * gradient, axis=0))

        def improve(state: Any) -> Any:
            i, p, q, t, _ = state

            def once(_: Any, state: Any) -> Any:
                p, q, t = state
                # The dual's gradient is weight^2 grad(div) of norm at most 8 weight^2.
                ascent = q + image_gradient(image(q)) / (8 * weight)
                new = ascent / jnp.maximum(_norm(ascent, 0), 1)
                t_new = (1 + jnp.sqrt(1 + 4 * t**2)) / 2
                return new, new + (t - 1) / t_new * (new - p), t_new

            p, q, t = lax.fori_loop(0, _CHECK_EVERY, once, (p, q, t))
            return i + _CHECK_EVERY, p, q, t, gap(p)

        def unsolved(state: Any) -> Bool[Array, ""]:
            i, *_, certified = state
            return (i < self.max_iterations) & (certified > allowed)

        zeros = jnp.zeros((2, *x.shape), x.dtype)
        begun = (jnp.int32(0), zeros, zeros, jnp.ones((), x.dtype), jnp.asarray(jnp.inf, x.dtype))
        return image(lax.while_loop(unsolved, improve, begun)[1])


_CHECK_EVERY = 5  # iterations between two looks at the gap, which costs as much as one


def image_gradient(x: Float[Array, "n m"]) -> Float[Array, "2 n m"]:
    """Forward differences down and across; zero at the last row and the last column."""
    down = jnp.diff(x, axis=0, append=x[-1:])
    across = jnp.diff(x, axis=1, append=x[:, -1:])
    return jnp.stack([down, across])


def image_gradient_adjoint(p: Float[Array, "2 n m"]) -> Float[Array, "n m"]:
    """The adjoint of `image_gradient`, which is minus a divergence."""
    down, across = p[0].at[-1].set(0), p[1].at[:, -1].set(0)
    return -jnp.diff(down, axis=0, prepend=0) - jnp.diff(across, axis=1, prepend=0)


# Helpers --------------------------------------------------------------------------------------


def require_order(name: str, lower: Any, upper: Any) -> None:
    """Raise unless ``lower < upper`` everywhere, where they are known."""
    if all(isinstance(end, jax.Array) and not isinstance(end, Tracer) for end in (lower, upper)):
        lower, upper = np.asarray(lower), np.asarray(upper)
        if not np.all(lower < upper):
            raise ValueError(f"{name}: lower must be below upper; got {lower} and {upper}")


def like(number: Any, x: Array) -> Array:
    """The number in the precision of x."""
    return jnp.asarray(number).astype(x.dtype)


def _norm(x: Array, axis: int | None) -> Array:
    """Euclidean norms along an axis, kept; their gradient at zero is zero, not NaN."""
    squares = jnp.sum(x**2, axis=axis, keepdims=True)
    return jnp.where(squares > 0, jnp.sqrt(jnp.where(squares > 0, squares, 1)), 0)


def _require_ndim(regularizer: ProximalMap, x: Array, ndim: int, *, exactly: bool = False) -> None:
    if x.ndim < ndim or (exactly and x.ndim != ndim):
        kind = {1: "a vector", 2: "a matrix"}[ndim]
        raise TargetError(
            f"{type(regularizer).__name__} is a function of {kind}; this part of the position has "
            f"shape {x.shape}"
        )
