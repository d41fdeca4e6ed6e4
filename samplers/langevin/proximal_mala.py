"""Proximal Metropolis-adjusted Langevin algorithm (P-MALA), for densities with kinks and walls.

    log pi(x) = log p(x) - g(x),   p smooth, g convex
    y = x + h s(x) + sqrt(2 h) xi,   s(x) = grad log p(x) - (x - prox(x, lam)) / lam
    accept with probability min(1, pi(y) q(y, x) / (pi(x) q(x, y)))

A step of `MYULA` proposes, and a Metropolis test with the target itself corrects: exact for any
step size and any smoothing lam, and inside a constraint at every draw. With lam = h, the default, a
proposal without noise is ``prox(x, h) + h grad log p(x)``. Where the tails are lighter than those
of a Gaussian, `MALA` may stand still far out; the proximal map brings this chain in.

References
----------
.. [1] Pereyra, "Proximal Markov chain Monte Carlo algorithms", Stat. Comput. 26, 2016,
   doi:10.1007/s11222-015-9567-4. Section 3.2: P-MALA, with prox of ``g - log p`` as a whole.
.. [2] Durmus, Moulines and Pereyra, "Efficient Bayesian computation by proximal Markov chain Monte
   Carlo: when Langevin meets Moreau", SIAM J. Imaging Sci. 11, 2018, arXiv:1612.07471. Section 4:
   the same test on the proposal of MYULA.
"""

from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax.numpy as jnp
from jax import random
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree

from ppl.energy import Energy, Position
from ppl.sampler import Exactness, MarkovKernel, fraction, positive
from samplers.langevin.mala import log_way_back
from samplers.langevin.myula import smoothed
from samplers.mcmc.metropolis import accept, illegal
from samplers.mcmc.step_size import StepSizeWarmUp, adjusted
from samplers.mcmc.windows import optional


class ProximalMALAState(NamedTuple):
    """A position, the target's log-density (nats), and the s above, which drives proposals."""

    position: PyTree
    log_density: Float[Array, ""]
    gradient: PyTree


class ProximalMALAInfo(NamedTuple):
    """What the Metropolis test said; ``diverging`` where the proposal has no density."""

    acceptance_rate: Float[Array, ""]
    is_accepted: Bool[Array, ""]
    diverging: Bool[Array, ""]
    num_evaluations: Int[Array, "2"]


class ProximalMALA(MarkovKernel):
    """Proximal Metropolis-adjusted Langevin algorithm: exact.

    The target is made by `ppl.composite`, which says what p and g are. A draw costs one gradient
    and one proximal map.

    Parameters
    ----------
    step_size
        The h above, in squared units of the position; where warm-up starts from.
    smoothing
        The lam above, in the same units. None: the step size, whatever it is tuned to.
    target_acceptance
        Mean acceptance rate that warm-up tunes the step size to. MALA's; [1] advises 0.4 to 0.6.

    Differences from the paper
    --------------------------
    The papers step by h / 2 of the gradient with noise sqrt(h); our h is half of theirs. A
    proposal whose density or gradient is not a number is rejected and counted as a divergence; one
    that violates a constraint has density zero and is rejected.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"log_density", "gradient", "proximal_map"})
    exactness: ClassVar[Exactness] = "exact"

    step_size: Float[Array, ""] = positive("step_size", default=0.1)
    smoothing: Any = optional(positive("smoothing"))
    target_acceptance: Float[Array, ""] = fraction("target_acceptance", default=0.574)

    def warmup(self, target: Energy) -> StepSizeWarmUp:
        return StepSizeWarmUp(target_acceptance=self.target_acceptance)

    def init(self, rng_key: PRNGKeyArray, target: Energy, position: Position) -> ProximalMALAState:
        smoothing = self.step_size if self.smoothing is None else self.smoothing
        return ProximalMALAState(position, *smoothed(target, position, smoothing))

    def step(
        self, rng_key: PRNGKeyArray, target: Energy, state: ProximalMALAState
    ) -> tuple[ProximalMALAState, ProximalMALAInfo]:
        key_noise, key_accept = random.split(rng_key)
        x, unravel = ravel_pytree(state.position)
        h = self.step_size.astype(x.dtype)
        drift, _ = ravel_pytree(state.gradient)
        noise = random.normal(key_noise, x.shape, x.dtype)
        proposed = self.init(rng_key, target, unravel(x + h * drift + jnp.sqrt(2 * h) * noise))

        log_q_ratio = log_way_back(noise, drift, ravel_pytree(proposed.gradient)[0], h)
        log_ratio = proposed.log_density - state.log_density + log_q_ratio

        diverging = illegal(proposed.log_density, proposed.gradient)
        log_ratio = jnp.where(diverging, -jnp.inf, log_ratio)
        state, acceptance_rate, is_accepted = accept(key_accept, log_ratio, proposed, state)
        evaluations = jnp.array([1, 1], jnp.int32)
        return state, ProximalMALAInfo(acceptance_rate, is_accepted, diverging, evaluations)

    def retune(
        self, particles: Position, log_weights: Float[Array, " n"], info: Any, watched: Any = ()
    ) -> "ProximalMALA":
        step_size = adjusted(self.step_size, info, self.target_acceptance)
        return eqx.tree_at(lambda k: k.step_size, self, step_size)
