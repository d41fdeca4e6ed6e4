"""Diffusion generative flow samplers (DGFS): PIS learned from pieces of paths, with learned flows.

    log F(x, t) = (1 - t) (log Z + log N(x; 0, t s^2 I)) + t log R(x) + A(x, t)       ([1], eq. 18)

The kernels are those of `samplers.PIS`. What differs is the credit: with a flow of every state each
piece of a path has a residual of its own, and the flow looks ahead: it begins as the interpolation
from the reference to the reward, of which the target tells at every state. Draws are asymptotically
exact through their weights, whatever the flows have learned.

References
----------
.. [1] Zhang, Chen, Liu, Courville and Bengio, "Diffusion generative flow samplers: improving
   learning signals through partial trajectory optimization", ICLR 2024, arXiv:2310.02679.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from ppl.energy import Energy
from ppl.sampler import fraction, positive
from samplers.trajectory.control import Control
from samplers.trajectory.kernels import Kernels, Paths, along
from samplers.trajectory.objectives import SubTrajectoryBalance
from samplers.trajectory.pis import Bridge, geometric_shares
from samplers.trajectory.sampler import PathSampler


class DGFS(PathSampler):
    """Diffusion generative flow samplers: asymptotically exact through their weights.

    Parameters
    ----------
    scale, ratio
        As in `samplers.PIS`.
    objective
        By default `SubTrajectoryBalance` with a base of 2.

    Differences from the paper
    --------------------------
    Whole paths are trained on, and all of their pieces; residuals are not divided by the dimension,
    which Adam does not see. The share of log Z in the flow, which fades with t, is ours: there the
    network has to learn it. Theirs sees the reward with a learned factor.
    """

    objective: Any = eqx.field(default_factory=lambda: SubTrajectoryBalance(jnp.asarray(2.0)))
    flow_learning_rate: Float[Array, ""] = positive("flow_learning_rate", default=1e-2)
    scale: Float[Array, ""] = positive("scale", default=2.0)
    ratio: Float[Array, ""] = fraction("ratio", default=0.2)

    def check(self, target: Energy) -> None:
        if not self.guided:
            raise ValueError("DGFS looks ahead by the target at each state: it has no guided=False")
        PathSampler.check(self, target)

    def first(self, rng_key: PRNGKeyArray, num_dims: int, dtype: Any) -> Control:
        return Control(rng_key, self.network, num_dims, 1.0, dtype)

    def kernels(self, reward: Any, learned: Control) -> Bridge:
        dtype = reward.target.template.dtype
        shares = geometric_shares(self.num_steps, self.ratio, dtype)
        return Bridge(reward, learned, self.scale.astype(dtype), shares, True)  # pyright: ignore

    def looked_ahead(
        self, kernels: Kernels, paths: Paths, log_z: Float[Array, ""]
    ) -> Float[Array, "states B"]:
        steps = jnp.arange(kernels.num_steps + 1)
        reference = along(kernels.log_reference)(steps, paths.states, paths.looks)
        assert paths.looks is not None
        floor = -self.energy_clip.astype(reference.dtype)
        log_reward = jnp.maximum(jax.lax.stop_gradient(paths.looks.log_reward), floor)
        t = (steps / kernels.num_steps).astype(reference.dtype)[:, None]
        return (1 - t) * (log_z + reference) + t * log_reward
