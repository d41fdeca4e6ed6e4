"""Chain of log-concave Markov chains: once-at-a-time smoothing, or sequential walk-jump.

    Y_t = X + sigma eps_t,  eps_t ~ N(0, I),  t = 1, ..., m: measurements of one X ~ pi
    D(y, s) = E[X | X + s eps = y]                                   the denoiser
    grad_y log p(y_t = y | y_1, .., y_{t-1}) = (D(mean_t, sigma / sqrt(t)) - y) / sigma^2
    x = D(mean_m, sigma / sqrt(m)),          mean_t = (y_1 + .. + y_t) / t

Each measurement is walked to by underdamped Langevin steps on its law given those before it; one
jump by the denoiser takes their mean to a draw. With sigma^2 >= R^2 - tau^2 for a target that is a
law on a ball of radius R, smoothed by N(0, tau^2), each of these laws is log-concave: modes that
are far apart are no obstacle, and every draw is independent of the others. The denoiser is the
target's own, ``target.denoise(position, sigma)``, or an average over draws of N(y, s^2) weighed by
the target's density, which a few dimensions allow.

Biased: the jump shrinks, by O(sigma^2 / m), and the walks are finite. N(0, tau^2) comes out with
the variance tau^4 / (tau^2 + sigma^2 / m).

References
----------
.. [1] Saremi, Park and Bach, "Chain of log-concave Markov chains", ICLR 2024, arXiv:2305.19473.
   Sections 3 and 4.
.. [2] Saremi, Srivastava and Bach, "Universal smoothed score functions for generative modeling",
   2023, arXiv:2303.11669.
.. [3] Sachs, Leimkuhler and Danos, "Langevin dynamics with variable coefficients and
   nonconservative forces", Entropy 19, 2017, doi:10.3390/e19120647. The integrator.
"""

from dataclasses import replace
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax, random
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PRNGKeyArray

from ppl.energy import Energy, Position, TargetError
from ppl.sampler import DirectSampler, Exactness, positive, size
from ppl.template import describe, dimension

LARGEST = 16  # dimension up to which importance sampling passes for a denoiser


class LogConcaveChain(DirectSampler):
    """Once-at-a-time smoothing: biased, independent draws of targets with far modes.

    Parameters
    ----------
    sigma
        Noise of a measurement, in units of the position: as large as half the distance of the
        modes. Larger is slower, smaller loses the balance of the modes.
    num_measurements
        The m above; 1 is plain walk-jump sampling.
    num_steps
        Langevin steps of each walk.
    num_draws
        Draws of N(y, s^2) that the denoiser is estimated from. Not used where the target has a
        method ``denoise``.
    step_size
        Time step of a walk, in units where sigma is 1.
    friction
        The friction times the time step.

    Raises
    ------
    TargetError
        Before compilation: in more than 16 dimensions without a denoiser, and for positions that
        are not floating.

    Differences from the paper
    --------------------------
    Walks begin at a noisy copy of the last jump, with a velocity at equilibrium; the first at a
    noisy point of the unit box. Where all draws about a point have density zero, the denoiser
    leaves it where it is.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"log_density"})
    exactness: ClassVar[Exactness] = "biased"
    batch_size: ClassVar[int] = 64  # draws are dear: few are made that nobody asked for

    sigma: Float[Array, ""] = positive("sigma")
    num_measurements: int = size("num_measurements", default=64)
    num_steps: int = size("num_steps", default=32)
    num_draws: int = size("num_draws", default=128)
    step_size: Float[Array, ""] = positive("step_size", default=0.5)
    friction: Float[Array, ""] = positive("friction", default=1.0)
    has_denoiser: bool = eqx.field(default=False, static=True)

    def check(self, target: Energy) -> None:
        leaves = jax.tree.leaves(target.template)
        if not all(jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in leaves):
            raise TargetError(
                "LogConcaveChain adds Gaussian noise, so every part of a position must be floating;"
                f" this target's positions are {describe(target.template)}"
            )
        d = dimension(target.template)
        if d > LARGEST and not hasattr(target, "denoise"):
            raise TargetError(
                f"LogConcaveChain estimates its denoiser by importance sampling, which fails in {d}"
                f" dimensions (at most {LARGEST}). Give the target a method denoise(position, "
                "sigma), the mean of x given x + sigma * noise = position, or use a tempered "
                "sampler"
            )

    def resolve(self, target: Energy) -> "LogConcaveChain":
        return replace(self, has_denoiser=hasattr(target, "denoise"))

    def draw(self, rng_key: PRNGKeyArray, target: Energy, n: int) -> tuple[Position, None]:
        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), target.template)
        flat, unravel = ravel_pytree(zeros)
        one = lambda key: unravel(self._chain(key, target, flat, unravel))
        return jax.vmap(one)(random.split(rng_key, n)), None

    def evaluations(self, n: int) -> tuple[int, int]:
        calls = n * self.num_measurements * (self.num_steps + 1)
        # A denoiser in closed form costs what a gradient costs.
        return (calls, calls) if self.has_denoiser else (calls * self.num_draws, 0)

    def _chain(
        self, rng_key: PRNGKeyArray, target: Any, flat: Float[Array, " d"], unravel: Any
    ) -> Float[Array, " d"]:
        sigma = self.sigma.astype(flat.dtype)

        def denoised(key: PRNGKeyArray, y: Array, s: Array) -> Array:
            if self.has_denoiser:
                return ravel_pytree(target.denoise(unravel(y), s))[0]
            return importance_denoised(key, target, y, s, unravel, self.num_draws)

        def measure(carry: tuple[Array, Array], t: Array) -> tuple[tuple[Array, Array], None]:
            mean, x = carry
            key_noise, key_velocity, key_walk, key_jump = random.split(
                random.fold_in(rng_key, t), 4
            )
            s = noise_of_mean(sigma, t)
            including = lambda y: mean + (y - mean) / t
            score = lambda key, y: (denoised(key, including(y), s) - y) / sigma**2
            y = x + sigma * random.normal(key_noise, flat.shape, flat.dtype)
            v = sigma * random.normal(key_velocity, flat.shape, flat.dtype)
            y = self._walk(key_walk, score, y, v, sigma)
            mean = including(y)
            return (mean, denoised(key_jump, mean, s)), None

        key_start, rng_key = random.split(rng_key)
        start = random.uniform(key_start, flat.shape, flat.dtype, -1, 1)
        counts = jnp.arange(1, self.num_measurements + 1)
        (_, x), _ = lax.scan(measure, (flat, start), counts)
        return x

    def _walk(
        self, rng_key: PRNGKeyArray, score: Any, y: Array, v: Array, sigma: Array
    ) -> Float[Array, " d"]:
        """Underdamped Langevin steps with the mass 1 / sigma^2, one score each."""
        delta = self.step_size.astype(y.dtype)
        decay = jnp.exp(-self.friction.astype(y.dtype))
        spread = sigma * jnp.sqrt(1 - decay**2)

        def step(carry: tuple[Array, Array], key: PRNGKeyArray) -> tuple[tuple[Array, Array], None]:
            y, v = carry
            key_score, key_noise = random.split(key)
            y = y + delta / 2 * v
            kick = sigma**2 * delta / 2 * score(key_score, y)
            v = decay * (v + kick) + kick + spread * random.normal(key_noise, y.shape, y.dtype)
            return (y + delta / 2 * v, v), None

        (y, _), _ = lax.scan(step, (y, v), random.split(rng_key, self.num_steps))
        return y


def noise_of_mean(sigma: Float[Array, ""], t: Array) -> Float[Array, ""]:
    """Standard deviation of the noise in the mean of ``t`` measurements."""
    return sigma / jnp.sqrt(t.astype(sigma.dtype))


def importance_denoised(
    rng_key: PRNGKeyArray,
    target: Energy,
    y: Float[Array, " d"],
    s: Float[Array, ""],
    unravel: Any,
    num_draws: int,
) -> Float[Array, " d"]:
    """Mean of N(y, s^2) weighed by the target: self-normalized, biased by O(1 / num_draws)."""
    noise = random.normal(rng_key, (num_draws // 2 + 1, y.size), y.dtype)
    x = y + s * jnp.concatenate([noise, -noise])[:num_draws]
    log_weights = jax.vmap(lambda x: target.log_density(unravel(x)))(x)
    log_weights = jnp.where(jnp.isfinite(log_weights), log_weights, -jnp.inf)
    weights = jax.nn.softmax(log_weights)
    return jnp.where(jnp.any(log_weights > -jnp.inf), jnp.nan_to_num(weights) @ x, y)
