"""Path integral sampler (PIS): from a point to the target in unit time.

    dX_t = s u(X_t, t) dt + s dW_t,   X_0 = 0                                       ([1], eq. 1)

With u = 0 the end is N(0, s^2 I), the reference; the optimal u makes it the target. In steps of
length h, which shrink along a geometric path so that the last is not wider than a mode,

    P_F(x' | x) = N(x + h s u(x, t), h s^2 I)
    P_B(x | x') = N(t / (t + h) x', t / (t + h) h s^2 I),   the Brownian bridge to 0

The weight of a path is the ratio of these kernels and of R, so that it is exact at any number of
steps: draws are asymptotically exact, and their mean weight unbiased for Z. Training on reverse KL
is the paper's; on trajectory balance or VarGrad with exploration, replay and local search it is the
continuous GFlowNet of [2]. Modes that lie outside of a few s are not found: s should be the
distance of the farthest from 0.

References
----------
.. [1] Zhang and Chen, "Path integral sampler: a stochastic control approach for sampling", ICLR
   2022, arXiv:2111.15141.
.. [2] Sendera et al., "Improved off-policy training of diffusion samplers", NeurIPS 2024,
   arXiv:2402.05098.
"""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from ppl.sampler import fraction, positive
from samplers.trajectory.control import Control, tamed
from samplers.trajectory.kernels import Kernels, Law, Look, Reward
from samplers.trajectory.sampler import PathSampler


class Bridge(Kernels):
    """Controlled Brownian motion from 0, and the Brownian bridge back.

    ``shares`` are the variances of the states without control, as shares of s^2, from 0 to 1.
    """

    reward: Reward
    learned: Control
    scale: Float[Array, ""]
    shares: Float[Array, " states"]
    guided: bool = eqx.field(static=True)

    @property
    def num_steps(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        """As many as there are shares, but for the first."""
        return self.shares.size - 1

    def start(self, rng_key: PRNGKeyArray) -> Float[Array, " d"]:
        return jnp.zeros(self.reward.target.template.shape, self.scale.dtype)

    def log_start(self, x: Float[Array, " d"]) -> Float[Array, ""]:
        return jnp.zeros((), x.dtype)

    def control(
        self, n: Int[Array, ""], x: Float[Array, " d"], look: Look | None
    ) -> Float[Array, " d"]:
        t = jnp.asarray(n).astype(x.dtype) / self.num_steps
        push = None
        if look is not None and look.gradient is not None:
            gradient, left = self.scale * look.gradient + x / self.scale, 1 - self.shares[n]
            push = tamed(gradient, left, whole=self.learned.turns)
        return self.learned(x / self.scale, t, push)

    def forward(self, n: Int[Array, ""], x: Float[Array, " d"], u: Any, look: Look | None) -> Law:
        step = self.shares[n + 1] - self.shares[n]
        return Law(x + step * self.scale * u, self.scale * jnp.sqrt(step))

    def backward(self, n: Int[Array, ""], x: Float[Array, " d"], u: Any, look: Look | None) -> Law:
        step, left = self.shares[n + 1] - self.shares[n], self.shares[n] / self.shares[n + 1]
        return Law(left * x, self.scale * jnp.sqrt(left * step))

    def log_reference(
        self, n: Int[Array, ""], x: Float[Array, " d"], look: Look | None
    ) -> Float[Array, ""]:
        # Not narrower than after one step: the source is a point.
        sd = self.scale * jnp.sqrt(self.shares[jnp.maximum(n, 1)])
        return Law(jnp.zeros_like(x), sd).log_density(x)


def geometric_shares(
    num_steps: int, ratio: Float[Array, ""], dtype: Any
) -> Float[Array, " states"]:
    """Shares of the variance where g(t) = g(0) ratio^t, in even steps of t."""
    t = jnp.arange(num_steps + 1, dtype=dtype) / num_steps
    log_ratio = jnp.log(ratio.astype(dtype))
    return jnp.expm1(2 * log_ratio * t) / jnp.expm1(2 * log_ratio)


class PIS(PathSampler):
    """Path integral sampler: asymptotically exact through its weights.

    Parameters
    ----------
    scale
        The s above, in units of the unconstrained position.
    ratio
        Square root of the last step's length against the first's; near 1 all are alike.

    Differences from the paper
    --------------------------
    The paper's weight is Girsanov's, with a discretization error; ours is the ratio of the kernels
    of the steps. Its loss is differentiated through the path, ``ReverseKL(reparametrized=True)``.
    Its steps are all alike. Its gain on the gradient begins at 0.01 and ours at 1, where the
    control is right at t = 1; before that the gradient is shortened
    (`samplers.trajectory.control`), and it is that of R against the reference.
    """

    scale: Float[Array, ""] = positive("scale", default=2.0)
    ratio: Float[Array, ""] = fraction("ratio", default=0.2)

    def first(self, rng_key: PRNGKeyArray, num_dims: int, dtype: Any) -> Control:
        return Control(rng_key, self.network, num_dims, 1.0 if self.guided else None, dtype)

    def kernels(self, reward: Reward, learned: Control) -> Bridge:
        dtype = reward.target.template.dtype
        shares = geometric_shares(self.num_steps, self.ratio, dtype)
        return Bridge(reward, learned, self.scale.astype(dtype), shares, self.guided)  # pyright: ignore
