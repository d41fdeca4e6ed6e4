"""Mirror Langevin algorithm (MLA): steps in the image of a mirror map.

    y = grad phi(x) + h grad log pi(x) + sqrt(2 h) H(x)^(1/2) xi,   xi ~ N(0, I)
    x' = (grad phi)^-1(y),   H = Hess phi                                                        [1]

The step of `ULA`, taken where the mirror map phi has stretched the space: a barrier keeps draws
inside their bounds, a hyperbolic map takes short steps near a kink and long ones in the tails. It
needs a gradient, and a mirror map whose domain holds the target's support. Biased, of first order
in h. With the quadratic map it is ULA. With the barrier ``-log x`` it is a linear recursion for
``v = 1 / x`` on a Gamma density of shape k,

    v' = v (1 - h (k - 1) - sqrt(2 h) xi) + h

whose mean ``1 / (k - 1)`` has no bias, while ``E v^2 = (2 / a - h) / (2 (a - 1) - h a^2)``, with
``a = k - 1``, where it should be ``1 / (a (a - 1))``. `BregmanLangevin` tests such steps, and takes
kinks as well.

References
----------
.. [1] Zhang, Peyre, Fadili and Pereyra, "Wasserstein control of mirror Langevin Monte Carlo", COLT
   2020, arXiv:2002.04363.
.. [2] Li, Tao, Vempala and Wibisono, "The mirror Langevin algorithm converges with vanishing bias",
   ALT 2022, arXiv:2109.12077.
"""

from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree

from ppl.energy import Energy, Position
from ppl.sampler import Exactness, MarkovKernel, positive, where
from samplers.langevin import mirror_maps
from samplers.mcmc.metropolis import all_finite


class MirrorLangevinState(NamedTuple):
    """A position, with the log-density (nats) and its gradient there."""

    position: PyTree
    log_density: Float[Array, ""]
    gradient: PyTree


class MirrorLangevinInfo(NamedTuple):
    """Whether the step led out of the domain or to no finite density, and was not taken."""

    diverging: Bool[Array, ""]
    num_evaluations: Int[Array, "2"]


class MirrorLangevin(MarkovKernel):
    """Mirror Langevin algorithm: biased, of first order in the step size.

    Parameters
    ----------
    mirror
        The phi above: `Euclidean`, `Hyperbolic`, `LogBarrier`, `BoxBarrier`, or a
        `MirrorMap` of your own; a pytree like the position has one for each part.
    step_size
        The h above, in the units of phi. There is no default and no warm-up: the step size decides
        the bias.

    Raises
    ------
    TargetError
        If the map does not fit the position, or its domain does not hold the start; before
        compilation.

    Differences from the paper
    --------------------------
    A step out of the map's range, or to a density or gradient that is not finite, is not taken, and
    is counted as a divergence.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"log_density", "gradient"})
    exactness: ClassVar[Exactness] = "biased"

    mirror: Any = eqx.field(converter=mirror_maps.as_maps("mirror"))
    step_size: Float[Array, ""] = positive("step_size")

    def check(self, target: Energy) -> None:
        mirror_maps.check_fit("MirrorLangevin", "mirror", self.mirror, target)

    def check_start(self, target: Energy, positions: Position | None) -> None:
        mirror_maps.check_start("MirrorLangevin", self.mirror, target, positions)

    def init(
        self, rng_key: PRNGKeyArray, target: Energy, position: Position
    ) -> MirrorLangevinState:
        return MirrorLangevinState(position, *jax.value_and_grad(target.log_density)(position))

    def step(
        self, rng_key: PRNGKeyArray, target: Energy, state: MirrorLangevinState
    ) -> tuple[MirrorLangevinState, MirrorLangevinInfo]:
        noise = optax.tree.random_like(rng_key, state.position)
        position = moved(self.mirror, self.step_size, state.position, state.gradient, noise)
        proposed = self.init(rng_key, target, position)
        finite = is_inside(self.mirror, position) & all_finite(proposed)
        evaluations = jnp.array([1, 1], jnp.int32)
        return where(finite, proposed, state), MirrorLangevinInfo(~finite, evaluations)


def moved(
    maps: PyTree, step_size: Float[Array, ""], position: Position, drift: PyTree, noise: PyTree
) -> Position:
    """A step from ``position`` in the image, and back."""
    heat = mirror_maps.root(mirror_maps.hessian(maps, position), noise)

    def move(y: Array, s: Array, xi: Array) -> Array:
        return (y + step_size * s + jnp.sqrt(2 * step_size) * xi).astype(y.dtype)

    image = jax.tree.map(move, mirror_maps.gradient(maps, position), drift, heat)
    return mirror_maps.inverse(maps, image)


def is_inside(maps: PyTree, position: Position) -> Bool[Array, ""]:
    """Whether a chain may stand here; on the border, where rounding leads, it could not move."""
    image, curvature = mirror_maps.gradient(maps, position), mirror_maps.hessian(maps, position)
    return all_finite((image, curvature))
