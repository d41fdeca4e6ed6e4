"""Draws that stand side by side must be draws of one target."""

from collections.abc import Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from ppl.checkpoint import target_digest
from ppl.draws import Draws
from ppl.energy import TargetError

PROBES = 32


def require_same_target(draws: Mapping[str, Draws]) -> None:
    """Raise where two sets of draws are of different targets.

    Targets are compared by the shapes of the values they share, then by their traced log-density
    and their data; where these differ, by the log-density itself: two that differ by a constant at
    draws of both are one target, written twice. Draws that were loaded from a file do not hold
    their target: for them the description of the target decides.

    Raises
    ------
    TargetError
        Naming the two sets of draws and what differs.
    """
    (first, one), *others = draws.items()
    for name, other in others:
        difference = _difference(one, other)
        if difference:
            raise TargetError(
                f"draws of two different targets: {first!r} and {name!r} {difference}. Agreement "
                "of samplers has a meaning on one target only: give draws of the same target, or "
                "make a report of each"
            )


def _difference(a: Draws, b: Draws) -> str:
    if a.target is b.target and a.target is not None:
        return ""
    shapes = [{name: x.shape[2:] for name, x in each.values.items()} for each in (a, b)]
    common = shapes[0].keys() & shapes[1].keys()
    if not common:
        names = " and ".join(", ".join(list(map(str, shape))[:5]) for shape in shapes)
        return f"have no value in common ({names})"
    for name in common:
        if shapes[0][name] != shapes[1][name]:
            return f"have values {name!r} of other shapes ({shapes[0][name]} and {shapes[1][name]})"
    if a.target is not None and b.target is not None:
        same = target_digest(a.target) == target_digest(b.target) or _proportional(a, b)
        return "" if same else "have other densities or other data" + _called(a, b)
    return "" if a.run.target == b.run.target else "are described otherwise" + _called(a, b)


def _proportional(a: Draws, b: Draws) -> bool:
    """Whether the log-densities differ by a constant, at some draws of both."""
    if any("log_density" not in getattr(each.target, "offers", ()) for each in (a, b)):
        return False
    places = [_some(each) for each in (a, b)]
    if jax.tree.structure(places[0]) != jax.tree.structure(places[1]):
        return False
    shapes = [[x.shape[1:] for x in jax.tree.leaves(place)] for place in places]
    if shapes[0] != shapes[1]:
        return False
    both = jax.tree.map(lambda x, y: jnp.concatenate([x, y.astype(x.dtype)]), *places)
    first, second = (np.asarray(_log_densities(each.target, both), np.float64) for each in (a, b))
    finite = np.isfinite(first)
    if not finite.any() or (finite != np.isfinite(second)).any():
        return False
    gap = (first - second)[finite]
    return bool(np.abs(gap - np.median(gap)).max() <= 1e-3 * (1 + np.abs(first[finite]).max()))


def _some(draws: Draws) -> PyTree:
    rows = draws.num_chains * draws.num_samples
    keep = np.linspace(0, rows - 1, PROBES).round().astype(int)
    flat = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), draws.positions)
    return jax.tree.map(lambda x: jnp.asarray(x[keep]), flat)


@eqx.filter_jit
def _log_densities(target: Any, positions: PyTree) -> Any:
    return jax.vmap(target.log_density)(positions)


def _called(a: Draws, b: Draws) -> str:
    return f" ({a.run.target} and {b.run.target})" if a.run.target != b.run.target else ""
