"""What is done to a denoised value on its way into a solver: ``rule(denoiser, x, row, carry)``.

A rule is written for a single point and returns ``(D, carry)``; ``carry`` is its memory, which
``init(x)`` begins. It may call the denoiser as it likes, take its gradient, or leave it out.
"""

from abc import abstractmethod
from typing import Any

import equinox as eqx
from jaxtyping import Array, PyTree


class Rule(eqx.Module):
    """Contract of a rule on denoised values."""

    def init(self, x: Array) -> PyTree:
        """Memory of a point before the first row; by default none."""
        return ()

    @abstractmethod
    def __call__(self, denoiser: Any, x: Array, row: Any, carry: PyTree) -> tuple[Array, PyTree]:
        """Denoised value at x, and the memory for the next row."""


class Plain(Rule):
    """The denoised value as it is."""

    def __call__(self, denoiser: Any, x: Array, row: Any, carry: PyTree) -> tuple[Array, PyTree]:
        return denoiser(x, row.level), carry
