"""Targets with a sharp part: ``log pi(x) = log p(x) - g(x)``, p smooth, g known by a proximal map.

    prox(x, t) = argmin_y g(y) + |y - x|^2 / (2 t)

An l1 norm, a total variation or a constraint has kinks or walls where gradients fail, and yet a
proximal map that is cheap. A `Composite` keeps the two parts apart, so that a proximal sampler
finds both, while its `log_density` is that of the whole: any other sampler may run on it, and draws
are judged against what they claim to follow.

    g_t(x) = min_y g(y) + |y - x|^2 / (2 t),   grad g_t(x) = (x - prox(x, t)) / t

is the Moreau envelope: smooth, below g, and as near to it as t is small.

References
----------
.. [1] Moreau, "Proximité et dualité dans un espace hilbertien", Bull. Soc. Math. France 93, 1965,
   doi:10.24033/bsmf.1625.
.. [2] Parikh and Boyd, "Proximal algorithms", Found. Trends Optim. 1, 2014,
   doi:10.1561/2400000003.
"""

from abc import abstractmethod
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, PyTree

from ppl.energy import Energy, LogDensity, Position, TargetError, Values
from ppl.template import describe


class ProximalMap(eqx.Module):
    """A convex function g of one array, and its proximal map. Subclasses are final."""

    @abstractmethod
    def value(self, x: Float[Array, "..."]) -> Float[Array, ""]:
        """``g(x)`` in nats; infinite where a constraint is violated. Its gradient is never NaN."""

    @abstractmethod
    def __call__(self, x: Float[Array, "..."], step: Any) -> Float[Array, "..."]:
        """``argmin_y g(y) + |y - x|^2 / (2 step)``, shaped like x."""


class Composite(Energy):
    """``exp(-g)`` times a smooth target; made by `composite`."""

    smooth: Energy
    regularizers: PyTree  # a map, or None, for each leaf of a position

    @property
    def template(self) -> PyTree[jax.ShapeDtypeStruct]:
        return self.smooth.template

    @property
    def offers(self) -> frozenset[str]:
        return self._with_gradient("log_density", "proximal_map")

    def log_density(self, position: Position) -> Any:
        return self.smooth.log_density(position) - self.regularization(position)

    def regularization(self, position: Position) -> Float[Array, ""]:
        """``g(x)``, in nats."""

        def one(regularizer: ProximalMap | None, x: Array) -> Array:
            return jnp.zeros((), x.dtype) if regularizer is None else regularizer.value(x)

        values = jax.tree.map(one, self.regularizers, position, is_leaf=_is_map)
        return sum(jax.tree.leaves(values), jnp.zeros(()).astype(jax.tree.leaves(values)[0].dtype))

    def prox(self, position: Position, step: ArrayLike) -> Position:
        """``argmin_y g(y) + |y - x|^2 / (2 step)``."""

        def one(regularizer: ProximalMap | None, x: Array) -> Array:
            if regularizer is None:
                return x
            return regularizer(x, jnp.asarray(step, x.dtype)).astype(x.dtype)

        return jax.tree.map(one, self.regularizers, position, is_leaf=_is_map)

    def constrain(self, position: Position) -> Values:
        return self.smooth.constrain(position)

    def unconstrain(self, values: Values) -> Position:
        return self.smooth.unconstrain(values)

    def log_jacobian(self, position: Position) -> Float[Array, ""]:
        return self.smooth.log_jacobian(position)

    def outputs(self, position: Position) -> dict[str, Array]:
        return self.smooth.outputs(position)

    @property
    def outputs_are_positions(self) -> bool:
        return self.smooth.outputs_are_positions


def composite(smooth: Any, regularizer: Any) -> Composite:
    """Multiply a smooth target by ``exp(-g)``, with g known by its proximal map.

    Parameters
    ----------
    smooth
        Target with a gradient, such as a likelihood from `from_log_density`.
    regularizer
        A `ProximalMap` such as `samplers.L1` or `samplers.TotalVariation2D`. Of a position with
        several parts, each part is regularized on its own: one map serves them all, or a pytree
        like the template holds a map, or None, for each.

    Returns
    -------
    Composite
        The numbers of both are its leaves: a new strength does not compile again.

    Raises
    ------
    TargetError
        If the target has no gradient or a support of its own, if there is no proximal map, or one
        does not fit the part it is for.

    Examples
    --------
    >>> import jax.numpy as jnp, ppl, samplers
    >>> smooth = ppl.from_log_density(lambda x: -0.5 * jnp.sum(x**2), jnp.zeros(2))
    >>> target = ppl.composite(smooth, samplers.L1(3.0))
    >>> float(target.log_density(jnp.array([1.0, 0.0])))
    -3.5
    """
    if not isinstance(smooth, Energy):
        raise TargetError(
            "composite(smooth, regularizer): smooth must be a target, such as "
            f"ppl.from_log_density(fn, template); got {type(smooth).__name__}"
        )
    if "gradient" not in smooth.offers:
        raise TargetError(f"composite needs a smooth target: {smooth.refuse('gradient')}")
    if isinstance(smooth, LogDensity) and smooth.support is not None:
        raise TargetError(
            "composite: the smooth target has a support, so that its positions are not the values "
            "that the regularizer is meant for; leave support= out, and write a constraint as a "
            "regularizer, such as samplers.Box(lower=0.0)"
        )
    template = smooth.template
    if isinstance(regularizer, ProximalMap):
        regularizers = jax.tree.map(lambda _: regularizer, template)
    else:
        regularizers = regularizer
    maps, structure = jax.tree.flatten(regularizers, is_leaf=_is_map)
    if structure != jax.tree.structure(template) or not any(
        isinstance(each, ProximalMap) for each in maps
    ):
        raise TargetError(
            "composite: a proximal map is missing. Give one, such as samplers.L1(1.0), or a pytree "
            f"of maps (or None) like the position {describe(template)}; got {regularizer!r}"
        )
    for each, leaf in zip(maps, jax.tree.leaves(template), strict=True):
        if each is not None:
            _require_fit(each, leaf)
    return Composite(smooth, regularizers)  # pyright: ignore[reportCallIssue]


def _is_map(leaf: object) -> bool:
    return leaf is None or isinstance(leaf, ProximalMap)


def _require_fit(regularizer: Any, leaf: jax.ShapeDtypeStruct) -> None:
    if not isinstance(regularizer, ProximalMap):
        raise TargetError(
            "composite: a regularizer is a ppl.proximal.ProximalMap or None; got "
            f"{type(regularizer).__name__}"
        )
    value = jax.eval_shape(regularizer.value, leaf)
    moved = jax.eval_shape(lambda x: regularizer(x, jnp.ones((), leaf.dtype)), leaf)
    if value.shape != () or moved.shape != leaf.shape:
        raise TargetError(
            f"composite: {type(regularizer).__name__} does not fit a part of shape {leaf.shape}: "
            f"its value has shape {value.shape}, its map {moved.shape}"
        )
