"""Training by regression on bridges: what `AdjointSampling` and `ASBS` have in common.

Paths are simulated now and then. Their ends, with the gradient of the target there, wait in a
buffer; between two simulations what is learned is regressed on states in the middle of the way,
which are draws of the bridge of Brownian motion between the ends of a path. Where there are several
things to learn, they take turns from one simulation to the next. Nothing is differentiated through
a path, and the target is evaluated once for each path.
"""

from abc import abstractmethod
from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax, random
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from ppl import weights
from ppl.energy import Energy, Position
from ppl.sampler import Exactness, LearnedSampler
from samplers.descent import adam, begin, descend, is_finite
from samplers.trajectory import replay
from samplers.trajectory.kernels import Reward, backward_paths, flattened, forward_paths
from samplers.trajectory.objectives import log_weights
from samplers.trajectory.pis import geometric_shares
from samplers.trajectory.replay import Buffer


class Ends(NamedTuple):
    """Where a path began and ended, and the gradient of the target at its end."""

    x0: Any
    x1: Any
    gradient: Any


class MatchingState(NamedTuple):
    """What is learned, Adam's moments, updates made, ends to regress on, the last diagnostics."""

    learned: tuple[Any, ...]
    optimizers: tuple[Any, ...]
    updates: Int[Array, ""]
    ends: Buffer
    judged: Float[Array, "3"]


class MatchingInfo(NamedTuple):
    """The loss of an update; ELBO, log mean weight (nats) and share of ESS of the last paths."""

    loss: Float[Array, ""]
    elbo: Float[Array, ""]
    log_evidence: Float[Array, ""]
    ess: Float[Array, ""]
    diverging: Bool[Array, ""]
    num_evaluations: Int[Array, "2"]


class MatchingSampler(LearnedSampler):
    """Abstract sampler that learns by regression on bridges; a method says what and on what."""

    needs: ClassVar[frozenset[str]] = frozenset({"log_density", "gradient"})
    exactness: ClassVar[Exactness] = "asymptotically exact"

    num_steps: eqx.AbstractVar[int]
    num_paths: eqx.AbstractVar[int]
    every: eqx.AbstractVar[int]
    batch: eqx.AbstractVar[int]
    capacity: eqx.AbstractVar[int]
    ratio: eqx.AbstractVar[Float[Array, ""]]
    learning_rate: eqx.AbstractVar[Float[Array, ""]]
    gradient_clip: eqx.AbstractVar[Float[Array, ""]]

    # What a method is ------------------------------------------------------------------------

    @abstractmethod
    def first(self, rng_key: PRNGKeyArray, num_dims: int, dtype: Any) -> tuple[Any, ...]:
        """What is learned, before training."""

    @abstractmethod
    def kernels(self, target: Energy, learned: tuple[Any, ...]) -> Any:
        """Kernels of the paths, with ``shares`` of the variance and the ``scale`` of all of it."""

    @abstractmethod
    def residual(
        self, part: int, kernels: Any, ends: Ends, n: Int[Array, ""], x: Float[Array, " d"]
    ) -> Float[Array, " m"]:
        """Of the regression of a part of what is learned, at the n-th state x of a path."""

    # Training --------------------------------------------------------------------------------

    def check(self, target: Energy) -> None:
        if self.capacity < self.num_paths:
            raise ValueError(
                f"the buffer holds {self.capacity} ends, fewer than the {self.num_paths} paths "
                "of a simulation; write a larger capacity, or a smaller num_paths"
            )

    def init(self, rng_key: PRNGKeyArray, target: Energy) -> MatchingState:
        template = flattened(target).template
        learned = self.first(rng_key, template.shape[0], template.dtype)
        ends = replay.empty(Ends(template, template, template), self.capacity, template.dtype)
        nothing = jnp.array([-jnp.inf, -jnp.inf, 0.0], template.dtype)
        moments = tuple(begin(self._optimizer(len(learned)), part) for part in learned)
        return MatchingState(learned, moments, jnp.zeros((), jnp.int32), ends, nothing)

    def step(
        self, rng_key: PRNGKeyArray, target: Energy, state: MatchingState
    ) -> tuple[MatchingState, MatchingInfo]:
        key_paths, key_draw, key_time, key_noise = random.split(rng_key, 4)
        now, num_parts = state.updates % self.every == 0, len(state.learned)
        turn = (state.updates // self.every) % num_parts

        def simulated() -> tuple[Buffer, Array]:
            kernels = self.kernels(target, state.learned)
            paths, scores = forward_paths(key_paths, kernels, self.num_paths)
            x0, x1 = paths.states[0], paths.states[-1]
            looks = jax.vmap(kernels.reward.with_gradient)(x1)
            good = jnp.isfinite(looks.log_reward)
            ends = Ends(x0, x1, looks.gradient)
            ends = replay.insert(state.ends, ends, looks.log_reward, good)
            w = log_weights(scores)
            judged = [jnp.mean(w), weights.log_mean_exp(w), weights.ess(w) / w.size]
            return ends, jnp.stack(judged)

        ends, judged = lax.cond(now, simulated, lambda: (state.ends, state.judged))
        drawn, _ = replay.draw(key_draw, ends, self.batch, replay.uniform)
        n = random.randint(key_time, (self.batch,), 0, self.num_steps)
        noise = random.normal(key_noise, drawn.x1.shape, drawn.x1.dtype)

        def loss_of(learned: tuple[Any, ...]) -> Array:
            kernels = self.kernels(target, learned)

            def of_part(part: int) -> Array:
                one = lambda *of_one: self._residual(part, kernels, *of_one)
                return jnp.mean(jnp.sum(jax.vmap(one)(drawn, n, noise) ** 2, axis=1))

            branches = [lambda part=part: of_part(part) for part in range(num_parts)]
            return lax.switch(turn, branches)

        loss, gradient = eqx.filter_value_and_grad(loss_of)(state.learned)
        fine = (ends.num_held > 0) & is_finite(loss, gradient)
        optimizer = self._optimizer(num_parts)
        moved = [
            descend(optimizer, *of_part, fine & (turn == part))
            for part, of_part in enumerate(
                zip(gradient, state.optimizers, state.learned, strict=True)
            )
        ]
        learned, optimizers = zip(*moved, strict=True)
        # The weights see the density once more, beside its gradient.
        spent = jnp.where(now, jnp.array([2, 1]) * self.num_paths, 0).astype(jnp.int32)
        after = MatchingState(learned, optimizers, state.updates + 1, ends, judged)
        elbo, log_evidence, share = judged
        return after, MatchingInfo(loss, elbo, log_evidence, share, ~fine, spent)

    def _residual(
        self, part: int, kernels: Any, ends: Ends, n: Int[Array, ""], noise: Float[Array, " d"]
    ) -> Float[Array, " m"]:
        """At the n-th state of a bridge; the gradient there is scaled to the clip."""
        share = kernels.shares[n]
        sd = kernels.scale * jnp.sqrt(share * (1 - share))
        x = (1 - share) * ends.x0 + share * ends.x1 + sd * noise
        norm = jnp.sqrt(jnp.maximum(jnp.vdot(ends.gradient, ends.gradient), 1e-30))
        clip = jnp.minimum(1.0, self.gradient_clip.astype(norm.dtype) / norm)
        return self.residual(part, kernels, ends._replace(gradient=clip * ends.gradient), n, x)

    # Draws -----------------------------------------------------------------------------------

    def draw(
        self, rng_key: PRNGKeyArray, target: Energy, state: MatchingState, n: int
    ) -> tuple[Position, Float[Array, " n"]]:
        kernels = self.kernels(target, state.learned)
        paths, scores = forward_paths(rng_key, kernels, n)
        return jax.vmap(kernels.reward.target.unravel)(paths.states[-1]), log_weights(scores)

    def log_weights(
        self, rng_key: PRNGKeyArray, target: Energy, state: MatchingState, positions: Position
    ) -> Float[Array, " n"]:
        """Weight of one backward path from each position."""
        flat = jax.vmap(lambda x: ravel_pytree(x)[0])(positions)
        kernels = self.kernels(target, state.learned)
        return log_weights(backward_paths(rng_key, kernels, flat)[1])

    def evaluations(self, n: int) -> tuple[int, int]:
        return (n, 0)

    # Parts -----------------------------------------------------------------------------------

    def reward(self, target: Energy) -> Reward:
        """The target on vectors. The buffer keeps long gradients: they are clipped where used."""
        flat = flattened(target)
        return Reward(flat, jnp.asarray(jnp.finfo(flat.template.dtype).max, flat.template.dtype))

    def shares(self, dtype: Any) -> Float[Array, " states"]:
        """h(t) / h(1) of g = g(0) ratio^t."""
        return geometric_shares(self.num_steps, self.ratio, dtype)

    def _optimizer(self, num_parts: int) -> Any:
        return adam(self.learning_rate, -(-self.num_updates // num_parts))
