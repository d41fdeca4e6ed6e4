"""Adjoint Schroedinger bridge sampler (ASBS): adjoint sampling from a source of any width.

    dX = g(t)^2 v(X, t) dt + g(t) dW,   X_0 ~ N(0, s0^2 I),    h(t) = int_0^t g^2,    h(1) = s^2

Among the processes that go from the source to the target, the Schroedinger bridge is the nearest to
Brownian motion. `AdjointSampling` needs a source that is a point, so that the end is independent of
where a path began; here both are dependent, and a corrector takes account of it [1]:

    adjoint matching      min_v  E | v(x_t, t) - grad log R(x_1) + c(x_1) |^2         (eq. 14)
    corrector matching    min_c  E | c(x_1) - grad log p(x_1 | x_0) |^2               (eq. 15)

with p(x_1 | x_0) = N(x_0, s^2 I) the law of Brownian motion, ends (x_0, x_1) of paths of the
present process, and x_t from the Brownian bridge between them. They take turns; each pair is a step
of iterative proportional fitting, which converges to the Schroedinger bridge.

The corrector is learned in the middle of the way as well, as m(x, t) = E[x_0 | x_t = x]:

    c(x) = (m(x, 1) - x) / s^2
    P_B(x_n | x_n+1) = N(l x_n+1 + (1 - l) m(x_n+1, t_n+1), .),    l = h(t_n) / h(t_n+1)

which gives paths a backward kernel: that of the Brownian bridge to where the path seems to have
begun. The ratio of both kernels is the weight of a path. So weighted draws are asymptotically exact
and their mean weight is unbiased for Z, whatever was learned.

References
----------
.. [1] Liu et al., "Adjoint Schroedinger bridge sampler", NeurIPS 2025, arXiv:2506.22565.
.. [2] Havens et al., "Adjoint sampling: highly scalable diffusion samplers via adjoint matching",
   ICML 2025, arXiv:2504.11713.
"""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jax import lax, random
from jaxtyping import Array, Float, Int, PRNGKeyArray

from ppl.energy import Energy
from ppl.sampler import fraction, positive, share, size
from samplers.trajectory.control import Control, small
from samplers.trajectory.kernels import Kernels, Law, Look, Reward
from samplers.trajectory.matching import CONTROL, Ends, MatchingSampler

CORRECTOR = 1


class SchrodingerBridge(Kernels):
    """Controlled Brownian motion from a Gaussian, and back to where it seems to have begun."""

    reward: Reward
    learned: tuple[Any, Any]
    scale: Float[Array, ""]
    source_scale: Float[Array, ""]
    shares: Float[Array, " states"]
    guided: bool = eqx.field(static=True, default=False)

    @property
    def num_steps(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        """As many as there are shares, but for the first."""
        return self.shares.size - 1

    def start(self, rng_key: PRNGKeyArray) -> Float[Array, " d"]:
        template = self.reward.target.template
        return self.source_scale * random.normal(rng_key, template.shape, template.dtype)

    def log_start(self, x: Float[Array, " d"]) -> Float[Array, ""]:
        return Law(jnp.zeros_like(x), self.source_scale).log_density(x)

    def control(
        self, n: Int[Array, ""], x: Float[Array, " d"], look: Look | None
    ) -> tuple[Float[Array, " d"], Float[Array, " d"]]:
        """U = s v, and m."""
        return self.drift(n, x), self.began(n, x)

    def drift(self, n: Int[Array, ""], x: Float[Array, " d"]) -> Float[Array, " d"]:
        """U = s v."""
        return self._say(CONTROL, n, x)

    def began(self, n: Int[Array, ""], x: Float[Array, " d"]) -> Float[Array, " d"]:
        """The m above: that of Brownian motion, and what is learned."""
        brownian = self.source_scale**2 / self.variance(n)
        return brownian * x + self.source_scale * self._say(CORRECTOR, n, x)

    def _say(self, part: int, n: Int[Array, ""], x: Float[Array, " d"]) -> Float[Array, " d"]:
        t = jnp.asarray(n).astype(x.dtype) / self.num_steps
        return self.learned[part](x / jnp.sqrt(self.variance(self.num_steps)), t, None)

    def variance(self, n: Any) -> Float[Array, ""]:
        """Of the n-th state without control."""
        return self.source_scale**2 + self.scale**2 * self.shares[n]

    def forward(self, n: Int[Array, ""], x: Float[Array, " d"], u: Any, look: Look | None) -> Law:
        step = self.shares[n + 1] - self.shares[n]
        return Law(x + step * self.scale * u[CONTROL], self.scale * jnp.sqrt(step))

    def backward(self, n: Int[Array, ""], x: Float[Array, " d"], u: Any, look: Look | None) -> Law:
        step, left = self.shares[n + 1] - self.shares[n], self.shares[n] / self.shares[n + 1]
        # That of Brownian motion, where what x_0 leaves open is counted.
        shrunk = self.variance(n) / self.variance(n + 1)
        sd = self.scale * jnp.sqrt(step * shrunk)
        return Law(left * x + (1 - left) * u[CORRECTOR], sd)

    def log_reference(
        self, n: Int[Array, ""], x: Float[Array, " d"], look: Look | None
    ) -> Float[Array, ""]:
        return Law(jnp.zeros_like(x), jnp.sqrt(self.variance(n))).log_density(x)


class ASBS(MatchingSampler):
    """Adjoint Schroedinger bridge sampler: asymptotically exact through its weights.

    Parameters
    ----------
    num_steps
        Of a path, evenly spaced in t.
    num_updates
        Adam updates, of control and corrector together; the learning rate falls to zero along a
        half cosine over them.
    num_paths
        Paths simulated at a time.
    every
        Updates from one simulation to the next; with it the turn goes from the control to the
        corrector and back.
    batch
        Pairs of ends in an update.
    capacity
        Pairs of ends the buffer holds.
    scale
        The s0 above, in units of the unconstrained position: about the width of the target.
    noise
        s / s0: the smaller, the more a path keeps of where it began.
    ratio
        g(1) / g(0), along a geometric path: below 1 steps shrink toward the target.
    learning_rate
        Of the first update.
    kept
        Share of the ends in the buffer that weights leave effective, at least: 0, they are drawn by
        the whole weights of their paths; 1, all alike, as in the paper, and modes may be lost.
    reach
        How far a gradient may send a path by itself, by coordinate, in standard deviations of an
        end without control.
    network
        As in `samplers.PIS`; control and corrector have one each.

    Differences from the paper
    --------------------------
    The paper's corrector is a function of x_1 that begins as zero; here it begins as that of the
    source carried along by Brownian motion, and is learned at all times, which gives the draws
    their weights. Labels are mixed, cut and drawn as those of `AdjointSampling`. The source is
    Gaussian; the paper's harmonic one, for molecules, is not offered.
    """

    num_steps: int = size("num_steps", default=50)
    num_updates: int = size("num_updates", default=4000)
    num_paths: int = size("num_paths", minimum=2, default=256)
    every: int = size("every", default=20)
    batch: int = size("batch", default=256)
    capacity: int = size("capacity", default=2048)
    scale: Float[Array, ""] = positive("scale", default=2.0)
    noise: Float[Array, ""] = positive("noise", default=0.5)
    ratio: Float[Array, ""] = fraction("ratio", default=0.2)
    learning_rate: Float[Array, ""] = positive("learning_rate", default=5e-3)
    kept: Float[Array, ""] = share("kept", default=0.2)
    reach: Float[Array, ""] = positive("reach", default=3.0)
    network: Any = eqx.field(static=True, default=small)

    def first(self, rng_key: PRNGKeyArray, num_dims: int, dtype: Any) -> tuple[Control, Control]:
        keys = random.split(rng_key)
        control, corrector = (Control(k, self.network, num_dims, None, dtype) for k in keys)
        return control, corrector

    def kernels(self, target: Energy, learned: tuple[Any, Any]) -> SchrodingerBridge:
        reward = self.reward(target)
        dtype = reward.target.template.dtype
        return SchrodingerBridge(  # pyright: ignore[reportCallIssue]
            reward,
            learned,
            (self.noise * self.scale).astype(dtype),
            self.scale.astype(dtype),
            self.shares(dtype),
        )

    def width(self, kernels: SchrodingerBridge) -> Float[Array, ""]:
        return jnp.sqrt(kernels.variance(self.num_steps))

    def push(self, kernels: SchrodingerBridge, ends: Ends) -> Float[Array, " d"]:
        last = jnp.asarray(self.num_steps)
        back = lax.stop_gradient(kernels.began(last, ends.x1)) - ends.x1
        return kernels.scale * ends.gradient - back / kernels.scale

    def residual(
        self,
        part: int,
        kernels: SchrodingerBridge,
        stiffness: Float[Array, " d"],
        ends: Ends,
        n: Int[Array, ""],
        x: Float[Array, " d"],
    ) -> Float[Array, " m"]:
        """Of the control in units of 1 / s; of the corrector, here and at t = 1, in those of s0."""
        if part == CONTROL:
            u, push = kernels.drift(n, x), self.push(kernels, ends)
            return self.off_label(kernels, stiffness, u, push, ends, n, x)
        last = jnp.asarray(self.num_steps)
        off = [kernels.began(n, x) - ends.x0, kernels.began(last, ends.x1) - ends.x0]
        return jnp.concatenate(off) / kernels.source_scale
