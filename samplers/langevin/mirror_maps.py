"""Mirror maps: gradients of strictly convex functions, in whose image a chain takes its steps.

    y = grad phi(x),   x = (grad phi)^-1(y),   H(x) = the Hessian of phi

A space that is steep near a point or ends at a wall is stretched by its mirror map: the image has
neither. `Euclidean` is the identity, `Hyperbolic` serves what is narrow and heavy-tailed,
`LogBarrier` and `BoxBarrier` serve half-lines and intervals, whose walls they move to infinity. A
map is one function of all parts of a position, or a pytree like the position has one for each.

Bregman's divergence ``D(x, y) = phi(x) - phi(y) - <grad phi(y), x - y>`` takes the place of half
the squared distance in proximal maps, where it comes in two orders:

    left    argmin_y g(y) + D(y, x) / t         right    argmin_y g(y) + D(x, y) / t

References
----------
.. [1] Bauschke, Dao and Lindstrom, "Regularizing with Bregman-Moreau envelopes", SIAM J. Optim. 28,
   2018, arXiv:1705.06019. Both orders.
.. [2] Ghai, Hazan and Singer, "Exponentiated gradient meets gradient descent", ALT 2020,
   arXiv:1902.01903. The hyperbolic map.
.. [3] Nesterov and Nemirovskii, "Interior-point polynomial algorithms in convex programming", SIAM,
   1994, doi:10.1137/1.9781611970791. Barriers.
"""

from abc import abstractmethod
from typing import Any, NoReturn

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from ppl.energy import Energy, TargetError
from ppl.proximal import ProximalMap
from ppl.sampler import positive
from ppl.start import RADIUS
from ppl.template import describe, named
from samplers.langevin.proximal_maps import L1, Box, like, real, require_order


class MirrorMap(eqx.Module):
    """``grad phi`` of one array, with its inverse and its derivative. Subclasses are final.

    The domain is where the gradient is finite: it is NaN outside, infinite on the border. Where its
    range is not the whole space, the inverse is NaN outside the range.
    """

    @abstractmethod
    def gradient(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        """``grad phi(x)``, shaped like x."""

    @abstractmethod
    def inverse(self, y: Float[Array, "..."]) -> Float[Array, "..."]:
        """The x whose gradient is y."""

    @abstractmethod
    def hessian(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        """``H(x)``: shaped like x where it is diagonal, else a matrix over the flattened x."""

    @property
    def domain(self) -> str:
        """In words, for a message."""
        return "a part of the space"

    def left_prox(
        self, regularizer: ProximalMap, x: Float[Array, "..."], step: Any
    ) -> Float[Array, "..."]:
        """``argmin_y g(y) + D(y, x) / step``."""
        _refuse(self, "left_prox", regularizer)

    def right_prox(
        self, regularizer: ProximalMap, x: Float[Array, "..."], step: Any
    ) -> Float[Array, "..."]:
        """``argmin_y g(y) + D(x, y) / step``."""
        _refuse(self, "right_prox", regularizer)


def _refuse(mirror: MirrorMap, method: str, regularizer: ProximalMap) -> NoReturn:
    name, g = type(mirror).__name__, type(regularizer).__name__
    raise TargetError(
        f"{name} has no Bregman proximal map of {g}: write {method}(regularizer, x, step) in a "
        f"subclass of MirrorMap, or take samplers.Euclidean(), which serves every proximal map"
    )


class Euclidean(MirrorMap):
    """``phi(x) = |x|^2 / 2``: the space is its own image."""

    def gradient(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        return x

    def inverse(self, y: Float[Array, "..."]) -> Float[Array, "..."]:
        return y

    def hessian(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        return jnp.ones_like(x)

    def left_prox(
        self, regularizer: ProximalMap, x: Float[Array, "..."], step: Any
    ) -> Float[Array, "..."]:
        return regularizer(x, step)

    def right_prox(
        self, regularizer: ProximalMap, x: Float[Array, "..."], step: Any
    ) -> Float[Array, "..."]:
        return regularizer(x, step)


class Hyperbolic(MirrorMap):
    """``grad phi(x) = arcsinh(x / scale)``: linear within the scale, logarithmic beyond.

    A step is short where x is small and long where it is large. In the image steps are numbers
    without a unit: a step size has the unit of x.
    """

    scale: Float[Array, "..."] = positive("scale", default=1.0)

    def gradient(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        return jnp.arcsinh(x / like(self.scale, x))

    def inverse(self, y: Float[Array, "..."]) -> Float[Array, "..."]:
        return like(self.scale, y) * jnp.sinh(y)

    def hessian(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        return 1 / jnp.hypot(x, like(self.scale, x))

    def left_prox(
        self, regularizer: ProximalMap, x: Float[Array, "..."], step: Any
    ) -> Float[Array, "..."]:
        match regularizer:
            case Box():
                return regularizer(x, step)
            case L1():  # grad phi(y) + step strength sign(y) = grad phi(x): a threshold of images
                return self.inverse(regularizer(self.gradient(x), step))
        return super().left_prox(regularizer, x, step)

    def right_prox(
        self, regularizer: ProximalMap, x: Float[Array, "..."], step: Any
    ) -> Float[Array, "..."]:
        match regularizer:
            case Box():
                return regularizer(x, step)
            case L1():  # H(y) (x - y) = t sign(y), a quadratic equation for y
                t, b = step * like(regularizer.strength, x), like(self.scale, x)
                size = jnp.abs(x)
                root = jnp.sqrt(jnp.maximum(size**2 + b**2 * (1 - t**2), 0))
                # Its root without a difference of large numbers; from t = 1 on, too.
                found = (size - t * b) * (size + t * b) / (size + t * root)
                return jnp.where(size > t * b, jnp.sign(x) * found, 0)
        return super().right_prox(regularizer, x, step)


class LogBarrier(MirrorMap):
    """``phi(x) = -log(x - lower)``: numbers above a bound.

    In the image, the negative numbers, steps are as long as the distance to the bound, times the
    root of the step size, which has no unit. One in ``1 / P(xi > (2 h)^(-1/2))`` steps leads out
    of the image and is not taken: none of a million with h = 0.02.
    """

    lower: Float[Array, "..."] = eqx.field(converter=real("lower"), default=0.0)

    @property
    def domain(self) -> str:
        return f"x > {self.lower}"

    def gradient(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        above = x - like(self.lower, x)
        return jnp.where(above >= 0, -1 / above, jnp.nan)

    def inverse(self, y: Float[Array, "..."]) -> Float[Array, "..."]:
        return like(self.lower, y) + jnp.where(y < 0, -1 / y, jnp.nan)

    def hessian(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        return (x - like(self.lower, x)) ** -2


class BoxBarrier(MirrorMap):
    """``phi(x) = -log(x - lower) - log(upper - x)``: numbers between two bounds.

    In the image, which is the whole space, steps near a bound are as long as the distance to it,
    times the root of the step size, which has no unit.
    """

    lower: Float[Array, "..."] = eqx.field(converter=real("lower"))
    upper: Float[Array, "..."] = eqx.field(converter=real("upper"))

    def __check_init__(self):
        require_order("BoxBarrier", self.lower, self.upper)

    @property
    def domain(self) -> str:
        return f"{self.lower} < x < {self.upper}"

    def gradient(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        z, radius = self._centered(x)
        return jnp.where(jnp.abs(z) <= 1, 2 * z / ((1 - z) * (1 + z)), jnp.nan) / radius

    def inverse(self, y: Float[Array, "..."]) -> Float[Array, "..."]:
        # With w = radius y the equation w = 2 z / (1 - z^2) is quadratic.
        lower, upper = like(self.lower, y), like(self.upper, y)
        radius = (upper - lower) / 2
        w = radius * y
        return (lower + upper) / 2 + radius * w / (1 + jnp.hypot(w, 1.0))

    def hessian(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        z, radius = self._centered(x)
        return (1 / (1 - z) ** 2 + 1 / (1 + z) ** 2) / radius**2

    def _centered(self, x: Float[Array, "..."]) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
        """Position in the interval as a number in (-1, 1), and half the interval's length."""
        lower, upper = like(self.lower, x), like(self.upper, x)
        return (x - (lower + upper) / 2) / ((upper - lower) / 2), (upper - lower) / 2


# Positions of many parts ----------------------------------------------------------------------


def gradient(maps: PyTree, position: PyTree) -> PyTree:
    """``grad phi``, part by part."""
    return each(lambda mirror, x: jnp.asarray(mirror.gradient(x), x.dtype), maps, position)


def inverse(maps: PyTree, image: PyTree) -> PyTree:
    """The position of this image."""
    return each(lambda mirror, y: jnp.asarray(mirror.inverse(y), y.dtype), maps, image)


def hessian(maps: PyTree, position: PyTree) -> PyTree:
    """``H``, for each part its diagonal or a matrix."""
    return each(lambda mirror, x: jnp.asarray(mirror.hessian(x), x.dtype), maps, position)


def root(curvature: PyTree, tree: PyTree) -> PyTree:
    """``R v``, where ``R R^T = H``."""
    return jax.tree.map(lambda h, v: _apply(h, v, jnp.sqrt, _cholesky_times), curvature, tree)


def solved(curvature: PyTree, tree: PyTree) -> PyTree:
    """``R^-1 v``."""

    def triangular(h: Array, v: Array) -> Array:
        return jax.scipy.linalg.solve_triangular(jnp.linalg.cholesky(h), v, lower=True)

    return jax.tree.map(
        lambda h, v: _apply(h, v, lambda h: 1 / jnp.sqrt(h), triangular), curvature, tree
    )


def times(curvature: PyTree, tree: PyTree) -> PyTree:
    """``H v``."""
    return jax.tree.map(lambda h, v: _apply(h, v, lambda h: h, lambda h, v: h @ v), curvature, tree)


def log_det(curvature: PyTree, position: PyTree) -> Float[Array, ""]:
    """``log det H``, of all parts together."""

    def one(h: Array, x: Array) -> Array:
        if h.shape == x.shape:
            return jnp.sum(jnp.log(h))
        return 2 * jnp.sum(jnp.log(jnp.diagonal(jnp.linalg.cholesky(h))))

    return jax.tree.reduce(jnp.add, jax.tree.map(one, curvature, position))


def _apply(h: Array, v: Array, diagonal: Any, matrix: Any) -> Array:
    return diagonal(h) * v if h.shape == v.shape else matrix(h, v.ravel()).reshape(v.shape)


def _cholesky_times(h: Array, v: Array) -> Array:
    return jnp.linalg.cholesky(h) @ v


def each(function: Any, maps: PyTree, *trees: PyTree) -> PyTree:
    """``function(map, part, ...)`` of each part."""
    return jax.tree.map(function, over(maps, trees[0]), *trees, is_leaf=_is_map)


def over(maps: PyTree, tree: PyTree) -> PyTree:
    """A map for each part of the tree, where one map serves them all."""
    return jax.tree.map(lambda _: maps, tree) if isinstance(maps, MirrorMap) else maps


def _is_map(leaf: object) -> bool:
    return isinstance(leaf, MirrorMap)


# At the door ----------------------------------------------------------------------------------


def as_maps(name: str) -> Any:
    """Converter of a field: a mirror map, or a pytree of them."""

    def convert(value: Any) -> Any:
        leaves = jax.tree.leaves(value, is_leaf=_is_map)
        if not leaves or not all(_is_map(leaf) or type(leaf) is object for leaf in leaves):
            raise ValueError(
                f"{name} must be a mirror map such as samplers.Hyperbolic(scale=1.0), or a pytree "
                f"with one for each part of the position; got {value!r}"
            )
        return value

    return convert


def check_fit(kernel: str, field: str, maps: PyTree, target: Energy) -> None:
    """Raise unless there is a map for each part of a position, that keeps its shape."""
    template = target.template
    structure = jax.tree.structure(over(maps, template), is_leaf=_is_map)
    if structure != jax.tree.structure(template):
        raise TargetError(
            f"{kernel}({field}=): give one mirror map, or a pytree of them like the position "
            f"{describe(template)}; got {maps!r}"
        )

    def one(mirror: MirrorMap, x: jax.ShapeDtypeStruct) -> None:
        image, back, h = (
            jax.eval_shape(f, x).shape for f in (mirror.gradient, mirror.inverse, mirror.hessian)
        )
        if image != x.shape or back != x.shape or h not in (x.shape, (x.size, x.size)):
            raise TargetError(
                f"{kernel}({field}=): {type(mirror).__name__} does not fit a part of shape "
                f"{x.shape}: its gradient has shape {image}, its inverse {back}, its Hessian {h}, "
                f"which should be {x.shape} for a diagonal or {(x.size, x.size)}"
            )

    each(one, maps, template)


def check_start(kernel: str, maps: PyTree, target: Energy, positions: PyTree | None) -> None:
    """Raise unless the domain of the maps holds the starts: positions, leading axis chain.

    With None, those that chains get where the user gives none: uniform on (-2, 2).
    """
    template = target.template
    if positions is None:
        ends = np.array([-RADIUS, RADIUS])
        starts = [np.multiply.outer(ends, np.ones(x.shape)) for x in jax.tree.leaves(template)]
    else:
        starts = jax.tree.leaves(positions)
    mirrors = jax.tree.leaves(over(maps, template), is_leaf=_is_map)
    for name, mirror, x in zip(named(template), mirrors, starts, strict=True):
        image = np.asarray(jax.vmap(mirror.gradient)(jnp.asarray(x)))
        inside = np.isfinite(image).reshape(len(image), -1).all(axis=1)
        if inside.all():
            continue
        chain = int(np.argmin(inside))
        raise TargetError(
            f"{kernel}: {type(mirror).__name__} is a mirror map of {mirror.domain}, and "
            + (
                f"jittered starts, uniform on (-2, 2), may lie outside at {name}"
                if positions is None
                else f"chain {chain} starts outside, at {name} = {np.asarray(x[chain])}"
            )
            + ". Pass init= with a position inside, for all chains or for each."
        )
