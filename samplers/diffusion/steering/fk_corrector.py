"""Feynman-Kac correctors: annealed, multiplied, guided and tilted diffusion priors, by weights.

    target     p_t  ~  exp(h_t) prod_i q_(i,t)^a_i,      h_t(x) = r(x) / (1 + kappa^2)
    drift      S_t + grad h_t / 2,                       S_t = sum_i a_i s_(i,t)
    weights    d log w = d_t h + (sum over kappa^2) / 2 (|S|^2 - sum_i a_i |s_i|^2 + S . grad h)

in ``y = x / alpha`` and with kappa falling, where every path is the same and the reverse equation
is ``dY = score dK + sqrt(dK) noise``, K = -kappa^2. For no reward these are propositions of [1]_:
annealing q^a, products of experts, and the geometric average q_1^(1 - w) q_2^w of classifier-free
guidance; the half in front of grad h cancels the Laplacian of the reward. Without the weights the
sum of the scores leads elsewhere. The chain starts from its own law there,

    N(0, kappa_T^2 / A),   A = sum_i a_i,     Z_T = (2 pi kappa_T^2)^(d (1 - A) / 2) A^(-d / 2)

so that log Z is that of the product, ``log int exp(r) prod_i q_i^a_i``. Asymptotically exact, as
both particles and steps grow: the drift is a solver's, and the integral in the weights a trapezoid
in log kappa.

References
----------
.. [1] Skreta et al., "Feynman-Kac correctors in diffusion: annealing, guidance, and product of
   experts", ICML 2025, arXiv:2503.02819. Propositions on annealing, products, averages and rewards.
"""

import math
from dataclasses import replace
from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from ppl.energy import Energy
from ppl.sampler import Exactness, share, size
from samplers.diffusion.prior import DiffusionPrior
from samplers.diffusion.rules import Rule
from samplers.diffusion.sampler import Silent
from samplers.diffusion.schedules import EDMSchedule
from samplers.diffusion.steering.chain import Particle, Plan, ReverseChain, SolverModel, Step
from samplers.diffusion.steering.composed import Composed, parts
from samplers.diffusion.steering.sampler import ReverseSDE, Steered
from samplers.diffusion.steering.tds import check_gradient
from samplers.diffusion.steering.values import gained


class Corrected(NamedTuple):
    """What weights need of a point: kappa^2 times their rate, and the reward h."""

    rate: Float[Array, "*n"]
    reward: Float[Array, "*n"]


class Corrector(Rule):
    """The denoised value of the composed drift; its memory is the rate of the weights there."""

    product: Composed
    target: Any  # with a reward, or None

    def init(self, x: Array) -> Corrected:
        zero = jnp.zeros((), x.dtype)
        return Corrected(zero, zero)

    def __call__(self, denoiser: Any, x: Array, row: Any, carry: PyTree) -> tuple[Array, Corrected]:
        level, prior = row.level, self.product.priors[0]
        y = prior.center + x / level.alpha
        pulls = self.product.pulls(y, level.kappa)
        exponents = self.product.exponents.astype(x.dtype)
        pull = jnp.tensordot(exponents, pulls, 1)  # kappa^2 S
        squares = jnp.sum(pulls.reshape(len(pulls), -1) ** 2, axis=1)
        rate = jnp.sum(pull**2) - exponents @ squares
        zero = jnp.zeros((), x.dtype)
        if self.target is None:
            return x / level.alpha + pull, Corrected(rate / level.kappa**2, zero)
        h, slope = jax.value_and_grad(lambda x: self.reward(x, level))(x)
        slope = level.kappa**2 * level.alpha * slope  # kappa^2 grad h, in y
        rate = rate + jnp.sum(pull * slope)
        return x / level.alpha + pull + slope / 2, Corrected(rate / level.kappa**2, h)

    def reward(self, x: Array, level: Any) -> Array:
        """H at a point of the path."""
        prior = self.product.priors[0]
        reward = self.target.log_likelihood(prior.position(prior.center + x))
        return reward.astype(x.dtype) / (1 + level.kappa**2)


class CorrectedModel(SolverModel):
    """The chain of the composed drift, with the weights that correct it."""

    chain: ReverseChain
    rule: Corrector

    def points(self, rng_key: PRNGKeyArray, n: int) -> Float[Array, "n ..."]:
        noise = self.chain.prior.noise(rng_key, n)
        return self.chain.first.start.sigma / jnp.sqrt(self._total(noise.dtype)) * noise

    def begin(self, particle: Particle) -> tuple[PyTree, Float[Array, " n"]]:
        total, d = self._total(particle.x.dtype), self.chain.size
        variance = self.chain.first.start.kappa**2
        log_z = d * ((1 - total) * jnp.log(2 * math.pi * variance) - jnp.log(total)) / 2
        return (), particle.carry.reward + log_z

    def potential(
        self, before: Particle, after: Particle, step: Step
    ) -> tuple[PyTree, Float[Array, " n"]]:
        start, end, here = step.start, step.end, before.carry
        interval = jnp.log(start.kappa) - jnp.log(jnp.where(step.is_last, 1.0, end.kappa))
        inner = interval * (here.rate + after.carry.rate) / 2
        log_g = jnp.where(step.is_last, here.rate / 2, inner)
        if self.rule.target is not None:
            # The time derivative of h, at y and at y'.
            reward = jax.vmap(self.rule.reward, (0, None))
            ahead = reward(before.x * end.alpha / start.alpha, end)
            back = reward(after.x * start.alpha / end.alpha, start)
            inner = (gained(ahead, here.reward) + gained(after.carry.reward, back)) / 2
            log_g = log_g + jnp.where(step.is_last, gained(ahead, here.reward), inner)
        return (), log_g

    def _total(self, dtype: Any) -> Array:
        return jnp.sum(self.rule.product.exponents).astype(dtype)


class FKCorrector(Steered):
    """Feynman-Kac correctors: asymptotically exact, with the evidence.

    The target is a prior made by `compose`, with exponents that anneal, multiply or guide; a tilt
    of it, or of any diffusion prior, by a reward with a gradient; or one prior as it is.

    Parameters
    ----------
    num_particles
        Size of the population.
    solver
        Whose noise is that of the reverse equation: `DDPM`, ``DDIM(eta=1.0)`` or
        ``DPMSolverPP(tau=1.0)``.
    schedule
        See `samplers.diffusion.schedules`.
    num_steps
        Steps of the solver: their number bounds how far the draws are from the target.
    resample_below
        Resample where the effective sample size is at most this share of the particles.
    resampling
        ``"stratified"``, ``"systematic"``, ``"multinomial"``, ``"residual"`` or ``"ssp"``.

    Raises
    ------
    TargetError
        For a target that is no diffusion prior and no reward on one, and for a reward that is NaN
        or has no gradient.
    ValueError
        For a solver with other noise than that of the reverse equation.

    Differences from the paper
    --------------------------
    Steps are a solver's in y, not Euler's in the coordinates of the path, and the weights are
    integrated by trapezoids. The temperature of a reward is 1 / (1 + kappa^2), which for a
    variance-preserving path is alpha^2, and not linear in t. Published code centers the weights of
    a batch and clips them, which is biased.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"denoise"})
    exactness: ClassVar[Exactness] = "asymptotically exact"
    needs_reward: ClassVar[bool] = False

    num_particles: int = size("num_particles", default=1024)
    solver: Silent = eqx.field(static=True, converter=Silent, default_factory=ReverseSDE)
    schedule: Silent = eqx.field(static=True, converter=Silent, default_factory=EDMSchedule)
    num_steps: int = size("num_steps", default=100)
    resample_below: Float[Array, ""] = share("resample_below", default=0.5)
    resampling: str = eqx.field(static=True, default="stratified")
    plan: Plan | None = None
    spent_each: tuple[int, int] = eqx.field(static=True, default=(3, 1))  # `resolve` knows

    def resolve(self, target: Any) -> "FKCorrector":
        num_priors = len(parts(self.prior(target)).priors)
        rewards = 0 if isinstance(target, DiffusionPrior) else 3
        written: Any = Steered.resolve(self, target)
        return replace(written, spent_each=(rewards, num_priors))

    def check(self, target: Energy) -> None:
        Steered.check(self, target)
        if not isinstance(target, DiffusionPrior):
            check_gradient(target, type(self).__name__)

    def check_plan(self, written: Plan) -> None:
        Steered.check_plan(self, written)
        _check_noise(written, self.solver)

    def spent(self) -> tuple[int, int]:
        rewards, calls = self.spent_each
        return rewards * self.num_particles, calls * self.num_particles

    def model(self, target: Any, chain: ReverseChain) -> CorrectedModel:
        rewarded = None if isinstance(target, DiffusionPrior) else target
        rule = Corrector(parts(chain.prior), rewarded)
        return CorrectedModel(chain=chain, rule=rule)  # pyright: ignore[reportCallIssue]


def _check_noise(plan: Plan, solver: Any) -> None:
    """Raise unless a step adds the noise of the reverse equation: the weights are for that one."""
    steps = plan.steps
    added = np.sum(np.asarray(plan.rows.S)[:-1, 0, 0] ** 2, axis=-1)
    start, end = (np.asarray(level.kappa)[:-1] for level in (steps.start, steps.end))
    expected = (np.asarray(steps.end.alpha)[:-1] * end) ** 2 * (1 - (end / start) ** 2)
    single = plan.calls_per_step == 1 and plan.rows.A.shape[-1] == 1 and not plan.exact
    if not (single and np.allclose(added, expected, rtol=1e-3)):
        raise ValueError(
            f"the weights of FKCorrector are those of the reverse equation's noise, which {solver} "
            "does not add step by step: take samplers.DDPM(), samplers.DDIM(eta=1.0) or "
            "samplers.DPMSolverPP(tau=1.0)"
        )
