"""Hypergrid: cells of a cube, reached by steps along its axes, with the reward in its corners.

    R(x) = R_0 + R_1 prod_i 1{1/4 < a_i <= 1/2} + R_2 prod_i 1{3/10 < a_i < 4/10}
    a_i = |x_i / (H - 1) - 1/2|,                  x in {0, .., H - 1}^D

A step adds one to a coordinate; building may stop anywhere. The 2^D modes, in the corners, are
plateaus R_1 high with ridges R_2 high on top, and between them lies a desert of height R_0: the
smaller it is, the harder the modes are to find from one another.

References
----------
.. [1] Bengio et al., "Flow network based generative models for non-iterative diverse candidate
   generation", NeurIPS 2021, arXiv:2106.04399. Section 4.1.
"""

from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import gammaln
from jaxtyping import Array, Bool, Float, Int

from ppl.environment import Environment
from ppl.sampler import size


def _rewards(value: Sequence[float]) -> Float[Array, "3"]:
    rewards = jnp.asarray(value, float)
    if rewards.shape != (3,):
        raise ValueError(f"rewards are three numbers, R_0, R_1 and R_2; got {value!r}")
    return rewards


class Hypergrid(Environment):
    """The grid of ``side ** num_dims`` cells.

    Parameters
    ----------
    num_dims, side
        D and H above.
    rewards
        R_0, R_1 and R_2; traced.
    """

    num_dims: int = size("num_dims", default=2)
    side: int = size("side", minimum=2, default=8)
    rewards: Float[Array, "3"] = eqx.field(converter=_rewards, default=(0.1, 0.5, 2.0))

    @property
    def template(self) -> jax.ShapeDtypeStruct:
        """Coordinates of a cell."""
        return jax.ShapeDtypeStruct((self.num_dims,), jnp.dtype("int32"))

    @property
    def num_actions(self) -> int:
        """One for each axis."""
        return self.num_dims

    @property
    def max_length(self) -> int:
        """Steps to the far corner."""
        return self.num_dims * (self.side - 1)

    @property
    def num_states(self) -> int:
        """Number of cells."""
        return self.side**self.num_dims

    @property
    def modes(self) -> Int[Array, "modes num_dims"]:
        """A cell on the ridge of each corner; the first on its way, from the middle of an edge."""
        a = np.abs(np.arange(self.side) / (self.side - 1) - 0.5)
        ridge = np.flatnonzero((a > 0.3) & (a < 0.4))
        ends = [ridge[0], ridge[-1]] if len(ridge) else [0, self.side - 1]
        return jnp.asarray(np.stack(np.meshgrid(*[ends] * self.num_dims), -1)).reshape(
            -1, self.num_dims
        )

    def log_density(self, position: Int[Array, " num_dims"]) -> Float[Array, ""]:
        # Integers are exact: at H = 11 a cell at 3/10 or 4/10 would depend on the rounding.
        m, last = jnp.abs(2 * position - (self.side - 1)), self.side - 1  # a = m / 2 last
        plateau, ridge = jnp.all(2 * m > last), jnp.all((5 * m > 3 * last) & (5 * m < 4 * last))
        return jnp.log(self.rewards @ jnp.array([1.0, plateau, ridge]))

    def forward_mask(self, state: Int[Array, " num_dims"]) -> Bool[Array, " moves_and_stop"]:
        return jnp.append(state < self.side - 1, True)

    def backward_mask(self, state: Int[Array, " num_dims"]) -> Bool[Array, " num_dims"]:
        return state > 0

    def apply(self, state: Int[Array, " num_dims"], action: Int[Array, ""]) -> Array:
        return state.at[action].add(1)

    def undo(self, state: Int[Array, " num_dims"], action: Int[Array, ""]) -> Array:
        return state.at[action].add(-1)

    def is_legal(self, state: Int[Array, " num_dims"]) -> Bool[Array, ""]:
        return jnp.all((state >= 0) & (state < self.side))

    def features(self, state: Int[Array, " num_dims"]) -> Float[Array, "num_dims side"]:
        return jax.nn.one_hot(state, self.side)

    def partial_energy(self, state: Int[Array, " num_dims"]) -> Float[Array, ""]:
        """That of stopping here."""
        return -self.log_density(state)

    def index(self, state: Int[Array, " num_dims"]) -> Int[Array, ""]:
        """Number of a cell, row by row."""
        powers = self.side ** np.arange(self.num_dims)[::-1]
        return state @ jnp.asarray(powers, jnp.int32)

    def log_num_paths(self, state: Int[Array, " num_dims"]) -> Float[Array, ""]:
        """The multinomial coefficient."""
        steps = state.astype(float)
        return gammaln(steps.sum() + 1) - gammaln(steps + 1).sum()
