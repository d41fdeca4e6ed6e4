"""Underdamped Langevin dynamics, split into steps that are solved exactly, with or without a test.

    dz = p dt,   dp = A' grad log pi dt - g p dt + sqrt(2 g) dW,   x = A z,   A A' = M^-1

    A   z <- z + t p
    B   p <- p + t A' grad log pi(x)
    O   p <- c p + sqrt(1 - c^2) xi,   c = exp(-g t),   xi ~ N(0, I)

A splitting names the order in a step h; each letter takes its share of h. Momenta carry a chain
along for a time 1 / g before noise turns it, so that it needs some sqrt(condition number) steps
where an overdamped chain needs condition number. On N(0, s^2), with identity metric, the stationary
variances follow from the leapfrog's invariants:

                   position                      momentum
    BAOAB          s^2                           1 - h^2 / (4 s^2)                   [1]
    OBABO          s^2 / (1 - h^2 / (4 s^2))     1

for any damping g: BAOAB has the position right on every Gaussian, and on other targets a bias of
second order whose size vanishes with large g. Both explode where h > 2 s.

With the Metropolis test the target is left invariant for any step size, splitting and metric. The
test is on the work: the energy that B and A let in, for O leaves N(0, I) invariant by itself.

    W = H(end) - H(begin) - (kinetic energy that O put in)          (section 3 of [3])
    accept with probability min(1, exp(-W)); else stay, and turn the momentum around

Turning around undoes progress, so that acceptance has to be high: 0.9 is what warm-up aims at.

References
----------
.. [1] Leimkuhler and Matthews, "Rational construction of stochastic numerical methods for molecular
   sampling", Appl. Math. Res. eXpress 2013, arXiv:1203.5428.
.. [2] Bussi and Parrinello, "Accurate sampling using Langevin dynamics", Phys. Rev. E 75, 2007,
   arXiv:0803.4083. OBABO.
.. [3] Sivak, Chodera and Crooks, "Using nonequilibrium fluctuation theorems to understand and
   correct errors in equilibrium and nonequilibrium discrete Langevin dynamics simulations", Phys.
   Rev. X 3, 2013, arXiv:1107.2967.
.. [4] Horowitz, "A generalized guided Monte Carlo algorithm", Phys. Lett. B 268, 1991,
   doi:10.1016/0370-2693(91)90812-5. The test, and the turn, for OBABO.
"""

from typing import Any, ClassVar, Literal, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import random
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree

from ppl.energy import Energy, Position
from ppl.sampler import MarkovKernel, fraction, positive, where
from samplers.mcmc.hmc import kinetic_energy
from samplers.mcmc.metrics import as_metric
from samplers.mcmc.metropolis import ExactWithTest, accept, check_flag, illegal
from samplers.mcmc.windows import ONE_GRADIENT, WindowWarmUp, flag, optional, resolved, retuned

SPLITTINGS = ("BAOAB", "OBABO")
WARM_UP_DAMPING = 3.0  # at least: what the metric is learned from must not all be one orbit


class UnderdampedLangevinState(NamedTuple):
    """A position, with the log-density (nats) and its gradient there; the momentum of z, flat."""

    position: PyTree
    log_density: Float[Array, ""]
    gradient: PyTree
    momentum: Float[Array, " d"]


class UnderdampedLangevinInfo(NamedTuple):
    """What the test said, or would have said; ``energy`` is H where the step ended, in nats."""

    acceptance_rate: Float[Array, ""]
    is_accepted: Bool[Array, ""]
    diverging: Bool[Array, ""]
    energy: Float[Array, ""]
    num_evaluations: Int[Array, "2"]


def _splitting(value: Any) -> Any:
    if value not in SPLITTINGS:
        raise ValueError(f"splitting must be one of {', '.join(SPLITTINGS)}; got {value!r}")
    return value


class UnderdampedLangevin(MarkovKernel):
    """Underdamped Langevin dynamics: exact with its Metropolis test, biased without.

    Parameters
    ----------
    step_size
        The h above, in units of the metric (1 is a standard deviation of a target that the metric
        makes round); where warm-up starts from. None: ``d^(-1/4)``, until warm-up knows better.
    metric
        The A above: `Identity`, `Diagonal`, `Dense` or `LowRank` of `samplers.mcmc.metrics`. None:
        dense up to 200 dimensions, low rank beyond. Tuned in warm-up.
    damping
        The g above: momenta are forgotten over a time of ``1 / g``. Warm-up runs with 3 where this
        is less, for a chain that hardly turns shows little of a metric's errors.
    splitting
        ``"BAOAB"`` or ``"OBABO"``.
    metropolis
        Whether each step is tested. Without, nothing is ever rejected: BAOAB's bias is then of
        second order in the step size. Warm-up tests its steps all the same, for an untested chain
        with too long a step explodes before that is seen.
    target_acceptance
        Mean acceptance rate that warm-up tunes the step size to.

    Differences from the paper
    --------------------------
    A rejected step is rejected as a whole, the noise of O with it, in both splittings; [4] keeps
    the noise. A step to a density or gradient that is not a number is not taken, with the test or
    without, and is counted as a divergence.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"log_density", "gradient"})
    exactness: ClassVar[Any] = ExactWithTest()

    step_size: Any = optional(positive("step_size"))
    metric: Any = eqx.field(default=None, converter=as_metric)
    damping: Float[Array, ""] = positive("damping", default=1.0)
    splitting: Literal["BAOAB", "OBABO"] = eqx.field(
        static=True, default="BAOAB", converter=_splitting
    )
    metropolis: Any = eqx.field(static=True, default=True)
    target_acceptance: Float[Array, ""] = fraction("target_acceptance", default=0.9)
    tuning: Any = eqx.field(default=False, converter=flag)  # set by warm-up: steps are tested

    def __check_init__(self):
        check_flag(self.metropolis)

    def resolve(self, target: Energy) -> "UnderdampedLangevin":
        return resolved(self, target)

    def warmup(self, target: Energy) -> WindowWarmUp:
        return WindowWarmUp(self.target_acceptance, ONE_GRADIENT)

    def watch(self, state: UnderdampedLangevinState) -> PyTree:
        return state.gradient

    def init(
        self, rng_key: PRNGKeyArray, target: Energy, position: Position
    ) -> UnderdampedLangevinState:
        x, _ = ravel_pytree(position)
        momentum = random.normal(rng_key, x.shape, x.dtype)
        value, gradient = jax.value_and_grad(target.log_density)(position)
        return UnderdampedLangevinState(position, value, gradient, momentum)

    def step(
        self, rng_key: PRNGKeyArray, target: Energy, state: UnderdampedLangevinState
    ) -> tuple[UnderdampedLangevinState, UnderdampedLangevinInfo]:
        key_test, *keys = random.split(rng_key, 1 + self.splitting.count("O"))
        x, unravel = ravel_pytree(state.position)
        p, moved, heat = state.momentum, state, jnp.zeros((), state.momentum.dtype)
        h = self.step_size.astype(x.dtype)
        damping = jnp.where(
            self.tuning, jnp.maximum(self.damping, WARM_UP_DAMPING), self.damping
        ).astype(x.dtype)
        for place, letter in enumerate(self.splitting):
            t = h / self.splitting.count(letter)
            match letter:
                case "A":
                    x = x + t * self.metric.scale(p)
                    # The gradient is of use only where a B comes next.
                    if self.splitting[place + 1] == "B":
                        position = unravel(x)
                        value, gradient = jax.value_and_grad(target.log_density)(position)
                        moved = UnderdampedLangevinState(position, value, gradient, p)
                case "B":
                    p = p + t * self.metric.scale_transposed(ravel_pytree(moved.gradient)[0])
                case "O":
                    cooled = p
                    p = refreshed(keys.pop(), p, t * damping)
                    heat = heat + kinetic_energy(p) - kinetic_energy(cooled)
        moved = moved._replace(momentum=p)

        work = energy(moved) - energy(state) - heat
        diverging = illegal(moved.log_density, moved.gradient)
        stay = state._replace(momentum=-state.momentum)
        log_ratio = jnp.where(diverging, -jnp.inf, -work)
        chosen, rate, is_accepted = accept(key_test, log_ratio, moved, stay)
        if not self.metropolis:
            taken = ~diverging & jnp.isfinite(moved.log_density)
            is_accepted = jnp.where(self.tuning, is_accepted, taken)
            chosen, diverging = where(is_accepted, moved, stay), ~taken
        return chosen, UnderdampedLangevinInfo(
            rate, is_accepted, diverging, energy(chosen), jnp.ones(2, jnp.int32)
        )

    def retune(
        self, particles: Position, log_weights: Float[Array, " n"], info: Any, watched: Any = ()
    ) -> "UnderdampedLangevin":
        return retuned(self, particles, log_weights, info, watched)


def refreshed(
    rng_key: PRNGKeyArray, momentum: Float[Array, " d"], time: Float[Array, ""]
) -> Float[Array, " d"]:
    """O: the Ornstein-Uhlenbeck process over ``time`` units of damping, exactly."""
    noise = random.normal(rng_key, momentum.shape, momentum.dtype)
    return jnp.exp(-time) * momentum + jnp.sqrt(-jnp.expm1(-2 * time)) * noise


def energy(state: UnderdampedLangevinState) -> Float[Array, ""]:
    """H, in nats."""
    return kinetic_energy(state.momentum) - state.log_density
