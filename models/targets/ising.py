"""Ising model on a torus: discrete, with its log Z and exact draws by transfer matrices.

    log pi(s) = s' J s = 2 coupling sum_(bonds) s_i s_j,     s_i in {-1, +1},   J = coupling * A

A is the adjacency matrix of the torus, which holds each bond twice. Below the coupling
``log(1 + sqrt 2) / 4 = 0.2203`` spins are disordered; above, all of them point the same way, one of
two modes with half of the mass each.

With T(r, r') the weight of a row r and its bonds to the next one, 2^side by 2^side, log Z is
``log trace T^side``, and rows are drawn one after the other:

    P(r_1) ~ (T^side)(r_1, r_1)
    P(r_(k+1) | r_k, r_1) ~ T(r_k, r_(k+1)) (T^(side-k))(r_(k+1), r_1)

Positions are tokens, 0 for a spin down and 1 for one up, row by row.

References
----------
.. [1] Kramers and Wannier, "Statistics of the two-dimensional ferromagnet", Phys. Rev. 60, 1941,
   doi:10.1103/PhysRev.60.252.
.. [2] Onsager, "Crystal statistics I", Phys. Rev. 65, 1944, doi:10.1103/PhysRev.65.117.
"""

import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax, random
from jaxtyping import Array, Float, Int, PRNGKeyArray

from models.targets.known import Known

LONGEST = 12


def _side(value: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 3 <= value <= LONGEST:
        raise ValueError(
            f"side must be an integer from 3 to {LONGEST} (a row has 2^side states); got {value!r}"
        )
    return value


class Ising(Known):
    """Ising model on ``side`` by ``side`` sites of a torus.

    Parameters
    ----------
    side
        From 3 to 12.
    coupling
        The weight of an entry of the adjacency matrix; negative: neighbors repel.
    """

    side: int = eqx.field(converter=_side, static=True, default=10)
    coupling: Float[Array, ""] = eqx.field(converter=lambda x: jnp.asarray(x, float), default=0.1)

    @property
    def offers(self) -> frozenset[str]:
        return frozenset({"log_density", "sample", "log_normalizer"})

    @property
    def template(self) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((self.side**2,), jnp.int32)

    @property
    def modes(self) -> Int[Array, "2 sites"]:
        """All down and all up: the modes where neighbors attract."""
        return jnp.repeat(jnp.arange(2, dtype=jnp.int32)[:, None], self.side**2, axis=1)

    def spins(self, position: Int[Array, "*n sites"]) -> Int[Array, "*n side side"]:
        """Spins -1 and +1 on the lattice."""
        return (2 * position - 1).reshape(*position.shape[:-1], self.side, self.side)

    def log_density(self, position: Int[Array, " sites"]) -> Float[Array, ""]:
        s = self.spins(position)
        bonds = jnp.sum(s * (jnp.roll(s, -1, axis=0) + jnp.roll(s, -1, axis=1)))
        return 2 * self.coupling * bonds

    @property
    def _rows(self) -> np.ndarray:
        """All states of a row, as tokens."""
        return np.array(list(itertools.product([0, 1], repeat=self.side)), np.int32)

    @property
    def _log_transfer(self) -> Float[Array, "states states"]:
        """Symmetric form: half of the weight of each of the two rows, and the bonds in between."""
        r = jnp.asarray(2 * self._rows - 1, self.coupling.dtype)
        inside = jnp.sum(r * jnp.roll(r, -1, axis=1), axis=1)
        return 2 * self.coupling * ((inside[:, None] + inside) / 2 + r @ r.T)

    @property
    def log_normalizer(self) -> Float[Array, ""]:
        log_transfer = self._log_transfer
        top = jnp.max(log_transfer)
        eigenvalues = jnp.linalg.eigvalsh(jnp.exp(log_transfer - top))
        largest = jnp.max(jnp.abs(eigenvalues))
        trace = jnp.sum((eigenvalues / largest) ** self.side)  # negative ones keep their sign
        return self.side * (top + jnp.log(largest)) + jnp.log(trace)

    def sample(self, rng_key: PRNGKeyArray, n: int) -> Int[Array, "n sites"]:
        key_first, key_rest = random.split(rng_key)
        log_transfer = self._log_transfer
        transfer = jnp.exp(log_transfer - jnp.max(log_transfer))

        def times(power: Array, _: None) -> tuple[Array, Array]:
            product = jnp.matmul(power, transfer, precision="highest")
            return product / jnp.max(product), power

        # T^1, .., T^(side - 1), each up to a factor; then T^side.
        last, powers = lax.scan(times, transfer / jnp.max(transfer), None, length=self.side - 1)
        first = random.categorical(key_first, jnp.log(jnp.diagonal(last)), shape=(n,), mode="high")

        def next_row(row: Array, step: tuple[Array, Array]) -> tuple[Array, Array]:
            key, power = step
            logits = log_transfer[row] + jnp.log(power[first])  # the powers are symmetric
            row = random.categorical(key, logits, mode="high")
            return row, row

        keys = random.split(key_rest, self.side - 1)
        _, rows = lax.scan(next_row, first, (keys, powers[::-1]))
        rows = jnp.concatenate([first[None], rows])
        return jnp.asarray(self._rows)[rows.T].reshape(n, self.side**2)
