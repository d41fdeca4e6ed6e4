"""Sets of a fixed size, grown element by element, with an energy that adds over elements.

    log R(x) = sum_{i in x} v_i,    Z = e_k(exp(v_1), .., exp(v_n))

The energy of a part of a set is that of its elements: credit is local, and flows that look forward
know it before the set is complete. Z is the k-th elementary symmetric polynomial.

References
----------
.. [1] Pan et al., "Better training of GFlowNets with local credit and incomplete trajectories",
   ICML 2023, arXiv:2302.01687. Section 5.1.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import gammaln
from jaxtyping import Array, Bool, Float, Int

from ppl.environment import Environment
from ppl.sampler import size


def _values(value: Any) -> Float[Array, " n"]:
    values = jnp.asarray(value, float)
    if values.ndim != 1:
        raise ValueError(f"values are one number for each element; got an array {values.shape}")
    return values


class Sets(Environment):
    """Sets of ``num_chosen`` of the elements.

    Parameters
    ----------
    values
        The v above, in nats; traced.
    num_chosen
        k above.
    """

    values: Float[Array, " n"] = eqx.field(converter=_values)
    num_chosen: int = size("num_chosen", default=5)

    def __check_init__(self) -> None:
        if self.num_chosen > len(self.values):
            raise ValueError(
                f"num_chosen must be {len(self.values)}, the number of elements, at most; got "
                f"{self.num_chosen}"
            )

    @property
    def template(self) -> jax.ShapeDtypeStruct:
        """Which elements are in the set."""
        return jax.ShapeDtypeStruct(self.values.shape, jnp.dtype(bool))

    @property
    def num_actions(self) -> int:
        """A move for each element."""
        return len(self.values)

    @property
    def max_length(self) -> int:
        """An element a move."""
        return self.num_chosen

    @property
    def num_states(self) -> int:
        """Subsets of any size."""
        return 2 ** len(self.values)

    @property
    def log_normalizer(self) -> float:
        """Log Z of ``log_density``."""
        polynomial = np.zeros(self.num_chosen + 1)
        polynomial[0] = 1.0
        for weight in np.exp(np.asarray(self.values, float)):
            polynomial[1:] += weight * polynomial[:-1]
        return float(np.log(polynomial[-1]))

    def log_density(self, position: Bool[Array, " n"]) -> Float[Array, ""]:
        return jnp.sum(jnp.where(position, self.values, 0.0))

    def partial_energy(self, state: Bool[Array, " n"]) -> Float[Array, ""]:
        """That of the elements so far."""
        return -self.log_density(state)

    def progress(self, state: Bool[Array, " n"]) -> Float[Array, ""]:
        """Share of the elements that are chosen."""
        return jnp.sum(state) / self.num_chosen

    def forward_mask(self, state: Bool[Array, " n"]) -> Bool[Array, " moves_and_stop"]:
        is_full = jnp.sum(state) >= self.num_chosen
        return jnp.append(~state & ~is_full, is_full)

    def backward_mask(self, state: Bool[Array, " n"]) -> Bool[Array, " n"]:
        return state

    def apply(self, state: Bool[Array, " n"], action: Int[Array, ""]) -> Array:
        return state.at[action].set(True)

    def undo(self, state: Bool[Array, " n"], action: Int[Array, ""]) -> Array:
        return state.at[action].set(False)

    def is_legal(self, state: Bool[Array, " n"]) -> Bool[Array, ""]:
        return jnp.sum(state) <= self.num_chosen

    def features(self, state: Bool[Array, " n"]) -> Float[Array, "n n_and_one"]:
        """An element a row: which it is, and whether it is in."""
        return jnp.concatenate([jnp.eye(len(state)), state[:, None].astype(float)], axis=1)

    def index(self, state: Bool[Array, " n"]) -> Int[Array, ""]:
        """The set as a binary number."""
        return jnp.sum(state << jnp.arange(len(state)))

    def log_num_paths(self, state: Bool[Array, " n"]) -> Float[Array, ""]:
        """Elements come in any order."""
        return gammaln(jnp.sum(state) + 1.0)
