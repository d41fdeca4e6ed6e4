"""Bregman-Moreau unadjusted mirror-Langevin algorithm (BMUMLA), and its Metropolised form.

    log pi(x) = log p(x) - g(x),   p smooth, g convex,   H = Hess phi
    y = grad phi(x) + h s(x) + sqrt(2 h) H(x)^(1/2) xi,   x' = (grad phi)^-1(y)        [1]
    s(x) = grad log p(x) - grad g_lam(x)

`MirrorLangevin` for densities with kinks and walls: g gives way to its envelope under the Bregman
divergence D of another mirror map psi, from the left or from the right,

    left   g_lam(x) = min_z g(z) + D(z, x) / lam,  grad g_lam(x) = Hess psi(x) (x - z) / lam
    right  g_lam(x) = min_z g(z) + D(x, z) / lam,  grad g_lam(x) = (grad psi(x) - grad psi(z)) / lam

with z the minimizer. Where phi and psi are quadratic, both are `MYULA`, step by step. Where they
are hyperbolic, of the scale of each coordinate, one step size serves coordinates of all scales.

With the Metropolis test, the default, the target itself is left invariant for any step size, any
smoothing and any maps:

    accept with probability min(1, pi(x') q(x', x) / (pi(x) q(x, x')))
    q(x, x') = N(y; grad phi(x) + h s(x), 2 h H(x)) det H(x')

The determinant is that of the map from x' to its image y. Without the test the chain is biased
twice, by the smoothing and by the steps; both biases are of first order.

References
----------
.. [1] Lau and Liu, "Bregman proximal Langevin Monte Carlo via Bregman-Moreau envelopes", ICML 2022,
   arXiv:2207.04387. Section 4: the algorithms, left and right.
.. [2] Srinivasan, Wibisono and Wilson, "Fast sampling from constrained spaces using the
   Metropolis-adjusted mirror Langevin algorithm", COLT 2024, arXiv:2312.08823. The test.
"""

from typing import Any, ClassVar, Literal, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jax import random
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree

from ppl.energy import Energy, Position
from ppl.proximal import ProximalMap
from ppl.sampler import MarkovKernel, fraction, positive, where
from ppl.template import float_dtype
from samplers.langevin import mirror_maps
from samplers.langevin.mirror import is_inside, moved
from samplers.langevin.mirror_maps import MirrorMap
from samplers.langevin.myula import SMOOTHING, is_usable
from samplers.mcmc.metropolis import ExactWithTest, accept, check_flag, illegal
from samplers.mcmc.step_size import StepSizeWarmUp, adjusted
from samplers.mcmc.windows import optional


class BregmanLangevinState(NamedTuple):
    """A position, the target's log-density (nats), and the s above, which drives the chain."""

    position: PyTree
    log_density: Float[Array, ""]
    gradient: PyTree


class BregmanLangevinInfo(NamedTuple):
    """What the test said, or would have said; ``diverging`` where a step has no density."""

    acceptance_rate: Float[Array, ""]
    is_accepted: Bool[Array, ""]
    diverging: Bool[Array, ""]
    num_evaluations: Int[Array, "2"]


def _geometry(value: Any) -> Any:
    return None if value is None else mirror_maps.as_maps("geometry")(value)


def _side(value: Any) -> Any:
    if value not in ("left", "right"):
        raise ValueError(f"side must be 'left' or 'right'; got {value!r}")
    return value


class BregmanLangevin(MarkovKernel):
    """Bregman-Moreau mirror Langevin: exact with its Metropolis test, biased without.

    The target is made by `ppl.composite`, which says what p and g are. A draw costs one gradient
    and one proximal map.

    Parameters
    ----------
    mirror
        The phi above: `Euclidean`, `Hyperbolic`, `LogBarrier`, `BoxBarrier`, or a `MirrorMap` of
        your own; a pytree like the position has one for each part.
    step_size
        The h above, in the units of phi; where warm-up starts from, 0.1 by default. Without the
        test there is no warm-up and no default: the step size decides the bias.
    smoothing
        The lam above, in the units of psi. None: ``4 step_size``, whatever it is tuned to.
    geometry
        The psi above, which must know its proximal map of g: `Euclidean` knows all, `Hyperbolic`
        those of `L1` and `Box`. None: phi.
    side
        ``"left"`` or ``"right"``, the envelope.
    metropolis
        Whether each step is tested.
    target_acceptance
        Mean acceptance rate that warm-up tunes the step size to.

    Raises
    ------
    TargetError
        If a map does not fit the position, knows no proximal map of g, or its domain does not hold
        the start; before compilation.

    Differences from the paper
    --------------------------
    The paper has no test. Without it, a step out of the map's range, or to a density or gradient
    of p that is not finite, is not taken; with it, such a step is rejected; both are counted as
    divergences.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"log_density", "gradient", "proximal_map"})
    exactness: ClassVar[Any] = ExactWithTest()

    mirror: Any = eqx.field(converter=mirror_maps.as_maps("mirror"))
    step_size: Any = optional(positive("step_size"))
    smoothing: Any = optional(positive("smoothing"))
    geometry: Any = eqx.field(default=None, converter=_geometry)
    side: Literal["left", "right"] = eqx.field(static=True, default="right", converter=_side)
    metropolis: Any = eqx.field(static=True, default=True)
    target_acceptance: Float[Array, ""] = fraction("target_acceptance", default=0.574)

    def __check_init__(self):
        check_flag(self.metropolis)
        if not self.metropolis and self.step_size is None:
            raise ValueError(
                "step_size must be given where metropolis=False: without the test it decides the "
                "bias, and no warm-up tunes it"
            )

    @property
    def _geometry(self) -> PyTree:
        return self.mirror if self.geometry is None else self.geometry

    def check(self, target: Energy) -> None:
        name = type(self).__name__
        mirror_maps.check_fit(name, "mirror", self.mirror, target)
        mirror_maps.check_fit(name, "geometry", self._geometry, target)
        # Raises where a map knows no proximal map of g.
        one, side = jnp.ones(()), self.side
        pull = lambda x: envelope_gradient(self._geometry, target, x, one, side)
        jax.eval_shape(pull, target.template)

    def check_start(self, target: Energy, positions: Position | None) -> None:
        name = type(self).__name__
        mirror_maps.check_start(name, self.mirror, target, positions)
        mirror_maps.check_start(name, self._geometry, target, positions)

    def resolve(self, target: Energy) -> "BregmanLangevin":
        if self.step_size is not None:
            return self
        step_size = jnp.asarray(0.1, float_dtype(target.template))
        return eqx.tree_at(lambda k: k.step_size, self, step_size, is_leaf=lambda x: x is None)

    def warmup(self, target: Energy) -> StepSizeWarmUp | None:
        return StepSizeWarmUp(target_acceptance=self.target_acceptance) if self.metropolis else None

    def init(
        self, rng_key: PRNGKeyArray, target: Energy, position: Position
    ) -> BregmanLangevinState:
        composite: Any = target
        log_p, gradient = jax.value_and_grad(composite.smooth.log_density)(position)
        lam = SMOOTHING * self.step_size if self.smoothing is None else self.smoothing
        pull = envelope_gradient(self._geometry, target, position, lam, self.side)
        drift = jax.tree.map(jnp.subtract, gradient, pull)
        return BregmanLangevinState(position, log_p - composite.regularization(position), drift)

    def step(
        self, rng_key: PRNGKeyArray, target: Energy, state: BregmanLangevinState
    ) -> tuple[BregmanLangevinState, BregmanLangevinInfo]:
        key_noise, key_accept = random.split(rng_key)
        noise = optax.tree.random_like(key_noise, state.position)
        position = moved(self.mirror, self.step_size, state.position, state.gradient, noise)
        proposed = self.init(rng_key, target, position)

        log_q_ratio = self._log_q(proposed, state) - self._log_q(state, proposed)
        log_ratio = proposed.log_density - state.log_density + log_q_ratio
        inside = is_inside(self.mirror, position)
        diverging = illegal(proposed.log_density, proposed.gradient) | ~inside
        log_ratio = jnp.where(diverging, -jnp.inf, log_ratio)
        chosen, rate, is_accepted = accept(key_accept, log_ratio, proposed, state)
        if not self.metropolis:
            is_accepted = inside & is_usable(proposed)
            chosen, diverging = where(is_accepted, proposed, state), ~is_accepted
        evaluations = jnp.array([1, 1], jnp.int32)
        return chosen, BregmanLangevinInfo(rate, is_accepted, diverging, evaluations)

    def retune(
        self, particles: Position, log_weights: Float[Array, " n"], info: Any, watched: Any = ()
    ) -> "BregmanLangevin":
        step_size = adjusted(self.step_size, info, self.target_acceptance)
        return eqx.tree_at(lambda k: k.step_size, self, step_size)

    def _log_q(self, start: BregmanLangevinState, end: BregmanLangevinState) -> Float[Array, ""]:
        """Log-density of the proposal from ``start``, at ``end``."""
        h, maps = self.step_size, self.mirror
        curvature = mirror_maps.hessian(maps, start.position)

        def standardized(image: Array, mean: Array, drift: Array) -> Array:
            return ((image - mean - h * drift) / jnp.sqrt(2 * h)).astype(image.dtype)

        images = (mirror_maps.gradient(maps, state.position) for state in (end, start))
        away = jax.tree.map(standardized, *images, start.gradient)
        noise = mirror_maps.solved(curvature, away)
        squares = optax.tree.norm(noise, squared=True)
        log_normal = -(squares + mirror_maps.log_det(curvature, start.position)) / 2
        return log_normal + log_jacobian(maps, end.position)


def envelope_gradient(
    geometry: PyTree, target: Any, position: Position, smoothing: Float[Array, ""], side: str
) -> PyTree:
    """``grad g_lam``, part by part, by the formula of its side."""

    def one(mirror: MirrorMap, x: Array, regularizer: ProximalMap | None) -> Array:
        lam = jnp.asarray(smoothing, x.dtype)
        if regularizer is None:
            return jnp.zeros_like(x)
        if side == "left":
            away = x - mirror.left_prox(regularizer, x, lam)
            return mirror_maps.times(mirror.hessian(x), away / lam)
        nearest = mirror.right_prox(regularizer, x, lam)
        return (mirror.gradient(x) - mirror.gradient(nearest)) / lam

    return mirror_maps.each(one, geometry, position, target.regularizers)


def log_jacobian(maps: PyTree, position: Position) -> Float[Array, ""]:
    """Log of the volume that the image of a neighborhood has, to that of the neighborhood."""
    return mirror_maps.log_det(mirror_maps.hessian(maps, position), position)
