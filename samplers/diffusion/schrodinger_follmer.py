"""Schrödinger-Föllmer sampler: a diffusion from a point to the target, in unit time.

    dx = u(x, t) dt + dW,   x_0 = 0,   u(x, t) = grad log E_z[g(x + sqrt(1 - t) z)]       (eq. 4)
    g = pi / N(0, I)

Of all diffusions that start at 0 and end in the target this one has the least control energy. It is
a reverse diffusion: ``x_t = t x_1 + sqrt(t (1 - t)) z`` with ``x_1 ~ pi``, so that

    u(x, t) = (D - x) / (1 - t),   D = E[x_1 | x_t = x],   x_1 | x_t  ~  g(x_1) N(x_1; x, 1 - t)

and it runs on the semilinear engine, with D estimated at each step, by one of three estimates:

====================  ========================================================================
`FollmerStein`        ``D = x + sqrt(1 - t) E[z g] / E[g]``, no gradient [1]: BlackJAX's
`FollmerGradient`     ``D = x + (1 - t) E[grad g] / E[g]`` on the same draws [1]
`FollmerEnsemble`     one ensemble ``X_j`` of known density for all points and times, no gradient:
                      ``D = sum_j w_j X_j,  w_j ~ pi(X_j) / q(X_j) N(x; t X_j, t (1 - t))``
====================  ========================================================================

A constant added to the energy changes nothing. Weights are those of importance sampling from the
Gaussian, for the first steps from N(0, I): a target needs to lie within it (``scale``), and all of
this is for some ten dimensions.

References
----------
.. [1] Huang, Jiao, Kang, Liao, Liu and Liu, "Schrödinger-Föllmer sampler: sampling without
   ergodicity", 2021, arXiv:2106.10880.
.. [2] Föllmer, "An entropy approach to the time reversal of diffusion processes", Lecture Notes in
   Control and Information Sciences 69, 1985, doi:10.1007/BFb0005070.
"""

from abc import abstractmethod
from dataclasses import replace
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import random
from jax.scipy.special import logsumexp
from jaxtyping import Array, Float, PRNGKeyArray

from ppl.energy import Energy, Position, TargetError
from ppl.sampler import DirectSampler, Exactness, positive, size
from samplers.diffusion.estimated import Denoise, along, vectorized
from samplers.diffusion.paths import Level
from samplers.diffusion.posterior_means import LogDensity, weighed
from samplers.diffusion.tables import Table, Writer


def bridge(num_steps: int, end: float = 1.0) -> Table:
    """Table of steps from t = 0 to ``end``, shorter toward the end: Brownian bridges to D.

    ``x' = x + h / (1 - t) (D - x) + sqrt(h (1 - t') / (1 - t)) z``, which is the law of the process
    where D does not change.
    """
    t = end * (1 - np.linspace(1, 0, num_steps + 1) ** 2)
    level = lambda t: Level(t, t, np.sqrt(t * (1 - t)), 1.0, 0.0)
    writer = Writer()
    for now, then in zip(t[:-1], t[1:], strict=True):
        pull = (then - now) / (1 - now)
        noise = np.sqrt(max((then - now) * (1 - then) / (1 - now), 0.0))
        writer.add(level(now), 1 - pull, [pull], noise, arrives=level(then))
    return writer.table(level(0.0))


class FollmerMean(eqx.Module):
    """Contract: what estimates D, from ``log g``."""

    @property
    def end(self) -> float:
        """Time where the run ends; what it returns is ``x / t``."""
        return 1.0

    @abstractmethod
    def prepare(
        self, rng_key: PRNGKeyArray, log_g: LogDensity, like: Float[Array, " d"], table: Table
    ) -> Denoise:
        """The estimate, ``denoise(rng_key, x, level)``."""

    @abstractmethod
    def evaluations(self, n: int, num_steps: int) -> tuple[int, int]:
        """(log-density, gradient) evaluations of ``n`` draws."""


class FollmerStein(FollmerMean):
    """Importance draws around each point, without gradients.

    Parameters
    ----------
    num_draws
        Log-densities an estimate.
    """

    num_draws: int = size("num_draws", default=256)

    def prepare(
        self, rng_key: PRNGKeyArray, log_g: LogDensity, like: Float[Array, " d"], table: Table
    ) -> Denoise:
        def denoise(key: PRNGKeyArray, x: Array, level: Any) -> Array:
            z = random.normal(key, (self.num_draws, x.size), x.dtype)
            ahead = x + jnp.sqrt(1 - level.t) * z
            return jax.nn.softmax(weighed(log_g, ahead)) @ ahead

        return denoise

    def evaluations(self, n: int, num_steps: int) -> tuple[int, int]:
        return n * num_steps * self.num_draws, 0


class FollmerGradient(FollmerMean):
    """Gradients of g at the same draws: of less variance where g is smooth.

    Parameters
    ----------
    num_draws
        Gradients an estimate.
    """

    num_draws: int = size("num_draws", default=256)

    def prepare(
        self, rng_key: PRNGKeyArray, log_g: LogDensity, like: Float[Array, " d"], table: Table
    ) -> Denoise:
        def denoise(key: PRNGKeyArray, x: Array, level: Any) -> Array:
            z = random.normal(key, (self.num_draws, x.size), x.dtype)
            ahead = x + jnp.sqrt(1 - level.t) * z
            weights = jax.nn.softmax(weighed(log_g, ahead))
            slopes = jax.vmap(jax.grad(log_g))(ahead)
            slopes = jnp.where(weights[:, None] > 0, slopes, 0.0)
            return x + (1 - level.t) * (weights @ slopes)  # grad g = g grad log g

        return denoise

    def evaluations(self, n: int, num_steps: int) -> tuple[int, int]:
        return n * num_steps * self.num_draws, n * num_steps * self.num_draws


class FollmerEnsemble(FollmerMean):
    """One ensemble for all points: a log-density a particle and round, no gradient.

    The first ensemble is drawn from N(0, I). A run of the diffusion stops where its noise is a
    kernel of the width ``bandwidth`` around the particles, so that the density of its draws is
    known; these are the next ensemble. With a constant D for each particle the diffusion is a
    smoothed resampling, in steps: a population Monte Carlo.

    Parameters
    ----------
    num_particles
        Of the ensemble. A round costs as many log-densities, whatever the number of draws.
    num_rounds
        Ensembles; each is nearer to the target than the last.
    bandwidth
        Of the kernel, in units of ``scale``: draws are that much wider than the target.
    """

    num_particles: int = size("num_particles", default=1024)
    num_rounds: int = size("num_rounds", default=3)
    bandwidth: Float[Array, ""] = positive("bandwidth", default=0.1)

    @property
    def end(self) -> float:
        return float(1 / (1 + self.bandwidth**2))  # where sqrt((1 - t) / t) is the bandwidth

    def prepare(
        self, rng_key: PRNGKeyArray, log_g: LogDensity, like: Float[Array, " d"], table: Table
    ) -> Denoise:
        key_first, key_rounds = random.split(rng_key)
        shape = (self.num_particles, like.size)
        particles = random.normal(key_first, shape, like.dtype)
        log_weights = weighed(log_g, particles)  # pi / N(0, I), up to a constant
        end = jnp.asarray(table.grid.alpha[-1], like.dtype)
        for k in range(1, self.num_rounds):
            denoise = _mean_of(particles, log_weights)
            keys = random.split(random.fold_in(key_rounds, k), self.num_particles)
            run = lambda key, d=denoise: along(key, d, like, table.rows) / end
            moved = jax.vmap(run)(keys)
            log_q = lambda x, p=particles, w=log_weights: _kernel(x, p, w, self.bandwidth)
            ratio = lambda x, log_q=log_q: log_g(x) - jnp.vdot(x, x) / 2 - log_q(x)
            particles, log_weights = moved, weighed(ratio, moved)
        return _mean_of(particles, log_weights)

    def evaluations(self, n: int, num_steps: int) -> tuple[int, int]:
        return self.num_particles * self.num_rounds, 0


def _mean_of(particles: Float[Array, "m d"], log_weights: Float[Array, " m"]) -> Denoise:
    """D of the weighted particles: each by its weight and by how likely it leads to x."""

    def denoise(_: PRNGKeyArray, x: Array, level: Any) -> Array:
        # log N(x; t X, t (1 - t)) up to a constant in j, finite at t = 0.
        fit = (particles @ x - level.t * jnp.sum(particles**2, axis=1) / 2) / (1 - level.t)
        return jax.nn.softmax(log_weights + fit) @ particles

    return denoise


def _kernel(
    x: Float[Array, " d"],
    particles: Float[Array, "m d"],
    log_weights: Float[Array, " m"],
    bandwidth: Float[Array, ""],
) -> Float[Array, ""]:
    """Log-density, up to a constant, of the weighted particles with a Gaussian kernel."""
    squares = jnp.sum((x - particles) ** 2, axis=1)
    return logsumexp(log_weights - squares / (2 * bandwidth.astype(x.dtype) ** 2))


class SchrodingerFollmer(DirectSampler):
    """Schrödinger-Föllmer sampler: biased.

    Parameters
    ----------
    mean
        What estimates the drift: `FollmerStein`, `FollmerGradient`, `FollmerEnsemble`.
    scale
        Standard deviation of the reference, in units of the position: the process is that of
        ``position / scale``.
    num_steps
        Steps from t = 0 to 1, an estimate each.

    Raises
    ------
    TargetError
        For a target without a gradient, where `FollmerGradient` needs one.

    Differences from the paper
    --------------------------
    The paper and BlackJAX take equal Euler-Maruyama steps, whose last one adds noise of variance h;
    ours are those of a Brownian bridge to D, and shrink toward t = 1, where widths of the target
    appear. The ensemble is not in the paper.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"log_density"})
    exactness: ClassVar[Exactness] = "biased"

    mean: FollmerMean = eqx.field(default_factory=FollmerStein)
    scale: Float[Array, ""] = positive("scale", default=1.0)
    num_steps: int = size("num_steps", default=50)
    table: Table | None = None

    @property
    def batch_size(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Draws that share an ensemble, where there is one."""
        return 1024 if isinstance(self.mean, FollmerEnsemble) else 256

    def check(self, target: Energy) -> None:
        if isinstance(self.mean, FollmerGradient) and "gradient" not in target.offers:
            raise TargetError(
                f"FollmerGradient follows gradients: {target.refuse('gradient')}. FollmerStein and "
                "FollmerEnsemble need none"
            )

    def resolve(self, target: Energy) -> "SchrodingerFollmer":
        return replace(self, table=bridge(self.num_steps, self.mean.end))

    def draw(self, rng_key: PRNGKeyArray, target: Energy, n: int) -> tuple[Position, None]:
        assert self.table is not None, "resolve(target) first, as ppl.sample does"
        log_density, like, position = vectorized(target)
        scale = self.scale.astype(like.dtype)
        log_g = lambda x: log_density(scale * x) + jnp.vdot(x, x) / 2
        key_prepare, key_points = random.split(rng_key)
        end = jnp.asarray(self.table.grid.alpha[-1], like.dtype)
        rows = self.table.rows
        denoise = self.mean.prepare(key_prepare, log_g, like, self.table)
        run = lambda key: along(key, denoise, like, rows)
        x = jax.vmap(run)(random.split(key_points, n)) * scale / end
        return jax.vmap(position)(x), None

    def evaluations(self, n: int) -> tuple[int, int]:
        return self.mean.evaluations(n, self.num_steps)
