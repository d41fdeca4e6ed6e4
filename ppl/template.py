"""Positions: their shapes, their dtypes, and the names of their parts.

A template is a pytree of `jax.ShapeDtypeStruct`: one position without its numbers.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

type Position = PyTree
type Values = PyTree


class TargetError(ValueError):
    """A target that cannot be built, or cannot do what a sampler asks of it."""


def as_data(tree: Any) -> Any:
    """Make data traceable: arrays, floats and lists of numbers become JAX arrays.

    Ints, bools, strings and None stay as they are: they are static, and a new value compiles
    anew (a plate size must).
    """

    def convert(leaf: Any) -> Any:
        if isinstance(leaf, bool | int | str | None.__class__) or callable(leaf):
            return leaf
        if isinstance(leaf, jax.Array):
            return leaf
        if isinstance(leaf, float | complex | np.ndarray | np.generic) or hasattr(
            leaf, "__array__"
        ):
            array = np.asarray(leaf)
            if array.dtype.kind in "OUS":
                raise TargetError(
                    f"data of dtype {array.dtype} cannot enter a density; encode it as numbers"
                )
            return _on_device(array)
        return _on_device(np.asarray(leaf)) if _is_number_list(leaf) else leaf

    converted: Any = jax.tree.map(convert, tree, is_leaf=_is_number_list)
    return converted


def _on_device(array: np.ndarray) -> jax.Array:
    dtype = jax.dtypes.canonicalize_dtype(array.dtype)
    if array.dtype.kind in "iu" and array.size and dtype != array.dtype:
        limits = np.iinfo(dtype)
        if array.min() < limits.min or array.max() > limits.max:
            raise TargetError(
                f"data hold the integer {array.flat[np.argmax(np.abs(array))]}, which {dtype.name} "
                'cannot; write jax.config.update("jax_enable_x64", True), or floats'
            )
    return jnp.asarray(array, dtype=dtype)


def _is_number_list(tree: Any) -> bool:
    if not isinstance(tree, list) or not tree:
        return False
    leaves = jax.tree.leaves(tree)
    if not all(isinstance(x, bool | int | float | np.generic) for x in leaves):
        return False
    try:
        return np.asarray(tree).dtype.kind in "biuf"
    except ValueError:  # ragged
        return False


def as_template(template: PyTree) -> PyTree[jax.ShapeDtypeStruct]:
    """Shapes and dtypes of one position."""

    def convert(leaf: Any) -> jax.ShapeDtypeStruct:
        if isinstance(leaf, jax.ShapeDtypeStruct):
            return jax.ShapeDtypeStruct(leaf.shape, jax.dtypes.canonicalize_dtype(leaf.dtype))
        if isinstance(leaf, float | int | np.ndarray | np.generic | jax.Array):
            array = jnp.asarray(leaf)
            return jax.ShapeDtypeStruct(array.shape, array.dtype)
        raise TargetError(
            "template must be a pytree of arrays or jax.ShapeDtypeStruct, one position of the "
            f"target; got a leaf of type {type(leaf).__name__}. Write jnp.zeros(3) for a vector "
            'of three, {"mu": jnp.zeros(()), "beta": jnp.zeros(5)} for named parts.'
        )

    converted = jax.tree.map(
        convert,
        template,
        is_leaf=lambda x: x is None or isinstance(x, jax.ShapeDtypeStruct),
    )
    if not jax.tree.leaves(converted):
        raise TargetError(
            f"template holds no arrays: got {template!r}; a position needs at least one"
        )
    return converted


def dimension(template: PyTree) -> int:
    """Number of scalars in one position."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(template))


def float_dtype(template: PyTree) -> jnp.dtype:
    """Widest floating dtype of a template, or the default one when it has none."""
    leaves = [leaf.dtype for leaf in jax.tree.leaves(template)]
    floats = [dtype for dtype in leaves if jnp.issubdtype(dtype, jnp.floating)]
    return jnp.result_type(*floats) if floats else jnp.result_type(float)


def named(values: Values) -> dict[str, Any]:
    """Flatten a pytree to names: keys joined by ".", tuple items x0, x1, a bare array "x"."""
    result: dict[str, Any] = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(values)[0]:
        name = ".".join(_entry_name(entry) for entry in path) or "x"
        if name in result:
            raise TargetError(
                f"two parts of the position are called {name!r}; names are the keys joined by "
                '".", so rename one of them'
            )
        result[name] = leaf
    return result


def _entry_name(entry: Any) -> str:
    match entry:
        case jax.tree_util.DictKey(key):
            return str(key)
        case jax.tree_util.GetAttrKey(name):
            return str(name)
        case jax.tree_util.SequenceKey(index):
            return f"x{index}"
        case jax.tree_util.FlattenedIndexKey(index):
            return f"x{index}"
        case _:
            return str(entry)


def describe(template: PyTree) -> str:
    """One line for error messages, such as ``{mu: float32[], beta: float32[5]}``."""
    parts = [
        f"{name}: {leaf.dtype.name}{list(leaf.shape)}" for name, leaf in named(template).items()
    ]
    return "{" + ", ".join(parts) + "}"


def require_template(tree: PyTree, template: PyTree, what: str) -> None:
    """Raise unless ``tree`` has the structure and shapes of ``template``."""
    if jax.tree.structure(tree) != jax.tree.structure(template):
        raise TargetError(
            f"{what} does not fit the target: expected {describe(template)}, "
            f"got {jax.tree.structure(tree)}"
        )
    for (name, expected), leaf in zip(named(template).items(), jax.tree.leaves(tree), strict=True):
        if jnp.shape(leaf) != expected.shape:
            raise TargetError(
                f"{what} does not fit the target: {name!r} should have shape "
                f"{expected.shape}, got {jnp.shape(leaf)}"
            )
