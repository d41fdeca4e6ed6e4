"""Draws that stand side by side must be draws of one target."""

from collections.abc import Mapping
from typing import Any

from ppl.checkpoint import target_digest
from ppl.draws import Draws
from ppl.energy import TargetError


def require_same_target(draws: Mapping[str, Draws]) -> None:
    """Raise where two sets of draws are of different targets.

    Targets are compared by names and shapes of their values, then by their traced log-density and
    their data. Draws that were loaded from a file do not hold their target: for them the
    description of the target decides.

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
    shapes = [{name: x.shape[2:] for name, x in each.values.items()} for each in (a, b)]
    if shapes[0] != shapes[1]:
        only = [sorted(shapes[i].keys() - shapes[1 - i].keys()) for i in (0, 1)]
        apart = [name for name in shapes[0] if shapes[0][name] != shapes[1].get(name)]
        if only[0] or only[1]:
            return f"have values of other names ({_listed(only[0])} and {_listed(only[1])})"
        first, second = (s[apart[0]] for s in shapes)
        return f"have values {apart[0]!r} of other shapes ({first} and {second})"
    if a.target is b.target and a.target is not None:
        return ""
    if a.target is not None and b.target is not None:
        same = target_digest(a.target) == target_digest(b.target)
        return "" if same else "have other densities or other data" + _called(a, b)
    return "" if a.run.target == b.run.target else "are described otherwise" + _called(a, b)


def _called(a: Draws, b: Draws) -> str:
    return f" ({a.run.target} and {b.run.target})" if a.run.target != b.run.target else ""


def _listed(names: list[Any]) -> str:
    return ", ".join(map(str, names[:5])) + (", ..." if len(names) > 5 else "") or "none"
