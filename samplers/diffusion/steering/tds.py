"""Twisted diffusion sampler (TDS): proposals that follow a gradient, weights that undo their bias.

    twist      log psi_t(x_t): the reward of the denoised value, softened;  log psi_0 = r(x_0)
    proposal   N(m + scale gain shift / (1 + c_t), inflation s^2),
               shift = sigma_t^2 / alpha_t grad log psi_t
    weights    log G_T = log psi_T(x_T)
               log G_t = log p(x_(t-1) | x_t) - log q(x_(t-1) | x_t) + log psi_(t-1) - log psi_t

m and s are those of the reverse chain, whose denoised value the shift moves (by the score of the
twist), and ``gain`` says how far the mean moves with it (algorithm 1 of [1]_). The last step, to
the denoised value, is the chain's own. Any positive twist gives draws of the same law and an
unbiased Z; a good one makes the weights even. The reward of a denoised value takes it for the
draw, and is too sure of itself while there is noise: with ``softening`` and

    v_t = softening kappa_t^2 / (1 + kappa_t^2),    kappa = sigma / alpha

a `ppl.LinearGaussian` likelihood has the variance v_t added to its noise, and any other reward is
divided by 1 + v_t: for a Gaussian observation of x with unit noise that is the same.

**The step along the gradient is an implicit one.** A full step h grad log psi overshoots where h
times the curvature of log psi is above one, and each step overshoots further where that is above
two: with sharp data, and a prior that varies by more than one in some direction. Seen from x_t the
step is the displacement d, and

    d = scale gain (alpha_t / alpha_(t-1)) shift
    c_t = max(0, 2 - 2 (log psi_t(x_t + d) - log psi_t(x_t)) / (d . grad log psi_t))

is h times the curvature along the gradient: twice what is missing of the promised rise, which is
exact where log psi is a parabola. d / (1 + c_t) is the top of log psi(x + u) - u . u / 2h along it,
and stops short of that of log psi, whatever h. It is a function of x_t, as is the mean, whose
density the weights take: draws and Z keep their law.

With ``scale = w`` and weights this is, but for c_t, the exact version of a `Guidance` of that
scale. Each step costs a gradient through the denoiser and one more call of it: a run costs three
times as many plain draws. Asymptotically exact in the number of particles, for what the solver
draws.

References
----------
.. [1] Wu et al., "Practical and asymptotically exact conditional sampling in diffusion models",
   NeurIPS 2023, arXiv:2306.17775. Equations 8 to 11 and algorithm 1.
"""

from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax, random
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from ppl.energy import Energy, TargetError
from ppl.linear_gaussian import LinearGaussian
from ppl.noise import normal
from ppl.sampler import Exactness, nonnegative, positive, share, size
from samplers.diffusion.integrate import State
from samplers.diffusion.rules import Rule
from samplers.diffusion.sampler import Silent
from samplers.diffusion.schedules import EDMSchedule
from samplers.diffusion.steering.chain import (
    Particle,
    Plan,
    ReverseChain,
    SolverModel,
    Step,
    log_normal,
)
from samplers.diffusion.steering.sampler import ReverseSDE, Steered
from samplers.diffusion.steering.values import gained, rewards

# The twist --------------------------------------------------------------------------------------


class Twist(NamedTuple):
    """Log psi at a point, and the shift of its denoised value by the gradient."""

    log_psi: Float[Array, "*n"]
    shift: Float[Array, "..."]


class Twisted(Rule):
    """The denoised value as it is; its memory is the twist at the point.

    ``fn(position, sigma)`` is the log twist at a denoised position, or None.
    """

    target: Any
    softening: Float[Array, ""]
    fn: Callable[..., Any] | None = eqx.field(static=True, default=None)

    def init(self, x: Array) -> Twist:
        return Twist(jnp.zeros((), x.dtype), jnp.zeros_like(x))

    def __call__(self, denoiser: Any, x: Array, row: Any, carry: PyTree) -> tuple[Array, Twist]:
        level = row.level

        def looked(x: Array) -> tuple[Array, Array]:
            denoised = denoiser(x, level)
            return self.log_psi(denoised, level.kappa), denoised

        (log_psi, denoised), gradient = jax.value_and_grad(looked, has_aux=True)(x)
        return denoised, Twist(log_psi, level.sigma**2 / level.alpha * gradient)

    def log_psi(self, denoised: Array, kappa: Array) -> Array:
        """Log twist of one denoised point."""
        target = self.target
        position = target.prior.position(target.prior.center + denoised)
        if self.fn is not None:
            return jnp.asarray(self.fn(position, kappa), denoised.dtype)
        softened = self.softening.astype(denoised.dtype) * kappa**2 / (1 + kappa**2)
        likelihood = target.log_likelihood_fn
        if isinstance(likelihood, LinearGaussian):
            more = jax.tree.map(lambda sd: jnp.sqrt(sd**2 + softened), likelihood.noise_std)
            inflated = eqx.tree_at(lambda fn: fn.noise_std, likelihood, more)
            return (target.strength * inflated(position)).astype(denoised.dtype)
        return (target.log_likelihood(position) / (1 + softened)).astype(denoised.dtype)


# The model --------------------------------------------------------------------------------------


class TDSModel(SolverModel):
    """The reverse chain with moves that follow the twist."""

    chain: ReverseChain
    rule: Twisted
    scale: Float[Array, ""]
    inflation: Float[Array, ""]

    def begin(self, particle: Particle) -> tuple[PyTree, Float[Array, " n"]]:
        return (), particle.carry.log_psi

    def move(
        self, rng_key: PRNGKeyArray, before: Particle, step: Step
    ) -> tuple[State, PyTree, Any]:
        shift = self.shift(before, step)  # not in a branch, see `arrived`

        def last() -> tuple[State, Array]:
            state, _ = self.chain.move(rng_key, before, step, self.rule)
            return state, jnp.zeros(len(before.x), before.x.dtype)

        def earlier() -> tuple[State, Array]:
            after = self.chain.mean(before, step)
            mean = after.x + shift
            sd = jnp.sqrt(self.inflation.astype(mean.dtype)) * self.chain.sd(step)
            x = mean + sd * normal(rng_key, mean.shape, mean.dtype)
            log_ratio = self.chain.log_move(before, x, step) - log_normal(x, mean, sd)
            return State((x, *after.registers[1:]), after.history), log_ratio

        state, log_ratio = lax.cond(step.is_last, last, earlier)
        return state, before.carry, log_ratio

    def shift(self, before: Particle, step: Step) -> Float[Array, "n ..."]:
        """What moves of particles add to the chain's: scale gain shift / (1 + c)."""
        level, twist = step.start, before.carry
        whole = self.scale.astype(before.x.dtype) * self.chain.gain(step) * twist.shift
        moved = level.alpha / step.end.alpha * whole
        denoised = jax.vmap(lambda x: self.chain.prior.denoised(x, level))(before.x + moved)
        ahead = jax.vmap(lambda x: self.rule.log_psi(x, level.kappa))(denoised)
        rise = ahead - twist.log_psi
        products = (moved * twist.shift).reshape(len(moved), -1)
        promised = level.alpha / level.sigma**2 * jnp.sum(products, axis=1)
        # What is impossible, or no number, there is not gone to; what promises nothing stays.
        gotten = jnp.where(jnp.isfinite(rise), rise, -jnp.inf)
        missing = 1 - gotten / jnp.where(promised > 0, promised, 1)
        share = 1 / (1 + jnp.maximum(2 * missing, 0))
        return share.reshape(-1, *(1,) * (whole.ndim - 1)) * whole

    def potential(
        self, before: Particle, after: Particle, step: Step
    ) -> tuple[PyTree, Float[Array, " n"]]:
        reward = rewards(self.rule.target, self.chain, after.denoised)
        now = jnp.where(step.is_last, reward, after.carry.log_psi)
        return (), gained(now, before.carry.log_psi)


# The sampler ------------------------------------------------------------------------------------


class TDS(Steered):
    """Twisted diffusion sampler: asymptotically exact, with the evidence.

    Parameters
    ----------
    num_particles
        Size of the population.
    scale
        How far proposals follow the gradient of the twist; 0: not at all.
    softening
        That of the module: for a likelihood with noise s, in units where the data have variance
        one, about 1 / s^2, or 1 for a `ppl.LinearGaussian`; 0: the reward as it is.
    inflation
        Variance of the proposal in units of the chain's. Above 1 the weights have lighter tails,
        and with `ExactReverse`, whose moves are no Gaussian, it should be.
    twist
        ``twist(position, sigma)``: log psi at a denoised position, differentiable, in place of the
        softened reward.
    solver
        With noise, of a single stage: `DDPM`, or ``DPMSolverPP(tau=1.0)``, the default.
    schedule
        See `samplers.diffusion.schedules`.
    num_steps
        Steps of the solver.
    resample_below
        Resample where the effective sample size is at most this share of the particles.
    resampling
        ``"stratified"``, ``"systematic"``, ``"multinomial"``, ``"residual"`` or ``"ssp"``.

    Raises
    ------
    TargetError
        For a target that is no reward on a diffusion prior, or a reward that is NaN or has no
        gradient.
    ValueError
        For a solver whose moves have no density.

    Differences from the paper
    --------------------------
    The paper's twist is the likelihood of the denoised value, which ``softening=0`` gives; softened
    as its experiments' code softens it. Its proposals take the whole step, c_t = 0, and diverge
    where that is not stable. Replacement of observed pixels in the last step is left out.
    """

    exactness: ClassVar[Exactness] = "asymptotically exact"
    needs_density: ClassVar[bool] = True

    num_particles: int = size("num_particles", default=1024)
    scale: Float[Array, ""] = nonnegative("scale", default=1.0)
    softening: Float[Array, ""] = nonnegative("softening", default=1.0)
    inflation: Float[Array, ""] = positive("inflation", default=1.0)
    twist: Callable[..., Any] | None = eqx.field(static=True, default=None)
    solver: Silent = eqx.field(static=True, converter=Silent, default_factory=ReverseSDE)
    schedule: Silent = eqx.field(static=True, converter=Silent, default_factory=EDMSchedule)
    num_steps: int = size("num_steps", default=100)
    resample_below: Float[Array, ""] = share("resample_below", default=0.5)
    resampling: str = eqx.field(static=True, default="stratified")
    plan: Plan | None = None

    def check(self, target: Energy) -> None:
        Steered.check(self, target)
        check_gradient(target, type(self).__name__)

    def spent(self) -> tuple[int, int]:
        rewards, calls = super().spent()
        return 2 * rewards, 2 * calls  # those of the look ahead

    def model(self, target: Any, chain: ReverseChain) -> TDSModel:
        rule = Twisted(target, self.softening, self.twist)
        return TDSModel(  # pyright: ignore[reportCallIssue]
            chain=chain, rule=rule, scale=self.scale, inflation=self.inflation
        )


@eqx.filter_jit
def _gradients(target: Any) -> PyTree:
    """Gradients of the reward at four positions."""
    prior = target.prior
    points = random.normal(random.key(0), (4, *prior.point.shape), prior.point.dtype)
    return jax.vmap(lambda x: jax.grad(target.log_likelihood)(prior.position(x)))(points)


def check_gradient(target: Any, name: str) -> None:
    """Raise where the gradient of the reward is zero at all of a few positions."""
    if any(np.any(leaf) for leaf in jax.tree.leaves(_gradients(target))):
        return
    raise TargetError(
        f"{name} follows the gradient of the reward, which is zero at all positions that were "
        "tried: a reward that counts or compares has none. Take samplers.FKSteering(), which needs "
        "no gradient"
    )
