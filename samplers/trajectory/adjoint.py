"""Adjoint sampling: a drift by regression, many updates for one gradient of the target.

    dX = g(t)^2 v(X, t) dt + g(t) dW,   X_0 = 0,    h(t) = int_0^t g^2,    h(1) = s^2
    minimise  E | v(x_t, t) - grad log R(x_1) - x_1 / h(1) |^2                  ([1], eq. 19)
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

from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jax import lax, random
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from ppl import weights
from ppl.energy import Energy, Position
from ppl.sampler import Exactness, LearnedSampler, fraction, positive, size, where
from samplers.mcmc.metropolis import all_finite
from samplers.trajectory import replay
from samplers.trajectory.control import Control, small
from samplers.trajectory.kernels import Reward, backward_paths, flattened, forward_paths
from samplers.trajectory.objectives import log_weights
from samplers.trajectory.pis import Bridge
from samplers.trajectory.replay import Buffer


class End(NamedTuple):
    """The end of a path, and the clipped gradient of the target there."""

    x: Any
    gradient: Any


class AdjointState(NamedTuple):
    """The control, Adam's moments, updates made, ends to regress on, and the last diagnostics."""

    control: Control
    optimizer: Any
    updates: Int[Array, ""]
    ends: Buffer
    judged: Float[Array, "3"]


class AdjointInfo(NamedTuple):
    """The loss of an update; ELBO, log mean weight (nats) and share of ESS of the last paths."""

    loss: Float[Array, ""]
    elbo: Float[Array, ""]
    log_evidence: Float[Array, ""]
    ess: Float[Array, ""]
    diverging: Bool[Array, ""]
    num_evaluations: Int[Array, "2"]


class AdjointSampling(LearnedSampler):
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
    gradient_clip
        Largest norm of the target's gradient; longer ones are scaled to it.
    network
        As in `samplers.PIS`.

    Differences from the paper
    --------------------------
    The paper's draws have no weights, nor corrections. Its process is trained on whatever is in the
    buffer of the last few rounds, as here; the loss is weighed by h(1) alone.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"log_density", "gradient"})
    exactness: ClassVar[Exactness] = "asymptotically exact"

    num_steps: int = size("num_steps", default=50)
    num_updates: int = size("num_updates", default=3000)
    num_paths: int = size("num_paths", minimum=2, default=256)
    every: int = size("every", default=20)
    batch: int = size("batch", default=256)
    capacity: int = size("capacity", default=2048)
    scale: Float[Array, ""] = positive("scale", default=2.0)
    ratio: Float[Array, ""] = fraction("ratio", default=0.2)
    learning_rate: Float[Array, ""] = positive("learning_rate", default=2e-3)
    gradient_clip: Float[Array, ""] = positive("gradient_clip", default=100.0)
    network: Any = eqx.field(static=True, default=small)

    def check(self, target: Energy) -> None:
        if self.capacity < self.num_paths:
            raise ValueError(
                f"the buffer holds {self.capacity} ends, fewer than the {self.num_paths} paths "
                "of a simulation; write a larger capacity, or a smaller num_paths"
            )

    # Training --------------------------------------------------------------------------------

    def init(self, rng_key: PRNGKeyArray, target: Energy) -> AdjointState:
        template = flattened(target).template
        control = Control(rng_key, self.network, template.shape[0], None, template.dtype)
        moments = self._optimizer.init(eqx.filter(control, eqx.is_inexact_array))
        ends = replay.empty(End(template, template), self.capacity, template.dtype)
        nothing = jnp.array([-jnp.inf, -jnp.inf, 0.0], template.dtype)
        return AdjointState(control, moments, jnp.zeros((), jnp.int32), ends, nothing)

    def step(
        self, rng_key: PRNGKeyArray, target: Energy, state: AdjointState
    ) -> tuple[AdjointState, AdjointInfo]:
        key_paths, key_draw, key_time, key_noise = random.split(rng_key, 4)
        kernels = self._kernels(target, state.control)
        now = state.updates % self.every == 0

        def simulated() -> tuple[Buffer, Array]:
            paths, scores = forward_paths(key_paths, kernels, self.num_paths)
            x = paths.states[-1]
            looks = jax.vmap(kernels.reward.with_gradient)(x)
            good = jnp.isfinite(looks.log_reward)
            ends = replay.insert(state.ends, End(x, looks.gradient), looks.log_reward, good)
            w = log_weights(scores)
            judged = [jnp.mean(w), weights.log_mean_exp(w), weights.ess(w) / w.size]
            return ends, jnp.stack(judged)

        ends, judged = lax.cond(now, simulated, lambda: (state.ends, state.judged))
        drawn, _ = replay.draw(key_draw, ends, self.batch, replay.uniform)
        n = random.randint(key_time, (self.batch,), 0, self.num_steps)
        noise = random.normal(key_noise, drawn.x.shape, drawn.x.dtype)
        held = ends.num_held > 0

        def loss_of(control: Control) -> Array:
            bridge = self._kernels(target, control)
            residual = jax.vmap(self._residual, (None, 0, 0, 0))(bridge, drawn, n, noise)
            return jnp.mean(jnp.sum(residual**2, axis=1))

        loss, gradient = eqx.filter_value_and_grad(loss_of)(state.control)
        updates, optimizer = self._optimizer.update(gradient, state.optimizer)
        moved = eqx.apply_updates(state.control, updates)
        finite = held & all_finite((loss, eqx.filter(gradient, eqx.is_inexact_array)))
        updated = state._replace(control=moved, optimizer=optimizer)
        kept = where(finite, *(eqx.filter(s, eqx.is_array) for s in (updated, state)))
        after = eqx.combine(kept, state)
        after = after._replace(updates=state.updates + 1, ends=ends, judged=judged)
        # The weights see the density once more, beside its gradient.
        spent = jnp.where(now, jnp.array([2, 1]) * self.num_paths, 0).astype(jnp.int32)
        elbo, log_evidence, share = judged
        return after, AdjointInfo(loss, elbo, log_evidence, share, ~finite, spent)

    def _residual(
        self, bridge: Bridge, end: End, n: Int[Array, ""], noise: Float[Array, " d"]
    ) -> Float[Array, " d"]:
        """Of the regression at the n-th state, in units of 1 / s."""
        share = bridge.shares[n]
        sd = bridge.scale * jnp.sqrt(share * (1 - share))
        u = bridge.control(n, share * end.x + sd * noise, None)
        norm = jnp.sqrt(jnp.maximum(jnp.vdot(end.gradient, end.gradient), 1e-30))
        clip = jnp.minimum(1.0, self.gradient_clip.astype(norm.dtype) / norm)
        return u - bridge.scale * clip * end.gradient - end.x / bridge.scale

    # Draws -----------------------------------------------------------------------------------

    def draw(
        self, rng_key: PRNGKeyArray, target: Energy, state: AdjointState, n: int
    ) -> tuple[Position, Float[Array, " n"]]:
        kernels = self._kernels(target, state.control)
        paths, scores = forward_paths(rng_key, kernels, n)
        return jax.vmap(kernels.reward.target.unravel)(paths.states[-1]), log_weights(scores)

    def log_weights(
        self, rng_key: PRNGKeyArray, target: Energy, state: AdjointState, positions: Position
    ) -> Float[Array, " n"]:
        """Weight of one backward path from each position."""
        flat = jax.vmap(lambda x: ravel_pytree(x)[0])(positions)
        kernels = self._kernels(target, state.control)
        return log_weights(backward_paths(rng_key, kernels, flat)[1])

    def evaluations(self, n: int) -> tuple[int, int]:
        return (n, 0)

    def _kernels(self, target: Energy, control: Control) -> Bridge:
        flat = flattened(target)
        dtype = flat.template.dtype
        t = jnp.arange(self.num_steps + 1, dtype=dtype) / self.num_steps
        log_ratio = jnp.log(self.ratio.astype(dtype))
        # h(t) / h(1) of g = g(0) ratio^t.
        shares = jnp.expm1(2 * log_ratio * t) / jnp.expm1(2 * log_ratio)
        # The buffer keeps long gradients; they are clipped by their norm where they are used.
        reward = Reward(flat, jnp.asarray(jnp.finfo(dtype).max, dtype))
        return Bridge(reward, control, self.scale.astype(dtype), shares, guided=False)  # pyright: ignore[reportCallIssue]

    @property
    def _optimizer(self) -> Any:
        schedule = optax.cosine_decay_schedule(self.learning_rate, self.num_updates)
        return optax.chain(optax.clip_by_global_norm(1.0), optax.adam(schedule))
