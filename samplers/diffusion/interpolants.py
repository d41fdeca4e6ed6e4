"""Stochastic interpolants: from one law to another, with as much noise on the way as one likes.

    x_t = a(t) x_0 + b(t) x_1 + gamma(t) z,    x_0 ~ base,  x_1 ~ data,  z ~ N(0, I)
    v(x, t) = E[a' x_0 + b' x_1 | x_t = x],    f(x, t) = E[z | x_t = x] / gamma
    dX = (v + (gamma gamma' - eps) f) dt + sqrt(2 eps) dW,   X_0 ~ base           ([1], section 2)

f is minus the score of x_t. For any eps(t) >= 0 the law of X_t is that of x_t, that of X_1 the
data's: v and f are learned once by least squares, and eps is chosen when drawing. eps = 0 is a
flow; with noise, errors of v and f are forgotten on the way, at the price of more steps. Biased: by
what the networks have not learned, and by the steps, which are of weak order two.

References
----------
.. [1] Albergo, Boffi and Vanden-Eijnden, "Stochastic interpolants: a unifying framework for flows
   and diffusions", 2023, arXiv:2303.08797. Section 2 for the equations (theorems 6 to 8), section
   4 for the choices of a, b and gamma.
.. [2] Albergo and Vanden-Eijnden, "Building normalizing flows with stochastic interpolants", ICLR
   2023, arXiv:2209.15571. The trigonometric one.
"""

from abc import abstractmethod
from dataclasses import replace
from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax, random
from jax.core import Tracer
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from ppl.energy import Energy, Position, TargetError
from ppl.sampler import Exactness, LearnedSampler, fraction, positive, size
from ppl.template import describe
from samplers.diffusion.points import flat, position
from samplers.diffusion.training import TrainingInfo, TrainingState, update
from samplers.networks import MLP

# Ways from one end to the other ---------------------------------------------------------------


class Weights(NamedTuple):
    """At one time; ``pull`` is gamma gamma', which stays finite where gamma' does not."""

    a: Array
    b: Array
    gamma: Array
    a_rate: Array
    b_rate: Array
    pull: Array


class Interpolant(eqx.Module):
    """Contract: a, b and gamma^2 as functions of the time, from (1, 0, 0) to (0, 1, 0)."""

    @abstractmethod
    def ends(self, t: Array) -> tuple[Array, Array]:
        """A and b."""

    @abstractmethod
    def variance(self, t: Array) -> Array:
        """gamma^2."""

    def __call__(self, t: Array) -> Weights:
        """All of it, with rates."""
        (a, b), (a_rate, b_rate) = jax.jvp(self.ends, (t,), (jnp.ones_like(t),))
        variance, rate = jax.jvp(self.variance, (t,), (jnp.ones_like(t),))
        return Weights(a, b, jnp.sqrt(variance), a_rate, b_rate, rate / 2)


class LinearInterpolant(Interpolant):
    """``(1 - t) x_0 + t x_1 + sqrt(noise t (1 - t)) z``: a Brownian bridge between the ends."""

    noise: Float[Array, ""] = positive("noise", default=1.0)

    def ends(self, t: Array) -> tuple[Array, Array]:
        return 1 - t, t

    def variance(self, t: Array) -> Array:
        return self.noise.astype(t.dtype) * t * (1 - t)


class TrigonometricInterpolant(Interpolant):
    """``cos(pi t / 2) x_0 + sin(pi t / 2) x_1 + sqrt(noise t (1 - t)) z`` [2]."""

    noise: Float[Array, ""] = positive("noise", default=1.0)

    def ends(self, t: Array) -> tuple[Array, Array]:
        return jnp.cos(jnp.pi * t / 2), jnp.sin(jnp.pi * t / 2)

    def variance(self, t: Array) -> Array:
        return self.noise.astype(t.dtype) * t * (1 - t)


# The learned law ------------------------------------------------------------------------------


def _diffusion(value: Any) -> Any:
    if callable(value) or isinstance(value, Tracer) or type(value) is object:
        return value
    number = np.asarray(value)
    if number.shape != () or number.dtype.kind not in "iuf" or not 0 <= number < np.inf:
        raise ValueError(
            "diffusion must be a number of at least 0, or a function of the time from 0 to 1; "
            f"got {value!r}"
        )
    return jnp.asarray(value, float)


class Fields(eqx.Module):
    """v and f, each a function of a point and a time, in the coordinates ``(x - mean) / sd``."""

    velocity: Any
    pull: Any
    mean: Array
    sd: Float[Array, ""]


class InterpolantPrior(Energy):
    """The law at the end of an interpolant: what `StochasticInterpolant` learns.

    Parameters
    ----------
    template
        One position.
    fields
        What was learned, or closed forms.
    base
        Law that it begins with, which has ``sample``; None: N(mean, sd^2).
    interpolant
        What the fields were learned on.
    diffusion
        eps above, in the coordinates of the fields: a number, or a function of the time.
        `with_diffusion` sets another one.
    num_steps
        Steps of a draw, with two evaluations of the fields each.
    """

    template: PyTree[jax.ShapeDtypeStruct]
    fields: Fields
    base: Any = None
    interpolant: Interpolant = eqx.field(default_factory=LinearInterpolant)
    diffusion: Any = eqx.field(converter=_diffusion, default=0.0)
    num_steps: int = size("num_steps", default=50)

    @property
    def offers(self) -> frozenset[str]:
        return frozenset()

    def refuse(self, capability: str) -> str:
        if capability == "sample":
            return (
                "the draws of a stochastic interpolant are those of its steps, not exact; "
                "prior.sample(rng_key, n) draws them"
            )
        return "a stochastic interpolant has no log-density"

    def log_density(self, position: Position) -> Float[Array, ""]:
        raise TargetError(self.refuse("log_density"))

    def with_diffusion(self, diffusion: Any) -> "InterpolantPrior":
        """The same law drawn with another eps."""
        return replace(self, diffusion=diffusion)

    def drift(self, x: Array, t: Array) -> Array:
        """``v + (gamma gamma' - eps) f`` at a point."""
        f = self.fields.pull(x, t)
        return self.fields.velocity(x, t) + (self.interpolant(t).pull - self._eps(t)) * f

    def _eps(self, t: Array) -> Array:
        eps = self.diffusion(t) if callable(self.diffusion) else self.diffusion
        return jnp.asarray(eps, t.dtype)

    def sample(self, rng_key: PRNGKeyArray, n: int) -> Position:
        """``n`` draws, by Heun's method with the noise of each step in both of its stages."""
        key_base, key_steps = random.split(rng_key)
        x = self.starts(key_base, n)
        times = jnp.linspace(0, 1, self.num_steps + 1, dtype=x.dtype)
        drift = jax.vmap(self.drift, (0, None))

        def step(x: Array, inputs: Any) -> tuple[Array, None]:
            key, t, later = inputs
            h = later - t
            z = random.normal(key, x.shape, x.dtype)
            noise = jnp.sqrt(2 * h * self._eps((t + later) / 2)) * z
            slope = drift(x, t)
            there = x + h * slope + noise
            return x + h / 2 * (slope + drift(there, later)) + noise, None

        keys = random.split(key_steps, self.num_steps)
        x, _ = lax.scan(step, x, (keys, times[:-1], times[1:]))
        y = self.fields.mean + self.fields.sd * x
        return jax.vmap(lambda point: position(self.template, point))(y)

    def starts(self, rng_key: PRNGKeyArray, n: int) -> Float[Array, "n ..."]:
        """Draws of the base, in the coordinates of the fields."""
        mean, sd = self.fields.mean, self.fields.sd
        if self.base is None:
            return random.normal(rng_key, (n, *mean.shape), mean.dtype)
        return (jax.vmap(flat)(self.base.sample(rng_key, n)) - mean) / sd


# Training -------------------------------------------------------------------------------------


class StochasticInterpolant(LearnedSampler):
    """Stochastic interpolants: biased, independent draws of the law of a data set.

    The target is `ppl.from_samples`. The trained sampler has the law, ``draws.sampler.prior``, an
    `InterpolantPrior`, whose ``with_diffusion`` draws with more noise or less.

    Parameters
    ----------
    network
        ``network(rng_key, shape)`` makes a network ``(x, t)`` on points of this shape: `MLP`,
        `UNet`. Two are made. A position that is no array is raveled to a vector.
    base
        A law of the same template that offers exact draws, `ppl.from_distribution` and others; by
        default the Gaussian of the data's mean and overall standard deviation.
    interpolant
        `LinearInterpolant` or `TrigonometricInterpolant`.
    diffusion, num_steps
        As in `InterpolantPrior`; they do not enter training.
    num_updates, num_rows, learning_rate, ema_decay
        As in `DenoisingDiffusion`.

    Raises
    ------
    TargetError
        Before compilation: for data that are not floating, and for a base that has no exact draws
        or other ones than the data.

    Differences from the paper
    --------------------------
    f, which stays finite where the law is smooth, is learned in the place of the denoiser
    ``gamma f``, with the same loss, and all is in units of the data's standard deviation.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"data"})
    exactness: ClassVar[Exactness] = "biased"

    network: Any = eqx.field(static=True, default=MLP)
    base: Any = None
    interpolant: Interpolant = eqx.field(default_factory=LinearInterpolant)
    diffusion: Any = eqx.field(converter=_diffusion, default=0.0)
    num_steps: int = size("num_steps", default=50)
    num_updates: int = size("num_updates", default=5000)
    num_rows: int = size("num_rows", default=256)
    learning_rate: Float[Array, ""] = positive("learning_rate", default=2e-3)
    ema_decay: Float[Array, ""] = fraction("ema_decay", default=0.995)
    template: PyTree | None = None

    def check(self, target: Any) -> None:
        floating = [jnp.issubdtype(x.dtype, jnp.floating) for x in jax.tree.leaves(target.template)]
        if not all(floating):
            raise TargetError(
                "StochasticInterpolant adds Gaussian noise, so the data must be floating; rows of "
                f"these are {describe(target.template)}"
            )
        if self.base is not None:
            if "sample" not in self.base.offers:
                raise TargetError(
                    "base is a law with exact draws, such as ppl.from_distribution(...); "
                    f"{type(self.base).__name__} has none"
                )
            if describe(self.base.template) != describe(target.template):
                raise TargetError(
                    f"base must have the data's template, {describe(target.template)}; its own is "
                    f"{describe(self.base.template)}"
                )

    def resolve(self, target: Any) -> "StochasticInterpolant":
        return replace(self, template=target.template)

    # Training -------------------------------------------------------------------------------

    def init(self, rng_key: PRNGKeyArray, target: Any) -> TrainingState:
        rows = jax.vmap(flat)(target.rows)
        mean = jnp.mean(rows, axis=0)
        sd = jnp.sqrt(jnp.mean((rows - mean) ** 2))
        networks = jax.tree.map(
            lambda w: w.astype(mean.dtype) if eqx.is_inexact_array(w) else w,
            [self.network(key, mean.shape) for key in random.split(rng_key)],
        )
        velocity, pull = networks
        fields = Fields(velocity, pull, mean, sd)
        optimizer = self._optimizer.init(eqx.filter(fields, eqx.is_inexact_array))
        return TrainingState(fields, fields, sd, optimizer, jnp.zeros((), jnp.int32))

    def step(
        self, rng_key: PRNGKeyArray, target: Any, state: TrainingState
    ) -> tuple[TrainingState, TrainingInfo]:
        batch = self.batch(rng_key, target, state)
        loss, gradient = eqx.filter_value_and_grad(self.loss)(state.denoiser, *batch)
        updated, finite = update(self._optimizer, state, loss, gradient, self.ema_decay)
        evaluations = jnp.array([0, self.num_rows], jnp.int32)
        return updated, TrainingInfo(loss, ~finite, evaluations)

    def batch(
        self, rng_key: PRNGKeyArray, target: Any, state: TrainingState
    ) -> tuple[Array, Array, Array, Array]:
        """Starts, ends, times, and noises."""
        key_base, key_rows, key_times, key_noise = random.split(rng_key, 4)
        n, mean, sd = self.num_rows, state.denoiser.mean, state.denoiser.sd
        rows = target.at(random.randint(key_rows, (n,), 0, target.num_data))
        start = self._law(state.denoiser).starts(key_base, n)
        end = (jax.vmap(flat)(rows) - mean) / sd
        # One time in each n-th of [0, 1]: each is uniform, and means vary less.
        t = (random.uniform(key_times, (), sd.dtype) + jnp.arange(n, dtype=sd.dtype)) / n
        return start, end, t, random.normal(key_noise, start.shape, start.dtype)

    def loss(
        self, fields: Fields, start: Array, end: Array, t: Array, noise: Array
    ) -> Float[Array, ""]:
        """Least squares of ``a' x_0 + b' x_1`` and of z, a mean over rows and coordinates."""

        def one(start: Array, end: Array, t: Array, noise: Array) -> Array:
            w = self.interpolant(t)
            x = w.a * start + w.b * end + w.gamma * noise
            velocity = fields.velocity(x, t) - (w.a_rate * start + w.b_rate * end)
            denoiser = w.gamma * fields.pull(x, t) - noise
            return jnp.mean(velocity**2 + denoiser**2)

        return jnp.mean(jax.vmap(one)(start, end, t, noise))

    @property
    def _optimizer(self) -> Any:
        return optax.adam(optax.cosine_decay_schedule(self.learning_rate, self.num_updates))

    # Draws ----------------------------------------------------------------------------------

    def _law(self, fields: Fields) -> InterpolantPrior:
        return InterpolantPrior(
            self.template, fields, self.base, self.interpolant, self.diffusion, self.num_steps
        )

    def prior(self, state: TrainingState) -> InterpolantPrior:
        """The learned law."""
        return self._law(state.average)

    def draw(
        self, rng_key: PRNGKeyArray, target: Energy, state: TrainingState, n: int
    ) -> tuple[Position, None]:
        return self.prior(state).sample(rng_key, n), None

    def evaluations(self, n: int) -> tuple[int, int]:
        return (0, 2 * self.num_steps * n)
