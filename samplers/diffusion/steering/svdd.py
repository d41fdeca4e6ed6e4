"""Soft value-based decoding (SVDD): at each step the best of a few moves, by chance.

    c_1..c_M ~ p(. | x_t),    x_(t-1) = c_j with probability ~ exp(v_(t-1)(c_j))

v is what a point promises: the reward of its denoised value (SVDD-PM), or a value function of the
user's, learned by regression say (SVDD-MC). Particles do not meet; there are no gradients. With
the soft value, v_t(x) = log E[exp(r(x_0)) | x_t = x], the draws are those of the tilted prior as M
grows, with an error that falls as 1 / M; with any other v they are not. Biased, in either case. A
draw costs M plain ones.

`NestedSVDD` mends both by weights.

References
----------
.. [1] Li et al., "Derivative-free guidance in continuous and discrete diffusion models with soft
   value-based decoding", 2024, arXiv:2408.08252. Algorithm 1; sections 4.1 and 4.2.
"""

from typing import Any, ClassVar, cast

import equinox as eqx
import jax.numpy as jnp
from jax import random
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from ppl.sampler import Exactness, size
from samplers.diffusion.rules import Plain, Rule
from samplers.diffusion.sampler import Silent
from samplers.diffusion.schedules import EDMSchedule
from samplers.diffusion.steering.candidates import chosen, repeated
from samplers.diffusion.steering.chain import Particle, Plan, ReverseChain, SolverModel, Step
from samplers.diffusion.steering.sampler import ReverseSDE, Steered
from samplers.diffusion.steering.values import promised


class SVDDModel(SolverModel):
    """The reverse chain with the choice among candidates in each move."""

    chain: ReverseChain
    target: Any
    value: Any
    num_candidates: int = eqx.field(static=True)
    nested: bool = eqx.field(static=True)
    rule: Rule = eqx.field(default_factory=Plain)

    def begin(self, particle: Particle) -> tuple[PyTree, Float[Array, " n"]]:
        zeros = jnp.zeros(len(particle.x), particle.x.dtype)
        return zeros, zeros

    def advance(
        self, rng_key: PRNGKeyArray, particles: Particle, row: Step
    ) -> tuple[Particle, Float[Array, " n"]]:
        key_move, key_choice = random.split(rng_key)
        each = repeated(particles, self.num_candidates)
        candidates = self.arrived(*self.chain.move(key_move, each, row, self.rule), row)
        values = promised(self.target, self.chain, self.value, candidates, row)
        return chosen(key_choice, particles, candidates, values, nested=self.nested)


class Candidates(eqx.Module):
    """What both versions share, besides `Steered`."""

    exactness: ClassVar[Exactness]

    num_candidates: eqx.AbstractVar[int]
    value: eqx.AbstractVar[Any]

    def spent(self) -> tuple[int, int]:
        once, calls = Steered.spent(cast(Steered, self))
        return once * self.num_candidates, calls * self.num_candidates

    def model(self, target: Any, chain: ReverseChain) -> SVDDModel:
        return SVDDModel(  # pyright: ignore[reportCallIssue]
            chain=chain, target=target, value=self.value, num_candidates=self.num_candidates,
            nested=self.exactness != "biased",
        )  # fmt: skip


class SVDD(Candidates, Steered):
    """Soft value-based decoding: biased, and so it has no weights and no evidence.

    Parameters
    ----------
    num_particles
        Draws, each by itself.
    num_candidates
        M: moves from which each is chosen.
    value
        ``value(y, sigma) -> scalar``, for ``y = x_0 + sigma noise``: an approximation of the soft
        value; a module, if it has parameters. None: the reward of the denoised value.
    solver
        With noise, such as `DDPM` or ``DPMSolverPP(tau=1.0)``, the default.
    schedule
        See `samplers.diffusion.schedules`.
    num_steps
        Steps of the solver.

    Raises
    ------
    TargetError
        For a target that is no reward on a diffusion prior, or a reward that is NaN.
    ValueError
        For a solver without noise.

    Differences from the paper
    --------------------------
    The published code takes the best candidate, not one by chance, which shrinks the spread of the
    draws below that of the tilted prior; here it is drawn, as the paper's algorithm has it.
    """

    exactness: ClassVar[Exactness] = "biased"
    # Never: there are no weights.
    resample_below: ClassVar[float] = 0.0  # pyright: ignore[reportIncompatibleVariableOverride]
    resampling: ClassVar[str] = "stratified"  # pyright: ignore[reportIncompatibleVariableOverride]

    num_particles: int = size("num_particles", default=1024)
    num_candidates: int = size("num_candidates", default=10)
    value: Any = None
    solver: Silent = eqx.field(static=True, converter=Silent, default_factory=ReverseSDE)
    schedule: Silent = eqx.field(static=True, converter=Silent, default_factory=EDMSchedule)
    num_steps: int = size("num_steps", default=100)
    plan: Plan | None = None
