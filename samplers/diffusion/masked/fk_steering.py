"""Feynman-Kac steering of masked diffusion: sequences resampled by the reward they promise.

    target     p(x_0) exp(r(x_0)) / Z,    r = strength * reward
    moves      reveals of the masked law p, `samplers.diffusion.masked.reveals`
    weights    prod_t G_t = exp(r(x_0)),  r_t = r(the tokens so far, the likeliest for the others),
               or a value function of the user's

with the potentials of `samplers.diffusion.steering.potentials`, the difference
``log G_t = r_t - r_(t+1)`` unless another is named. Weights are carried where nothing is resampled,
rewards need no gradient, and Z is unbiased for E_p[exp(r)]. Asymptotically exact in the number of
particles: as long as tokens are revealed one at a time there is no error of a solver.

References
----------
.. [1] Singhal et al., "A general framework for inference-time scaling and steering of diffusion
   models", ICML 2025, arXiv:2501.06848. Section 3 and algorithm 1.
"""

from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from ppl.energy import Energy
from ppl.sampler import Exactness, share, size, where
from samplers.diffusion.masked.reveals import Reveal, Revealed, RevealModel, SteeredReveals
from samplers.diffusion.steering.potentials import Potential, check_potential, potential_of


class MaskedFKModel(RevealModel):
    """Reveals, weighed by a potential after some of them and after the last."""

    target: Any
    value: Any
    tokens_per_step: int = eqx.field(static=True)
    potentials: Potential
    every: int = eqx.field(static=True)

    def begin(self, zeros: Float[Array, " n"]) -> PyTree:
        return jax.vmap(self.potentials.init)(zeros)

    def advance(
        self, rng_key: PRNGKeyArray, particles: Revealed, row: Reveal
    ) -> tuple[Revealed, Float[Array, " n"]]:
        after = self.moved(rng_key, particles)
        rewards = self.promised(after, row)
        paid = jax.vmap(self.potentials, (0, 0, None))(particles.memory, rewards, row.is_last)
        idle = jnp.zeros_like(rewards), particles.memory
        acts = row.is_last | ((row.index + 1) % self.every == 0)
        log_g, memory = where(acts, paid, idle)
        return after._replace(memory=memory), log_g


class MaskedFKSteering(SteeredReveals):
    """Feynman-Kac steering of masked diffusion: asymptotically exact, with the evidence.

    The target is a reward, ``ppl.tilt(prior, reward)``, on a `MaskedPrior` or whatever else offers
    ``unmask``. ``num_evaluations`` counts rewards as log-densities and calls of ``unmask`` as
    gradients.

    Parameters
    ----------
    num_particles
        Size of the population.
    potential
        ``"difference"``, ``"max"``, ``"sum"`` or a `Potential` of your own.
    value
        ``value(tokens) -> scalar`` of tokens and masks, in place of the reward of the likeliest
        tokens: an approximation of log E[exp(r(x_0)) | tokens]; a module, if it has parameters.
    every
        Steps from one potential to the next; there is one after the last step in any case.
    tokens_per_step
        Tokens revealed in a step, each by itself; with more than one the law that is steered is
        that of ``FirstHitting(tokens_per_call=...)``.
    resample_below
        Resample where the effective sample size is at most this share of the particles; 1: always.
    resampling
        ``"stratified"``, ``"systematic"``, ``"multinomial"``, ``"residual"`` or ``"ssp"``.

    Raises
    ------
    TargetError
        For a target that is no reward on a masked law, or a reward that is NaN.
    ValueError
        For potentials that do not multiply to the reward.

    Differences from the paper
    --------------------------
    As `FKSteering`: weights are carried, and the last potential settles.
    """

    exactness: ClassVar[Exactness] = "asymptotically exact"

    num_particles: int = size("num_particles", default=1024)
    potential: Any = "difference"
    value: Any = None
    every: int = size("every", default=1)
    tokens_per_step: int = size("tokens_per_step", default=1)
    resample_below: Float[Array, ""] = share("resample_below", default=0.5)
    resampling: str = eqx.field(static=True, default="stratified")
    length: int | None = eqx.field(static=True, default=None)

    def __check_init__(self) -> None:
        SteeredReveals.__check_init__(self)
        potential_of(self.potential)

    def check(self, target: Energy) -> None:
        check_potential(potential_of(self.potential))
        SteeredReveals.check(self, target)

    def on_levels(self, target: Any) -> MaskedFKModel:
        return MaskedFKModel(  # pyright: ignore[reportCallIssue]
            target=target, value=self.value, tokens_per_step=self.tokens_per_step,
            potentials=potential_of(self.potential), every=self.every,
        )  # fmt: skip
