"""What a verdict is made of: findings with their weight, measures with their limits, and words."""

import math
from collections.abc import Iterable
from typing import Any, Literal, NamedTuple

import jax
import numpy as np

from ppl.draws import Draws

MAX_SCALARS = 5000
RHAT_GOOD, RHAT_BAD = 1.01, 1.05
ESS_BAD = 100

type Status = Literal["good", "caution", "bad", "unknown"]


class Finding(NamedTuple):
    """One thing that was seen, how heavily it counts, and what to do about it."""

    weight: Literal["note", "caution", "bad", "unknown"]
    reason: str
    advice: str = ""


class Measure(NamedTuple):
    """One row of the verdict's table; ``passed`` is None where there is no limit."""

    name: str
    value: float
    wanted: str
    passed: bool | None
    where: str = ""


class Verdict(NamedTuple):
    """A judgement.

    Attributes
    ----------
    status
        ``"good"``, ``"caution"``, ``"bad"``, or ``"unknown"`` where there is too little to judge.
    headline
        One sentence.
    reasons
        Why, heaviest first.
    advice
        What to do, in the same order.
    table
        pandas DataFrame, a row per measure: value, wanted, passed, where.
    """

    status: Status
    headline: str
    reasons: list[str]
    advice: list[str]
    table: Any


# Of draws ---------------------------------------------------------------------------------------


def leaves(draws: Draws) -> list[np.ndarray]:
    """Arrays of the positions."""
    return jax.tree.leaves(draws.positions)


def stride(draws: Draws) -> int:
    """Every how many scalars of each array one is judged, where there are very many."""
    total = sum(math.prod(x.shape[2:]) for x in draws.values.values())
    return max(1, -(-total // MAX_SCALARS))


# Words ----------------------------------------------------------------------------------------


def counted(count: int, one: str, many: str = "") -> str:
    """A number and its noun."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def listed(parts: Iterable[str]) -> str:
    """Parts with commas between them."""
    return ", ".join(parts)


def listed_chains(chains: list[int], unit: str = "Chain") -> str:
    """Chains by their numbers."""
    numbers = ", ".join(map(str, chains))
    return f"{unit} {numbers}" if len(chains) == 1 else f"{unit}s {numbers}"
