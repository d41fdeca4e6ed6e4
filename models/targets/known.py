"""What a target with known facts offers beside its density."""

from abc import abstractmethod

import jax
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from ppl.energy import Energy, Position
from ppl.template import dimension


class Known(Energy):
    """Target whose law is known: its families derive from it, and hold no other state than shape.

    ``log_density`` is not normalized, on purpose: ``log_normalizer`` is its log Z in nats, which
    an estimate of the evidence must find.
    """

    @property
    def offers(self) -> frozenset[str]:
        return self._with_gradient("log_density", "sample", "log_normalizer")

    @property
    def dimension(self) -> int:
        """Number of scalars in a position."""
        return dimension(self.template)

    @property
    @abstractmethod
    def log_normalizer(self) -> Float[Array, ""]:
        """Log Z of ``log_density``, in nats."""

    @property
    @abstractmethod
    def modes(self) -> PyTree[Array]:
        """Local maxima of the density, stacked along a leading axis."""

    @abstractmethod
    def sample(self, rng_key: PRNGKeyArray, n: int) -> Position:
        """``n`` independent, exact draws, stacked along a leading axis."""


def vector(size: int) -> jax.ShapeDtypeStruct:
    """Template of a vector of floats."""
    return jax.ShapeDtypeStruct((size,), jax.dtypes.canonicalize_dtype(float))
