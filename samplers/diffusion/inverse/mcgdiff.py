"""Monte Carlo guided diffusion (MCGDiff): particles held to the data at the level of their noise.

Along the singular vectors of A = U diag(s) V' the data are d = U' y / s, with noise r = noise_std /
s in units of x_0, coordinate by coordinate. The forward process adds noise of its own, and at the
level kappa = tau a little below r the measurement is that of the chain,

    d = z_tau + noise of variance e = r^2 - tau^2,     since  x_0 + tau eps + that noise ~ d

so that the chain, seen there coordinate by coordinate, has the posterior as the law of its end. In
the time before, particles are drawn and weighed by what they promise, with flat data in between:

    g_t(z) = N(d; z, v_t),   v_t = kappa_t^2 - tau^2 + e     for coordinates whose tau is ahead
    z' ~ N(m, w^2) g_t'(z') / n(m),   n(m) = N(d; m, w^2 + v_t')          m, w: the chain's own
    log G = log n(m_t) - log g_t(z_t),   known at z_t, before the move

A coordinate that has passed its tau, and those that A does not see, move as the chain does. Log Z
is that of the chain, with all constants: an estimate of log p(y), whose exponential is unbiased.
Asymptotically exact in the number of particles for what the chain draws, which DDPM's steps make
too narrow by an error that falls with their number. It needs no derivative of the denoiser.

**A cloud of N particles is not N independent draws.** Few ancestors at the highest levels are left
when it arrives; several modes need many particles, and averages over independent runs
(``num_chains=``) show what one cloud does not.

Differences from the paper
--------------------------
The paper has u infinite, c = 1, which is the default here: a promise as if nothing were known of
the data before. At high noise it is counted twice, since the chain comes near to d in any case.
With u near the truth the promise is flat as long as nothing can be told. The law is the same for
any u. On the benchmark of 25 modes log Z varies less with it, and how a run shares its particles
among the modes as much.

The paper takes tau = r and a potential narrower than any noise (its kappa, 1e-4), and divides by it
at the end, where the likelihood enters: those weights have no finite variance. Here the share
``left`` of the variance of the data is left at tau, as a likelihood that they have; nothing is
divided by, and the law is exact for any share. Noise below the end of the path is raised to it.

References
----------
.. [1] Cardoso, Janati El Idrissi, Le Corff and Moulines, "Monte Carlo guided diffusion for Bayesian
   linear inverse problems", ICLR 2024, arXiv:2308.07983. Algorithm 1 and section 3.
"""

from dataclasses import replace
from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.stats import norm
from jaxtyping import Array, Float, PRNGKeyArray

from ppl.energy import Energy, Position
from ppl.noise import normal
from ppl.sampler import Exactness, fraction, positive, share, size
from samplers.diffusion.chain import AlongLevels, ReverseModel, Step, ancestral, at
from samplers.diffusion.inverse.basis import Basis, require_basis
from samplers.diffusion.inverse.chain import moves, on_steps
from samplers.diffusion.inverse.guided import schedule
from samplers.diffusion.inverse.problem import Problem, require_linear, require_prior
from samplers.diffusion.sampler import Silent
from samplers.diffusion.schedules import grid
from samplers.mcmc.windows import optional

MOST_INSERTED = 64  # levels of singular values that are added to those of the schedule


class Held(NamedTuple):
    """Particles as coefficients, and the mean and sd of the move that they are about to make."""

    z: Float[Array, "n ..."]
    mean: Float[Array, "n ..."]


class HeldChain(ReverseModel):
    """The model of the module."""

    problem: Problem
    steps: Step
    left: Float[Array, ""]
    data_variance: Float[Array, ""] | None

    # Coordinates --------------------------------------------------------------------------------

    @property
    def basis(self) -> Basis:
        """Singular vectors."""
        return Basis(self.problem)

    def held(self) -> tuple[Array, Array]:
        """Of each coordinate: the index of its level tau, -1 where nothing is seen, and e."""
        basis, kappas = self.basis, self.steps.start.kappa
        wanted = jnp.sqrt(1 - self.left.astype(kappas.dtype)) * basis.noise
        # The first level that is low enough; a level inserted for it is so up to rounding.
        low_enough = kappas <= wanted[..., None] * (1 + 1e-4)
        last = len(kappas) - 1
        index = jnp.where(jnp.any(low_enough, -1), jnp.argmax(low_enough, -1), last)
        tau = kappas[index]
        least = self.left.astype(kappas.dtype) * jnp.maximum(basis.noise, tau) ** 2
        rest = jnp.maximum(basis.noise**2 - tau**2, least)
        return jnp.where(basis.seen, index, -1), rest

    def promised(self, index: Any) -> tuple[Array, Array, Array]:
        """Whether each coordinate is still to be held at this level, and c and v there."""
        at, rest = self.held()
        kappas = self.steps.start.kappa
        kappa = kappas[jnp.minimum(index, len(kappas) - 1)]
        ahead, tau = index <= at, kappas[jnp.maximum(at, 0)]
        shrunk = jnp.ones_like(tau)
        if self.data_variance is not None:
            u = self.data_variance.astype(kappas.dtype)
            shrunk = (u + tau**2) / (u + kappa**2)
        v = shrunk * (kappa**2 - tau**2) + rest
        return ahead, jnp.where(ahead, shrunk, 0.0), jnp.where(ahead, v, 1.0)

    def promise(self, z: Array, step: Step) -> tuple[Array, Float[Array, " n"]]:
        """Mean of the move from z, and the weight that is known before it."""
        basis, index = self.basis, step.index
        point = lambda c: self.problem.denoise(basis.point(c), step.start)
        denoised = jax.vmap(lambda c: basis.coefficients(point(c)))(z)
        kept, sd = ancestral(step.start.kappa, step.end.kappa)
        mean = kept * z + (1 - kept) * denoised
        _, c, v = self.promised(index)
        ahead, c_after, v_after = self.promised(index + 1)
        promised = norm.logpdf(basis.data, c_after * mean, jnp.sqrt((c_after * sd) ** 2 + v_after))
        kept = norm.logpdf(basis.data, c * z, jnp.sqrt(v))
        axes = tuple(range(1, z.ndim))
        return mean, jnp.sum(jnp.where(ahead, promised - kept, 0), axis=axes)

    def drawn(self, rng_key: PRNGKeyArray, mean: Array, sd: Array, c: Array, v: Array) -> Array:
        """Draws of ``N(mean, sd^2) N(d; c z, v)``; c is 0 where nothing is promised."""
        gain = c * sd**2 / ((c * sd) ** 2 + v)
        eps = normal(rng_key, mean.shape, mean.dtype)
        moved = gain * (self.basis.data - c * mean)
        return mean + moved + sd * jnp.sqrt(jnp.maximum(1 - gain * c, 0)) * eps

    # The contract of the engine -----------------------------------------------------------------

    def start(self, rng_key: PRNGKeyArray, n: int) -> tuple[Held, Float[Array, " n"]]:
        first, basis = self.first, self.basis
        kappa = first.start.kappa
        ahead, c, v = self.promised(first.index)
        zero = jnp.zeros((n, *basis.data.shape), kappa.dtype)
        z = self.drawn(rng_key, zero, kappa, c, v)
        seen = norm.logpdf(basis.data, 0, jnp.sqrt((c * kappa) ** 2 + v))
        constant = jnp.sum(jnp.where(ahead, seen, 0)) + basis.log_constant
        mean, log_potentials = self.promise(z, first)
        return Held(z, mean), log_potentials + constant

    def advance(
        self, rng_key: PRNGKeyArray, particles: Held, row: Step
    ) -> tuple[Held, Float[Array, " n"]]:
        _, c, v = self.promised(row.index + 1)
        _, sd = ancestral(row.start.kappa, row.end.kappa)
        z = self.drawn(rng_key, particles.mean, sd, c, v)
        mean, log_potentials = jax.lax.cond(
            row.is_last,
            lambda: (z, jnp.zeros(len(z), z.dtype)),
            lambda: self.promise(z, at(self.steps, row.index + 1)),
        )
        return Held(z, mean), log_potentials

    def positions(self, particles: Held) -> Position:
        return jax.vmap(lambda c: self.problem.position(self.basis.point(c)))(particles.z)


class MCGDiff(AlongLevels):
    """Monte Carlo guided diffusion: asymptotically exact, for operators with singular values.

    Parameters
    ----------
    num_particles
        Size of the population: thousands, where there are modes.
    left
        Share of the variance of the data that is left where a coordinate is held.
    data_variance
        The u of the module, roughly the variance of the data; None: infinite, as in the paper.
    schedule, num_steps
        As in `DiffusionSampler`. Levels at which coordinates are held are added, up to 64 of them;
        beyond these a coordinate is held at the next level below, which is as exact.
    resample_below
        Resample where the effective sample size is at most this share of the particles.
    resampling
        ``"stratified"``, ``"systematic"``, ``"multinomial"``, ``"residual"`` or ``"ssp"``.

    Raises
    ------
    TargetError
        For a target that is no posterior under a diffusion prior, a likelihood that is not linear,
        an operator without a real decomposition, and noise of zero.

    Notes
    -----
    The draws of one run are one weighted cloud, not independent draws.
    """

    exactness: ClassVar[Exactness] = "asymptotically exact"

    num_particles: int = size("num_particles", minimum=2, default=1024)
    left: Float[Array, ""] = fraction("left", default=0.05)
    data_variance: Float[Array, ""] | None = optional(positive("data_variance"))
    schedule: Silent = schedule()
    num_steps: int = size("num_steps", minimum=2, default=200)
    resample_below: Float[Array, ""] = share("resample_below", default=0.5)
    resampling: str = eqx.field(static=True, default="stratified")
    steps: Step | None = None

    def check(self, target: Energy) -> None:
        require_prior(target, "MCGDiff")
        require_linear(target, "MCGDiff", svd=True)
        require_basis(target, "MCGDiff")

    def resolve(self, target: Any) -> "MCGDiff":
        path = target.prior.path
        kappas = grid(path, self.schedule.value, self.num_steps - 1).kappa
        noise = np.unique(np.asarray(Basis(Problem(target)).noise, np.float64))  # pyright: ignore[reportCallIssue]
        wanted = np.sqrt(1 - float(self.left)) * noise
        wanted = wanted[(wanted > kappas[-1]) & (wanted < kappas[0])]
        # Nearer than this to each other or to the grid they are as good as the same.
        far = lambda x, others: np.all(np.abs(np.log(others / x)) > 1e-3)
        chosen: list[float] = []
        for kappa in wanted:
            if far(kappa, np.append(kappas, chosen)):
                chosen.append(float(kappa))
        if len(chosen) <= MOST_INSERTED:
            kappas = np.sort(np.append(kappas, chosen))[::-1]
        return replace(self, steps=moves(path, kappas))

    @property
    def num_moves(self) -> int:
        assert self.steps is not None, "resolve(target) first, as ppl.sample does"
        return len(self.steps.index)

    def spent(self) -> tuple[int, int]:
        return 0, self.num_particles

    def on_levels(self, target: Any) -> HeldChain:
        problem, steps = on_steps(target, self.steps)
        return HeldChain(
            problem=problem, steps=steps, left=self.left, data_variance=self.data_variance
        )
