"""Time-reversed diffusion sampler (DIS): a variance-preserving diffusion, reversed.

    forward    dX = (b(t) X + g(t) u(X, t)) dt + g(t) dW,   X_0 ~ N(0, s^2 I)       ([1], eq. 21)
    backward   dX = -b(t) X dt + g(t) dW, in the other direction,   g = s sqrt(2 b)

Backward, any law comes to N(0, s^2 I), and the optimal u is g times the score of what is on its
way. In Euler steps of length h,

    P_F(x' | x) = N(x + h (b x + g u), h g^2 I),    P_B(x | x') = N(x' - h b x', h g^2 I)

The weight of a path is the ratio of these kernels and of R, which needs no divergence of the drift
and is exact at any number of steps: draws are asymptotically exact and their mean weight unbiased
for Z.

References
----------
.. [1] Berner, Richter and Ullrich, "An optimal control perspective on diffusion-based generative
   modeling", TMLR 2024, arXiv:2211.01364.
.. [2] Richter and Berner, "Improved sampling via learned diffusions", ICLR 2024, arXiv:2307.01198.
   Log-variance for the same paths.
"""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jax import random
from jaxtyping import Array, Float, Int, PRNGKeyArray

from ppl.sampler import positive
from samplers.trajectory.control import Control, tamed, to_the_end
from samplers.trajectory.kernels import Kernels, Law, Look, Reward
from samplers.trajectory.sampler import PathSampler


class VariancePreserving(Kernels):
    """Euler steps of both equations; ``rate`` is h b at the start of each step.

    ``kept`` is the share of a state that is left at the end, in continuous time.
    """

    reward: Reward
    learned: Control
    scale: Float[Array, ""]
    rate: Float[Array, " N"]
    kept: Float[Array, " states"]
    guided: bool = eqx.field(static=True)

    @property
    def num_steps(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        """As many as the schedule has."""
        return self.rate.size

    def start(self, rng_key: PRNGKeyArray) -> Float[Array, " d"]:
        template = self.reward.target.template
        return self.scale * random.normal(rng_key, template.shape, template.dtype)

    def log_start(self, x: Float[Array, " d"]) -> Float[Array, ""]:
        return Law(jnp.zeros_like(x), self.scale).log_density(x)

    def control(
        self, n: Int[Array, ""], x: Float[Array, " d"], look: Look | None
    ) -> Float[Array, " d"]:
        """S times the score: that of the reference at first, that of the target at last."""
        t = n.astype(x.dtype) / self.num_steps
        push = None
        if look is not None and look.gradient is not None:
            kept = self.kept[n]
            gradient = self.scale * look.gradient + x / self.scale
            push = kept * tamed(gradient, 1 - kept**2, whole=self.learned.turns)
        return self.learned(x / self.scale, t, push) - x / self.scale

    def forward(self, n: Int[Array, ""], x: Float[Array, " d"], u: Any, look: Look | None) -> Law:
        # g u h with u = g score and g^2 = 2 s^2 b.
        drift = self.rate[n] * (x + 2 * self.scale * u)
        return Law(x + drift, self._sd(n))

    def backward(self, n: Int[Array, ""], x: Float[Array, " d"], u: Any, look: Look | None) -> Law:
        return Law(x - self.rate[n] * x, self._sd(n))

    def log_reference(
        self, n: Int[Array, ""], x: Float[Array, " d"], look: Look | None
    ) -> Float[Array, ""]:
        return self.log_start(x)

    def _sd(self, n: Int[Array, ""]) -> Float[Array, ""]:
        return self.scale * jnp.sqrt(2 * self.rate[n])


class DIS(PathSampler):
    """Time-reversed diffusion sampler: asymptotically exact through its weights.

    Parameters
    ----------
    scale
        The s above, in units of the unconstrained position.
    slowest, fastest
        b at the target and at the source, in units of 1 over the whole time; along a half cosine
        in between.

    Differences from the paper
    --------------------------
    The paper's weight is that of continuous time. What the network adds to is the score of the
    reference, which the control is without a target; theirs adds to zero, where paths explode.
    """

    scale: Float[Array, ""] = positive("scale", default=2.0)
    slowest: Float[Array, ""] = positive("slowest", default=0.01)
    fastest: Float[Array, ""] = positive("fastest", default=10.0)

    def first(self, rng_key: PRNGKeyArray, num_dims: int, dtype: Any) -> Control:
        return Control(rng_key, self.network, num_dims, 1.0 if self.guided else None, dtype)

    def kernels(self, reward: Reward, learned: Control) -> VariancePreserving:
        dtype = reward.target.template.dtype
        t = jnp.arange(self.num_steps, dtype=dtype) / self.num_steps
        slow, fast = self.slowest.astype(dtype), self.fastest.astype(dtype)
        rate = (slow + (fast - slow) * jnp.cos(0.5 * jnp.pi * t) ** 2) / self.num_steps
        scale = self.scale.astype(dtype)
        return VariancePreserving(  # pyright: ignore[reportCallIssue]
            reward=reward, learned=learned, scale=scale, rate=rate, kept=to_the_end(rate),
            guided=self.guided,
        )  # fmt: skip
