"""Controlled Monte Carlo diffusions (CMCD): annealed Langevin with a learned drift beside it.

    log pi_b = (1 - b) log N(x; 0, s^2 I) + b log R(x),    0 = b_0 < b_1 < .. < b_N = 1
    P_F(x' | x) = N(x + h_n (g_n(x) + u_n(x)), 2 h_n I)                             ([1], eq. 23)
    P_B(x | x') = N(x' + h_n (g_n+1(x') - u_n+1(x')), 2 h_n I)
    g_n = f / sqrt(1 + h_n f^2),   f = grad log pi_b_n, by coordinate

No step along the gradient is longer than sqrt(h_n): where a mode is narrower than the step, the
plain gradient would throw paths out (`samplers.trajectory.control`). With u = 0 these are
unadjusted Langevin steps along the path of pi_b, forward and backward, and w is the work of
annealed importance sampling by them; the optimal u carries pi_b along, so that the law of x_n is
pi_b_n at every n and all weights are alike. Learned are u, the grid of b and, on reverse KL, the
lengths of the steps: the log-variance, ``objective=VarGrad()``, is one of given paths, which say
nothing of steps of another length. Draws are asymptotically exact and their mean weight is unbiased
for Z, at any number of steps.

References
----------
.. [1] Vargas, Padhy, Blessing and Nuesken, "Transport meets variational inference: controlled
   Monte Carlo diffusions", ICLR 2024, arXiv:2307.01050.
.. [2] Doucet, Grathwohl, Matthews and Strathmann, "Score-based diffusion meets annealed importance
   sampling", NeurIPS 2022, arXiv:2208.07698. Only P_B is learned.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax, random
from jaxtyping import Array, Float, Int, PRNGKeyArray

from ppl.sampler import positive
from samplers.trajectory.control import Control, tamed
from samplers.trajectory.kernels import Kernels, Law, Look, Reward
from samplers.trajectory.sampler import PathSampler


class Annealing(eqx.Module):
    """What is learned: u, increments of b and lengths of steps, both relative to the first."""

    control: Control
    increments: Float[Array, " N"]
    log_length: Float[Array, ""]


class AnnealedLangevin(Kernels):
    """Langevin steps along the path of pi_b, with u forward and against it backward."""

    reward: Reward
    learned: Control
    scale: Float[Array, ""]
    inverse_temperature: Float[Array, " levels"]
    length: Float[Array, " N"]
    guided: bool = eqx.field(static=True, default=True)

    @property
    def num_steps(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        """As many as the schedule has."""
        return self.length.size

    def start(self, rng_key: PRNGKeyArray) -> Float[Array, " d"]:
        template = self.reward.target.template
        return self.scale * random.normal(rng_key, template.shape, template.dtype)

    def log_start(self, x: Float[Array, " d"]) -> Float[Array, ""]:
        return Law(jnp.zeros_like(x), self.scale).log_density(x)

    def control(
        self, n: Int[Array, ""], x: Float[Array, " d"], look: Look | None
    ) -> Float[Array, " d"]:
        t = n.astype(x.dtype) / self.num_steps
        # In the unit of a score.
        return self.learned(x / self.scale, t, None) / self.scale

    def forward(self, n: Int[Array, ""], x: Float[Array, " d"], u: Any, look: Look | None) -> Law:
        drift = self._gradient(n, n, x, look) + u
        return Law(x + self.length[n] * drift, jnp.sqrt(2 * self.length[n]))

    def backward(self, n: Int[Array, ""], x: Float[Array, " d"], u: Any, look: Look | None) -> Law:
        drift = self._gradient(n, n + 1, x, look) - u
        return Law(x + self.length[n] * drift, jnp.sqrt(2 * self.length[n]))

    def log_reference(
        self, n: Int[Array, ""], x: Float[Array, " d"], look: Look | None
    ) -> Float[Array, ""]:
        return self.log_start(x)

    def log_level(
        self, n: Int[Array, ""], x: Float[Array, " d"], log_reward: Float[Array, ""]
    ) -> Float[Array, ""]:
        """Log pi_b of the n-th state."""
        b = self.inverse_temperature[n]
        # 0 * inf is NaN: at b = 0 the target is not looked at.
        end = jnp.where(b > 0, b * jnp.where(b > 0, log_reward, 0.0), 0.0)
        return (1 - b) * self.log_start(x) + end

    def _gradient(
        self, step: Int[Array, ""], n: Int[Array, ""], x: Float[Array, " d"], look: Look | None
    ) -> Float[Array, " d"]:
        """Gradient of log pi_b of the n-th state, no longer than a step of this length bears."""
        assert look is not None
        assert look.gradient is not None
        b = self.inverse_temperature[n]
        gradient = b * look.gradient - (1 - b) * x / self.scale**2
        return tamed(gradient, self.length[step], whole=self.learned.turns)


class CMCD(PathSampler):
    """Controlled Monte Carlo diffusions: asymptotically exact through its weights.

    Parameters
    ----------
    scale
        The s above, in units of the unconstrained position.
    step_size
        Mean of the h_n that training begins with, in units of s^2; they shrink along a half
        cosine toward the target, and are learned on reverse KL but for their shape.
    smallest
        Of the h_n at the target, relative to that at the source.

    Differences from the paper
    --------------------------
    The reference is not learned. The lengths are multiples of one shape. The paper's steps go by
    the plain gradient.
    """

    scale: Float[Array, ""] = positive("scale", default=2.0)
    step_size: Float[Array, ""] = positive("step_size", default=0.02)
    smallest: Float[Array, ""] = positive("smallest", default=0.1)

    def first(self, rng_key: PRNGKeyArray, num_dims: int, dtype: Any) -> Annealing:
        return untrained(rng_key, self.network, num_dims, self.num_steps, dtype)

    def kernels(self, reward: Reward, learned: Annealing) -> AnnealedLangevin:
        if self.objective.law == "any":  # of given paths
            learned = eqx.tree_at(lambda x: x.log_length, learned, replace_fn=lax.stop_gradient)
        return annealed_langevin(reward, learned, self.scale, self.step_size, self.smallest)


def untrained(
    rng_key: PRNGKeyArray, network: Any, num_dims: int, num_steps: int, dtype: Any
) -> Annealing:
    """No control, an even grid of b, and lengths as they are given."""
    control = Control(rng_key, network, num_dims, None, dtype)
    return Annealing(control, jnp.zeros(num_steps, dtype), jnp.zeros((), dtype))


def annealed_langevin(
    reward: Reward, learned: Annealing, scale: Array, step_size: Array, smallest: Array
) -> AnnealedLangevin:
    """The kernels of `CMCD` with these fields."""
    dtype, num_steps = reward.target.template.dtype, learned.increments.size
    shares = jax.nn.softmax(learned.increments)
    b = jnp.concatenate([jnp.zeros(1, dtype), jnp.cumsum(shares)]).at[-1].set(1.0)
    t = (jnp.arange(num_steps, dtype=dtype) + 0.5) / num_steps
    small = smallest.astype(dtype)
    shape = small + (1 - small) * jnp.cos(0.5 * jnp.pi * t) ** 2
    scale = scale.astype(dtype)
    length = step_size.astype(dtype) * scale**2 * shape / jnp.mean(shape)
    return AnnealedLangevin(  # pyright: ignore[reportCallIssue]
        reward=reward,
        learned=learned.control,
        scale=scale,
        inverse_temperature=b,
        length=length * jnp.exp(learned.log_length),
    )
