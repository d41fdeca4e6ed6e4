"""Denoisers of an energy, by Monte Carlo: the mean of x_0 given ``y = x_0 + kappa eps``.

    q(x_0 | y) ~ pi(x_0) exp(-|x_0 - y|^2 / (2 kappa^2)),     D(y, kappa) = E_q[x_0]

A diffusion needs D at every noise level, and the score of the level is ``(D - y) / kappa^2``. With
an unnormalized density in the place of data, q is one more density to sample: easier than pi, since
the Gaussian makes it concave once kappa is below the widths of pi, and as hard as pi where kappa is
large.

====================  ======================================================================
`InnerImportance`     draws from N(y, kappa^2), weighted by pi [1]
`InnerLangevin`       such draws begin short chains of unadjusted Langevin steps on q [1]
`InnerRecursive`      Langevin on y_s at a lower level s, and the mean of the D's there [2]
====================  ======================================================================

The last one is the tower property: ``D_t(y) = E[D_s(y_s) | y]``, with ``y = y_s + sqrt(kappa_t^2 -
kappa_s^2) eps``, where the score of y_s that its Langevin steps follow is that of D_s. No q is then
sampled over more than one segment of the path, and evaluations are multiplied at each.

References
----------
.. [1] Huang et al., "Reverse diffusion Monte Carlo", ICLR 2024, arXiv:2307.02037. Algorithms 1, 2.
.. [2] Huang et al., "Faster sampling without isoperimetry via diffusion-based Monte Carlo", COLT
   2024, arXiv:2401.06325. Algorithm 2.
"""

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax, random
from jaxtyping import Array, Float, PRNGKeyArray

from ppl.sampler import positive, size
from samplers.diffusion.paths import NoisePath

type LogDensity = Callable[[Array], Array]  # of a vector


class PosteriorMean(eqx.Module):
    """Contract: an estimate of D from a log-density."""

    @property
    def needs_gradient(self) -> bool:
        """Whether it takes the gradient of the log-density."""
        return False

    def on(self, path: NoisePath) -> "PosteriorMean":
        """The same, told which path it is used on; by default as it is."""
        return self

    @abstractmethod
    def __call__(
        self,
        rng_key: PRNGKeyArray,
        log_density: LogDensity,
        y: Float[Array, " d"],
        kappa: Float[Array, ""],
    ) -> Float[Array, " d"]:
        """Estimate of D at ``y``, whose noise has the standard deviation ``kappa``."""

    @abstractmethod
    def evaluations(self, kappas: np.ndarray) -> np.ndarray:
        """(log-density, gradient) evaluations of one call at each of these levels, in total."""


def weighed(log_density: LogDensity, x: Float[Array, "n d"]) -> Float[Array, " n"]:
    """Log-weights; a density that is not a number weighs nothing, and all equal where all are 0."""
    values = jax.vmap(log_density)(x)
    values = jnp.where(jnp.isnan(values) | (values == jnp.inf), -jnp.inf, values)
    top = jnp.max(values)
    return jnp.where(jnp.isfinite(top), values - jnp.where(jnp.isfinite(top), top, 0.0), 0.0)


class InnerImportance(PosteriorMean):
    """Self-normalized importance sampling from N(y, kappa^2).

    Parameters
    ----------
    num_draws
        Log-densities an estimate. Their number must grow as the ratio of kappa to the widths of the
        target to the power of the dimension: for few dimensions.
    """

    num_draws: int = size("num_draws", default=256)

    def __call__(
        self,
        rng_key: PRNGKeyArray,
        log_density: LogDensity,
        y: Float[Array, " d"],
        kappa: Float[Array, ""],
    ) -> Float[Array, " d"]:
        x = y + kappa * random.normal(rng_key, (self.num_draws, y.size), y.dtype)
        return jax.nn.softmax(weighed(log_density, x)) @ x

    def evaluations(self, kappas: np.ndarray) -> np.ndarray:
        return np.array([self.num_draws, 0]) * len(kappas)


def langevin(
    rng_key: PRNGKeyArray,
    x: Float[Array, " d"],
    score: Callable[[PRNGKeyArray, Array], tuple[Array, Array]],
    num_steps: int,
    step_size: Float[Array, ""],
) -> Float[Array, " d"]:
    """Unadjusted Langevin steps; the mean, over the second half of them, of what they record.

    ``score(rng_key, x)`` returns the gradient at x and what is recorded of x.
    """

    def step(x: Array, key: PRNGKeyArray) -> tuple[Array, Array]:
        key_score, key_noise = random.split(key)
        gradient, seen = score(key_score, x)
        noise = random.normal(key_noise, x.shape, x.dtype)
        moved = x + step_size * gradient + jnp.sqrt(2 * step_size) * noise
        return jnp.where(jnp.all(jnp.isfinite(moved)), moved, x), seen

    _, seen = lax.scan(step, x, random.split(rng_key, num_steps))
    return jnp.mean(seen[num_steps // 2 :], axis=0)


class InnerLangevin(PosteriorMean):
    """Unadjusted Langevin chains on q, which start from resampled importance draws.

    Parameters
    ----------
    num_draws
        Log-densities that find where to start.
    num_chains, num_steps
        Chains, and the gradients of each.
    step_size
        Of the chains where kappa is large, in squared units of the position; it should be below
        twice the smallest variance of the target. At a level it is
        ``1 / (1 / step_size + 1 / kappa^2)``.
    """

    num_draws: int = size("num_draws", default=64)
    num_chains: int = size("num_chains", default=8)
    num_steps: int = size("num_steps", default=8)
    step_size: Float[Array, ""] = positive("step_size", default=0.1)

    @property
    def needs_gradient(self) -> bool:
        return True

    def __call__(
        self,
        rng_key: PRNGKeyArray,
        log_density: LogDensity,
        y: Float[Array, " d"],
        kappa: Float[Array, ""],
    ) -> Float[Array, " d"]:
        key_draws, key_pick, key_chains = random.split(rng_key, 3)
        x = y + kappa * random.normal(key_draws, (self.num_draws, y.size), y.dtype)
        log_weights = weighed(log_density, x)
        x = x[random.categorical(key_pick, log_weights, shape=(self.num_chains,), mode="high")]
        h = 1 / (1 / self.step_size.astype(y.dtype) + 1 / kappa**2)

        def score(_: PRNGKeyArray, x: Array) -> tuple[Array, Array]:
            return jax.grad(log_density)(x) - (x - y) / kappa**2, x

        chain = lambda key, x: langevin(key, x, score, self.num_steps, h)
        return jnp.mean(jax.vmap(chain)(random.split(key_chains, self.num_chains), x), axis=0)

    def evaluations(self, kappas: np.ndarray) -> np.ndarray:
        return np.array([self.num_draws, self.num_chains * self.num_steps]) * len(kappas)


class InnerRecursive(PosteriorMean):
    """Langevin steps at the level of the segment below, whose score is estimated the same way.

    Parameters
    ----------
    leaf
        What estimates D on the first segment, from the target itself.
    num_segments
        Segments of equal length in the time of the path.
    num_steps
        Langevin steps at the end of a segment. Each needs D there: a call on segment k costs
        ``num_steps^(k - 1)`` calls of the leaf.
    """

    leaf: PosteriorMean = eqx.field(default_factory=InnerImportance)
    num_segments: int = size("num_segments", default=2)
    num_steps: int = size("num_steps", default=12)
    boundaries: Any = None
    variance: Any = None

    @property
    def needs_gradient(self) -> bool:
        return self.leaf.needs_gradient

    def on(self, path: NoisePath) -> "InnerRecursive":
        shares = np.arange(1, self.num_segments) / self.num_segments
        kappas = path.level(shares * np.asarray(path.t_max)).kappa
        at_end = path.level(np.asarray(path.t_max))
        variance = np.asarray(at_end.sigma) ** 2
        return replace(self, leaf=self.leaf.on(path), boundaries=kappas, variance=variance)

    def __call__(
        self,
        rng_key: PRNGKeyArray,
        log_density: LogDensity,
        y: Float[Array, " d"],
        kappa: Float[Array, ""],
    ) -> Float[Array, " d"]:
        boundaries, variance = (jnp.asarray(a, y.dtype) for a in (self.boundaries, self.variance))

        def mean(key: PRNGKeyArray, y: Array, kappa: Array, depth: int) -> Array:
            if depth == 0:
                return self.leaf(key, log_density, y, kappa)
            below = boundaries[depth - 1]
            spread = jnp.maximum(kappa**2 - below**2, 1e-6 * below**2)
            h = 0.5 / (1 / below**2 + 1 / spread)

            def score(key: PRNGKeyArray, z: Array) -> tuple[Array, Array]:
                denoised = mean(key, z, below, depth - 1)
                return (denoised - z) / below**2 - (z - y) / spread, denoised

            # Where y_s would be on average if the target were the Gaussian of the path's end.
            start = y * (variance + below**2) / (variance + kappa**2)
            return langevin(key, start, score, self.num_steps, h)

        depth = jnp.sum(kappa > boundaries)  # the same for all points, so that one branch runs
        branches = [lambda key, y, k=k: mean(key, y, kappa, k) for k in range(self.num_segments)]
        return lax.switch(depth, branches, rng_key, y)

    def evaluations(self, kappas: np.ndarray) -> np.ndarray:
        depths = np.sum(np.asarray(kappas)[:, None] > self.boundaries, axis=1)
        return np.sum(self.num_steps**depths) * self.leaf.evaluations(np.ones(1))
