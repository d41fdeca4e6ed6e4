"""Forward steps whose widths are learned beside their means.

    P_F(x' | x) = N(mean_F(n, x), sd_F(n)^2 exp(2 a(x, t))),    a = c tanh(network / c),  c = 2

A bridge to a mode that is narrow against the noise still to come, r before a step and r' after it,
has the variance (r - r') r' / r and not r - r'. By the latter a step costs, for each coordinate,

    (1 / 2) (r' / r - 1 - log r' / r)   nats of Kullback-Leibler divergence,

0.006 where r falls by a seventh: more than two in all for ten coordinates and fifty steps, and none
for a wide mode. A sampler that cannot do otherwise keeps away from what is narrow. The network sees
the state, so that a step is narrow where the target is, and begins as zero. As an option in [1]; in
few steps it counts most. Of a network that turns as its input does (`samplers.EGNN`) a is a single
number, the mean of network times x.

References
----------
.. [1] Sendera et al., "Improved off-policy training of diffusion samplers", NeurIPS 2024,
   arXiv:2402.05098. Learned variance, within e^4 of the reference's.
"""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from samplers.trajectory.kernels import Kernels, Law, Look, Reward

LARGEST = 2.0  # the c above


class LearnedWidths(Kernels):
    """Kernels with the factor e^a on their forward steps; the network sees x / ``unit``."""

    within: Kernels
    network: Any
    unit: Float[Array, ""]

    @property
    def reward(self) -> Reward:  # pyright: ignore[reportIncompatibleVariableOverride]
        """That of the kernels within."""
        return self.within.reward

    @property
    def num_steps(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        """That of the kernels within."""
        return self.within.num_steps

    @property
    def guided(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """That of the kernels within."""
        return self.within.guided

    def start(self, rng_key: PRNGKeyArray) -> Float[Array, " d"]:
        return self.within.start(rng_key)

    def log_start(self, x: Float[Array, " d"]) -> Float[Array, ""]:
        return self.within.log_start(x)

    def control(self, n: Int[Array, ""], x: Float[Array, " d"], look: Look | None) -> Any:
        t, x_in = jnp.asarray(n).astype(x.dtype) / self.num_steps, x / self.unit
        a = self.network(x_in, t)
        if getattr(self.network, "turns", False):
            a = jnp.vdot(a, x_in) / x.size  # a number that turns with nothing
        log_factor = LARGEST * jnp.tanh(a / LARGEST)
        return self.within.control(n, x, look), log_factor

    def forward(self, n: Int[Array, ""], x: Float[Array, " d"], u: Any, look: Look | None) -> Law:
        law = self.within.forward(n, x, u[0], look)
        return Law(law.mean, law.sd * jnp.exp(u[1]))

    def backward(self, n: Int[Array, ""], x: Float[Array, " d"], u: Any, look: Look | None) -> Law:
        return self.within.backward(n, x, u[0], look)

    def log_reference(
        self, n: Int[Array, ""], x: Float[Array, " d"], look: Look | None
    ) -> Float[Array, ""]:
        return self.within.log_reference(n, x, look)
