"""Adjoint sampling: a drift by regression, many updates for one gradient of the target.

    dX = g(t)^2 v(X, t) dt + g(t) dW,   X_0 = 0,    h(t) = int_0^t g^2,    h(1) = s^2
    minimize  E | v(x_t, t) - grad log R(x_1) - x_1 / h(1) |^2                  ([1], eq. 19)
    x_1 from the present process,  x_t | x_1 ~ N(h(t)/h(1) x_1, h(t) (1 - h(t)/h(1)) I)

At its fixed point the drift is the optimal control of `samplers.PIS` for this g. Nothing is
simulated for an update: ends of paths wait in a buffer with the gradient of the target there, and a
state on the way to an end is a draw of the bridge. So the target is evaluated once for each path
simulated, and each end is used many times. Paths are Gaussian steps of the same kernels as those of
PIS, with the variance of each step that of g, so that draws have the ratio of forward and backward
paths for a weight: they are asymptotically exact, and their mean weight is unbiased for Z.

References
----------
.. [1] Havens et al., "Adjoint sampling: highly scalable diffusion samplers via adjoint matching",
   ICML 2025, arXiv:2504.11713.
"""

from typing import Any

import equinox as eqx
from jaxtyping import Array, Float, Int, PRNGKeyArray

from ppl.energy import Energy
from ppl.sampler import fraction, positive, share, size
from samplers.trajectory.control import Control, small
from samplers.trajectory.matching import Ends, MatchingSampler
from samplers.trajectory.pis import Bridge


class AdjointSampling(MatchingSampler):
    """Adjoint sampling: asymptotically exact through its weights.

    Parameters
    ----------
    num_steps
        Of a path, evenly spaced in t.
    num_updates
        Adam updates; the learning rate falls to zero along a half cosine over them.
    num_paths
        Paths simulated at a time.
    every
        Updates from one simulation to the next.
    batch
        Ends in an update.
    capacity
        Ends the buffer holds.
    scale
        The s above, in units of the unconstrained position.
    ratio
        g(1) / g(0), along a geometric path: below 1 steps shrink toward the target.
    learning_rate
        Of the first update.
    kept
        Share of the ends in the buffer that weights leave effective, at least: 0, they are drawn by
        the whole weights of their paths; 1, all alike, as in the paper, and modes may be lost.
    reach
        How far, in units of s, a gradient may send a path by itself, by coordinate.
    network
        As in `samplers.PIS`.

    Differences from the paper
    --------------------------
    The paper's draws have no weights, and its buffer none: what it trains on is whatever the last
    few rounds have left there. Its label is f alone (`samplers.trajectory.matching`), with a
    gradient cut at a given norm. With x_1 / h(1) added to that, far ends are sent farther, and in
    many dimensions training explodes.
    """

    num_steps: int = size("num_steps", default=50)
    num_updates: int = size("num_updates", default=3000)
    num_paths: int = size("num_paths", minimum=2, default=256)
    every: int = size("every", default=20)
    batch: int = size("batch", default=256)
    capacity: int = size("capacity", default=2048)
    scale: Float[Array, ""] = positive("scale", default=2.0)
    ratio: Float[Array, ""] = fraction("ratio", default=0.2)
    learning_rate: Float[Array, ""] = positive("learning_rate", default=5e-3)
    kept: Float[Array, ""] = share("kept", default=0.2)
    reach: Float[Array, ""] = positive("reach", default=3.0)
    network: Any = eqx.field(static=True, default=small)

    def first(self, rng_key: PRNGKeyArray, num_dims: int, dtype: Any) -> tuple[Control]:
        return (Control(rng_key, self.network, num_dims, None, dtype),)

    def kernels(self, target: Energy, learned: tuple[Control]) -> Bridge:
        reward = self.reward(target)
        dtype = reward.target.template.dtype
        shares = self.shares(dtype)
        return Bridge(reward, learned[0], self.scale.astype(dtype), shares, guided=False)  # pyright: ignore

    def width(self, kernels: Bridge) -> Float[Array, ""]:
        return kernels.scale

    def push(self, kernels: Bridge, ends: Ends) -> Float[Array, " d"]:
        return kernels.scale * ends.gradient + ends.x1 / kernels.scale

    def residual(
        self,
        part: int,
        kernels: Bridge,
        stiffness: Float[Array, " d"],
        ends: Ends,
        n: Int[Array, ""],
        x: Float[Array, " d"],
    ) -> Float[Array, " d"]:
        """In units of 1 / s."""
        u, push = kernels.control(n, x, None), self.push(kernels, ends)
        return self.off_label(kernels, stiffness, u, push, ends, n, x)
