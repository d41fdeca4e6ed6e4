"""Laws that a user's function returns: NumPyro distributions, alone or in a pytree.

The laws in a pytree are independent, and their values have its structure. A plain function may
stand in the place of a distribution: ``rng_key -> value`` where it is to be drawn from,
``value -> log-density`` where it is to be evaluated.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import random
from jaxtyping import Array, Float, PRNGKeyArray, PyTree
from numpyro.distributions import Distribution, biject_to
from numpyro.distributions.transforms import IdentityTransform, Transform

from ppl.energy import TargetError
from ppl.template import describe


def is_law(leaf: Any) -> bool:
    """Whether this is a distribution, or a function in its place."""
    return isinstance(leaf, Distribution) or callable(leaf)


def each(fn: Callable[..., Any], laws: PyTree, *values: PyTree) -> PyTree:
    """``fn`` of every law and of its values."""
    return jax.tree.map(fn, laws, *values, is_leaf=is_law)


def are_distributions(laws: PyTree) -> bool:
    """Whether each of them has a density and can be drawn from."""
    return all(isinstance(law, Distribution) for law in jax.tree.leaves(laws, is_leaf=is_law))


def draw(rng_key: PRNGKeyArray, laws: PyTree, like: PyTree = None) -> PyTree:
    """One value of each law, in the precision of ``like``."""
    leaves, treedef = jax.tree.flatten(laws, is_leaf=is_law)
    keys = [rng_key] if len(leaves) == 1 else random.split(rng_key, len(leaves))
    drawn = [
        jnp.asarray(law.sample(key) if isinstance(law, Distribution) else law(key))
        for law, key in zip(leaves, keys, strict=True)
    ]
    values = jax.tree.unflatten(treedef, drawn)
    if like is None:
        return values
    return jax.tree.map(lambda x, leaf: x.astype(leaf.dtype), values, like)


def log_prob(laws: PyTree, values: PyTree) -> Float[Array, ""]:
    """Log-density of values, summed over the laws."""

    def one(law: Any, value: Array) -> Array:
        if not isinstance(law, Distribution):
            raise TargetError(
                "a density is needed of a law that can only be drawn from; return a NumPyro "
                "distribution in place of the function"
            )
        return jnp.sum(law.log_prob(value))

    return _total(each(one, laws, values))


# A user's function may return anything until it has been tried out: no shape is claimed.
def log_observed(laws: PyTree, values: PyTree) -> Any:
    """Log-density of data; what is NaN is missing, and counts as 0."""

    def one(law: Any, y: Array) -> Array:
        if not isinstance(law, Distribution):
            return law(y)
        if not jnp.issubdtype(y.dtype, jnp.floating):
            return jnp.sum(law.log_prob(y))
        axes = tuple(range(y.ndim - law.event_dim, y.ndim))
        missing = jnp.any(jnp.isnan(y), axis=axes, keepdims=True)
        # No gradient must see a NaN either: a possible value stands in.
        possible = law.support.feasible_like(y)  # pyright: ignore[reportOptionalMemberAccess]
        terms = jnp.asarray(law.log_prob(jnp.where(missing, possible, y)))
        return jnp.sum(jnp.where(missing.reshape(terms.shape), 0.0, terms))

    return _total(each(one, laws, values))


def transform_of(law: Any) -> Transform:
    """From the reals onto where the law lives; identity for integers and for functions."""
    if not isinstance(law, Distribution) or law.support is None or law.support.is_discrete:
        return IdentityTransform()
    return biject_to(law.support)


def _total(terms: PyTree) -> Any:
    first, *rest = jax.tree.leaves(terms)
    return sum(rest, start=first)


# Checks, while a function is traced -------------------------------------------------------------


def laws_of(name: str, fn: Callable[..., Any], *args: Any) -> PyTree:
    """What a user's function returns; an error by its name if it fails or these are no laws."""
    try:
        laws = fn(*args)
    except (TypeError, ValueError, KeyError, IndexError, AttributeError) as error:
        raise TargetError(f"{name} fails on {_shown(args)}: {error}") from error
    leaves = jax.tree.leaves(laws, is_leaf=lambda x: x is None or is_law(x))
    bad = [type(leaf).__name__ for leaf in leaves if not is_law(leaf)]
    if bad or not leaves:
        raise TargetError(
            f"{name} must return a NumPyro distribution, or a pytree of them; got "
            f"{bad[0] if bad else repr(laws)}"
        )
    return laws


def require_values(name: str, laws: PyTree, values: PyTree, what: str) -> None:
    """Raise unless the laws are those of values of these shapes."""

    def shape(law: Any, value: Any) -> None:
        if isinstance(law, Distribution) and law.shape() != value.shape:
            raise TargetError(
                f"{name} returns {type(law).__name__} of shape {law.shape()}; {what} has shape "
                f"{value.shape}"
            )

    structure = jax.tree.structure(each(lambda law: 0, laws))
    if structure != jax.tree.structure(values):
        raise TargetError(
            f"{name} returns laws of structure {structure}; {what} is {describe(values)}"
        )
    each(shape, laws, values)


def _shown(args: Any) -> str:
    def one(x: Any) -> str:
        return f"{jnp.result_type(x).name}{list(jnp.shape(x))}"

    return f"({', '.join(str(jax.tree.map(one, arg)) for arg in args)})".replace("'", "")
