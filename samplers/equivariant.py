"""A network on clouds of particles that turns as they turn: one cloud in, one out.

    m_ij = F(h_i, h_j, |x_i - x_j|, t)                                          ([1], eq. 3)
    x_i  <- x_i + sum_j (x_i - x_j) / (|x_i - x_j| + 1) a(m_ij) / (P - 1)       (eq. 4)
    h_i  <- h_i + H(h_i, sum_j m_ij)                                            (eqs. 5 and 6)

a few times; what comes back is how far the particles went, less its mean. All particles are alike,
so h begins as zero. A rotation or reflection of the cloud, or another order of its particles, is
one of what comes back, and a shift does not matter. A sampler whose control is such a network has
these symmetries in its law, whatever it has learned, and need not learn them; the gradient of the
target beside it has them too (``turns``, `samplers.trajectory.control`), but where it is clipped.

References
----------
.. [1] Satorras, Hoogeboom and Welling, "E(n) equivariant graph neural networks", ICML 2021,
   arXiv:2102.09844.
"""

import math
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import scipy.linalg
from jax import random
from jaxtyping import Array, Float, PRNGKeyArray

from samplers.networks import Embedding, checked, require_point, zeroed

SMALLEST = 1e-6  # squared distance, in the root, whose slope at 0 is infinite


def _along(linear: eqx.nn.Linear, h: Float[Array, "*rows in"]) -> Float[Array, "*rows out"]:
    """The linear map of every row."""
    return h @ linear.weight.T + (0 if linear.bias is None else linear.bias)


class _Round(eqx.Module):
    """Messages, and what they make of positions and of features."""

    told: dict[str, eqx.nn.Linear]
    message: eqx.nn.Linear
    gates: tuple[eqx.nn.Linear, eqx.nn.Linear]
    features: tuple[eqx.nn.Linear, eqx.nn.Linear]

    def __init__(self, rng_key: PRNGKeyArray, width: int, dtype: Any) -> None:
        keys = iter(random.split(rng_key, 9))

        def linear(num_in: int, num_out: int = width, **options: bool) -> eqx.nn.Linear:
            return eqx.nn.Linear(num_in, num_out, key=next(keys), dtype=dtype, **options)

        self.told = {
            "here": linear(width),
            "there": linear(width, use_bias=False),
            "distance": linear(2, use_bias=False),
            "time": linear(width, use_bias=False),
        }
        self.message = linear(width)
        self.gates = linear(width), zeroed(linear(width, 1))
        self.features = linear(2 * width), linear(width)

    def __call__(
        self, x: Float[Array, "particles space"], h: Float[Array, "particles width"], e: Array
    ) -> tuple[Float[Array, "particles space"], Float[Array, "particles width"]]:
        apart = x[:, None] - x
        squared = jnp.sum(apart**2, axis=-1, keepdims=True)
        distance = jnp.sqrt(squared + SMALLEST)
        told = {
            "here": h[:, None],
            "there": h[None],
            "distance": jnp.concatenate([distance, squared], axis=-1),
            "time": e,
        }
        m = jax.nn.silu(sum(_along(linear, told[name]) for name, linear in self.told.items()))
        m = jax.nn.silu(_along(self.message, m))
        gate = _along(self.gates[1], jax.nn.silu(_along(self.gates[0], m)))
        x = x + jnp.sum(apart / (distance + 1) * gate, axis=1) / (len(x) - 1)
        others = 1 - jnp.eye(len(x), dtype=x.dtype)
        heard = jnp.concatenate([h, jnp.einsum("ij,ijw->iw", others, m)], axis=-1)
        return x, h + _along(self.features[1], jax.nn.silu(_along(self.features[0], heard)))


class EGNN(eqx.Module):
    """Equivariant network ``network(x, t, condition)`` on particles; it begins as zero.

    Parameters
    ----------
    rng_key
        Key of the initial values.
    shape
        Of one cloud: its particles, (particles, space), or coordinates of the space where their
        mean is zero, (particles - 1, space), in the basis of `models.targets.particles`
        (Helmert's); or of either in a row, as the control of a sampler has them.
    num_particles, num_space
        How many particles, and the dimension they live in.
    width, depth
        Numbers in a message, and rounds of messages.
    timed, num_classes, dtype
        As those of `MLP`.

    Raises
    ------
    ValueError
        For a shape that is no such cloud; when called, as `MLP`.

    Differences from the paper
    --------------------------
    Messages see the distance beside its square. Pulls are divided by the distance and 1, as in the
    authors' code, and by the number of others.
    """

    turns: ClassVar[bool] = True

    shape: tuple[int, ...] = eqx.field(static=True)
    num_particles: int = eqx.field(static=True)
    num_space: int = eqx.field(static=True)
    width: int = eqx.field(static=True)
    embedding: Embedding
    rounds: tuple[_Round, ...]

    def __init__(
        self,
        rng_key: PRNGKeyArray,
        shape: tuple[int, ...],
        *,
        num_particles: int,
        num_space: int,
        width: int = 64,
        depth: int = 3,
        timed: bool = True,
        num_classes: int = 0,
        dtype: Any = None,
    ) -> None:
        dtype = jnp.result_type(float) if dtype is None else dtype
        self.shape, size = tuple(shape), math.prod(shape)
        self.num_particles = checked("num_particles", num_particles, 2)
        self.num_space = checked("num_space", num_space, 1)
        self.width = checked("width", width, 1)
        checked("depth", depth, 1)
        checked("num_classes", num_classes, 0)
        if size not in (num_particles * num_space, (num_particles - 1) * num_space):
            raise ValueError(
                f"a cloud of {num_particles} particles in dimension {num_space} has "
                f"{num_particles * num_space} coordinates, or {(num_particles - 1) * num_space} "
                f"where its mean is zero; got the shape {self.shape}"
            )
        key, *keys = random.split(rng_key, 1 + depth)
        self.embedding = Embedding(key, width, timed=timed, num_classes=num_classes, dtype=dtype)
        self.rounds = tuple(_Round(key, width, dtype) for key in keys)

    def __call__(self, x: Array, t: Any = None, condition: Any = None) -> Array:
        require_point(self, x)
        e = self.embedding(t, condition)
        e = jnp.zeros(self.width, x.dtype) if e is None else e
        cloud = x.reshape(-1, self.num_space)
        basis = jnp.asarray(scipy.linalg.helmert(self.num_particles), x.dtype)
        is_free = len(cloud) < self.num_particles
        first = now = jnp.matmul(basis.T, cloud, precision="highest") if is_free else cloud
        h = jnp.zeros((self.num_particles, self.width), x.dtype)
        for each in self.rounds:
            now, h = each(now, h, e)
        moved = jnp.matmul(basis, now - first, precision="highest")
        if not is_free:
            moved = jnp.matmul(basis.T, moved, precision="highest")
        return moved.reshape(self.shape)
