"""Denoising diffusion sampler (DDS): a stationary Ornstein-Uhlenbeck process, reversed.

    P_F(x' | x) = N(a x + s b^2 u(x, t), s^2 b^2 I),   x_0 ~ N(0, s^2 I)        ([1], section 3.3)
    P_B(x | x') = N(a x', s^2 b^2 I),   a^2 + b^2 = 1

P_B is the exact transition of the process that turns any law into N(0, s^2 I), and with u = 0 P_F
is the same, so that nothing moves; the optimal u is the score of the process against that of the
reference. The steps shrink toward the target: b_n^2 = 1 - exp(-c p_n), with p_n the shares of
cos^4. The weight of a path is the ratio of the kernels and of R: draws are asymptotically exact,
and their mean weight unbiased for Z, at any number of steps.

References
----------
.. [1] Vargas, Grathwohl and Doucet, "Denoising diffusion samplers", ICLR 2023, arXiv:2302.13834.
   Section 3.3: the steps. Appendix: the cosine schedule.
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


class OrnsteinUhlenbeck(Kernels):
    """Steps of the stationary process, controlled forward.

    ``kept`` is the share of a state that is left at the end.
    """

    reward: Reward
    learned: Control
    scale: Float[Array, ""]
    shrink: Float[Array, " N"]
    sd: Float[Array, " N"]
    kept: Float[Array, " states"]
    guided: bool = eqx.field(static=True)

    @property
    def num_steps(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        """As many as the schedule has."""
        return self.sd.size

    def start(self, rng_key: PRNGKeyArray) -> Float[Array, " d"]:
        template = self.reward.target.template
        return self.scale * random.normal(rng_key, template.shape, template.dtype)

    def log_start(self, x: Float[Array, " d"]) -> Float[Array, ""]:
        return Law(jnp.zeros_like(x), self.scale).log_density(x)

    def control(
        self, n: Int[Array, ""], x: Float[Array, " d"], look: Look | None
    ) -> Float[Array, " d"]:
        t = n.astype(x.dtype) / self.num_steps
        push = None
        if look is not None and look.gradient is not None:
            kept = self.kept[n]
            gradient = self.scale * look.gradient + x / self.scale
            push = kept * tamed(gradient, 1 - kept**2, whole=self.learned.turns)
        return self.learned(x / self.scale, t, push)

    def forward(self, n: Int[Array, ""], x: Float[Array, " d"], u: Any, look: Look | None) -> Law:
        drift = self.scale * self.sd[n] ** 2 * u
        return Law(self.shrink[n] * x + drift, self.scale * self.sd[n])

    def backward(self, n: Int[Array, ""], x: Float[Array, " d"], u: Any, look: Look | None) -> Law:
        return Law(self.shrink[n] * x, self.scale * self.sd[n])

    def log_reference(
        self, n: Int[Array, ""], x: Float[Array, " d"], look: Look | None
    ) -> Float[Array, ""]:
        return self.log_start(x)


class DDS(PathSampler):
    """Denoising diffusion sampler: asymptotically exact through its weights.

    Parameters
    ----------
    scale
        The s above, in units of the unconstrained position.
    duration
        The c above: of the start a share of exp(-c / 2) is left in the end.

    Differences from the paper
    --------------------------
    The paper takes b_n^2 = c p_n, which may exceed 1 for few steps. The control sees the gradient
    against the reference's, shortened by the noise to come (`samplers.trajectory.control`). The
    paper has a variant with momentum, which is not here.
    """

    scale: Float[Array, ""] = positive("scale", default=2.0)
    duration: Float[Array, ""] = positive("duration", default=6.0)

    def first(self, rng_key: PRNGKeyArray, num_dims: int, dtype: Any) -> Control:
        return Control(rng_key, self.network, num_dims, 1.0 if self.guided else None, dtype)

    def kernels(self, reward: Reward, learned: Control) -> OrnsteinUhlenbeck:
        dtype = reward.target.template.dtype
        offset = 0.008
        t = jnp.arange(self.num_steps, dtype=dtype) / self.num_steps
        shares = jnp.cos(0.5 * jnp.pi * (t + offset) / (1 + offset)) ** 4
        times = self.duration.astype(dtype) * shares / jnp.sum(shares)
        shrink, sd = jnp.exp(-times / 2), jnp.sqrt(-jnp.expm1(-times))
        scale = self.scale.astype(dtype)
        return OrnsteinUhlenbeck(  # pyright: ignore[reportCallIssue]
            reward=reward, learned=learned, scale=scale, shrink=shrink, sd=sd,
            kept=to_the_end(times / 2), guided=self.guided,
        )  # fmt: skip
