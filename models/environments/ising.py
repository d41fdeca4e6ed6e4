"""Ising model on a torus, its spins placed one by one in any order.

    log R(s) = coupling sum_<ij> s_i s_j + field sum_i s_i,   s_i = -1 or 1,  0 where not yet placed

Each of the 2 L^2 bonds counts once. (As s' J s over ordered pairs the coupling would be half of
this.)

References
----------
.. [1] Zhang et al., "Generative flow networks for discrete probabilistic modeling", ICML 2022,
   arXiv:2202.01361. Section 5.1.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.scipy.special import gammaln
from jaxtyping import Array, ArrayLike, Bool, Float, Int

from ppl.environment import Environment
from ppl.sampler import size


def _number(value: ArrayLike) -> Float[Array, ""]:
    return jnp.asarray(value, float)


class Ising(Environment):
    """Spins on a torus of ``side`` by ``side``.

    Parameters
    ----------
    side
        L above.
    coupling, field
        In nats; traced.
    """

    side: int = size("side", minimum=2, default=3)
    coupling: Float[Array, ""] = eqx.field(converter=_number, default=0.2)
    field: Float[Array, ""] = eqx.field(converter=_number, default=0.0)

    @property
    def template(self) -> jax.ShapeDtypeStruct:
        """Spins."""
        return jax.ShapeDtypeStruct((self.side, self.side), jnp.dtype("int32"))

    @property
    def num_actions(self) -> int:
        """Spin down at each site, and spin up."""
        return 2 * self.side**2

    @property
    def max_length(self) -> int:
        """A move for each site."""
        return self.side**2

    def log_density(self, position: Int[Array, "L L"]) -> Float[Array, ""]:
        bonds = sum(jnp.sum(position * jnp.roll(position, 1, axis)) for axis in (0, 1))
        return self.coupling * bonds + self.field * jnp.sum(position)

    def partial_energy(self, state: Int[Array, "L L"]) -> Float[Array, ""]:
        """That of the bonds between spins that are placed."""
        return -self.log_density(state)

    def progress(self, state: Int[Array, "L L"]) -> Float[Array, ""]:
        """Share of the spins that are placed."""
        return jnp.mean(state != 0)

    def forward_mask(self, state: Int[Array, "L L"]) -> Bool[Array, " moves_and_stop"]:
        is_empty = state.reshape(-1) == 0
        return jnp.concatenate([is_empty, is_empty, ~jnp.any(is_empty)[None]])

    def backward_mask(self, state: Int[Array, "L L"]) -> Bool[Array, " moves"]:
        spins = state.reshape(-1)
        return jnp.concatenate([spins == -1, spins == 1])

    def apply(self, state: Int[Array, "L L"], action: Int[Array, ""]) -> Array:
        return self._set(state, action, jnp.where(action < self.side**2, -1, 1))

    def undo(self, state: Int[Array, "L L"], action: Int[Array, ""]) -> Array:
        return self._set(state, action, jnp.zeros((), jnp.int32))

    def _set(self, state: Array, action: Array, spin: Array) -> Array:
        site = action % self.side**2
        return state.at[site // self.side, site % self.side].set(spin.astype(state.dtype))

    def is_legal(self, state: Int[Array, "L L"]) -> Bool[Array, ""]:
        return jnp.all(jnp.abs(state) <= 1)

    def features(self, state: Int[Array, "L L"]) -> Float[Array, "sites 2"]:
        """A site a row: whether it is down, and whether it is up."""
        spins = state.reshape(-1)
        return jnp.stack([spins == -1, spins == 1], axis=1).astype(float)

    def log_num_paths(self, state: Int[Array, "L L"]) -> Float[Array, ""]:
        """Spins come in any order."""
        return gammaln(jnp.sum(state != 0) + 1.0)
