"""Training by regression on bridges: what `AdjointSampling` and `ASBS` have in common.

Paths are simulated now and then. Their ends, with the gradient of the target there, wait in a
buffer; between two simulations what is learned is regressed on states in the middle of the way,
which are draws of the bridge of Brownian motion between the ends of a path. Where there are several
things to learn, they take turns from one simulation to the next. Nothing is differentiated through
a path, and the target is evaluated a few times for each path.

The optimal control u, in units of 1 / s, is the mean of two labels, given the state x_t:

    f = s (grad log R(x_1) - what the method corrects by)                        [1, 2]
    D = (x_1 - x_t) / (s r),   r = 1 - h(t) / h(1)                               the bridge's own

f is loud, s / width for a mode, and D as loud as x_1 is uncertain; both have the same mean. So
their difference has none, and any mixture of both does,

    label = (f + rho r D) / (1 + r rho)

With 1 + rho = s^2 / width^2 a Gaussian mode has no noise in it at all, near a mode or far: where
ends are in the wrong place, it points to the right one, as Newton's step does, where f alone points
beyond, the farther off the worse. rho is the curvature of the target at the ends, by coordinate,
from a second gradient nearby. What still sends a path farther than ``reach`` widths of the law
without control is cut, by coordinate: |f| <= reach (1 + rho) width / s.

In f and in D, modes that do not touch do not hear of each other: whatever their masses in the
buffer, they have them in the next. The weights of the paths tell; ends that a control learns from
are drawn by a power of them, the largest that leaves the share ``kept`` of the buffer effective.
What is learned beside the control has the present paths as they are: weighted, they would be those
of the present backward kernel, and it would learn what it knows.

References
----------
.. [1] Havens et al., "Adjoint sampling: highly scalable diffusion samplers via adjoint matching",
   ICML 2025, arXiv:2504.11713.
.. [2] Liu et al., "Adjoint Schroedinger bridge sampler", NeurIPS 2025, arXiv:2506.22565.
"""

from abc import abstractmethod
from functools import partial
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
from samplers.smc.path import next_inverse_temperature
from samplers.trajectory import replay
from samplers.trajectory.kernels import Reward, backward_paths, flattened, forward_paths
from samplers.trajectory.objectives import log_weights
from samplers.trajectory.pis import geometric_shares
from samplers.trajectory.replay import Buffer

CONTROL = 0  # the first of what is learned
PROBE = 0.01  # distance of a second gradient, in units of s
STIFF = 0.75  # quantile, over ends, of the curvatures seen
FORGET = 0.8  # of the running stiffness, which is worth some five simulations


class Ends(NamedTuple):
    """Where a path began and ended, and the gradient of the target at its end."""

    x0: Any
    x1: Any
    gradient: Any


class MatchingState(NamedTuple):
    """What is learned, Adam's moments, updates made, and the ends to regress on.

    Attributes
    ----------
    ends
        With the log-weights of their paths in place of log R.
    inverse_temperature
        Power of the weights by which ends are drawn.
    stiffness
        rho, by coordinate.
    judged
        The diagnostics of the last simulation.
    """

    learned: tuple[Any, ...]
    optimizers: tuple[Any, ...]
    updates: Int[Array, ""]
    ends: Buffer
    inverse_temperature: Float[Array, ""]
    stiffness: Float[Array, " d"]
    judged: Float[Array, "4"]


class MatchingInfo(NamedTuple):
    """The loss of an update, and of the last paths: ELBO, log mean weight, shares.

    Attributes
    ----------
    elbo, log_evidence
        Mean of w, and log mean of e^w, in nats.
    ess, clipped
        Share of the paths that their weights are worth; that of clipped gradients.
    """

    loss: Float[Array, ""]
    elbo: Float[Array, ""]
    log_evidence: Float[Array, ""]
    ess: Float[Array, ""]
    clipped: Float[Array, ""]
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
    kept: eqx.AbstractVar[Float[Array, ""]]
    reach: eqx.AbstractVar[Float[Array, ""]]

    # What a method is ------------------------------------------------------------------------

    @abstractmethod
    def first(self, rng_key: PRNGKeyArray, num_dims: int, dtype: Any) -> tuple[Any, ...]:
        """What is learned, before training."""

    @abstractmethod
    def kernels(self, target: Energy, learned: tuple[Any, ...]) -> Any:
        """Kernels of the paths, with ``shares`` of the variance and the ``scale`` of all of it."""

    @abstractmethod
    def width(self, kernels: Any) -> Float[Array, ""]:
        """Standard deviation of the end of a path without control."""

    @abstractmethod
    def push(self, kernels: Any, ends: Ends) -> Float[Array, " d"]:
        """The f above."""

    @abstractmethod
    def residual(
        self,
        part: int,
        kernels: Any,
        stiffness: Float[Array, " d"],
        ends: Ends,
        n: Int[Array, ""],
        x: Float[Array, " d"],
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
        nothing = jnp.array([-jnp.inf, -jnp.inf, 0.0, 0.0], template.dtype)
        zero = jnp.zeros((), template.dtype)
        soft = jnp.zeros(template.shape, template.dtype)
        moments = tuple(begin(self._optimizer(len(learned)), part) for part in learned)
        return MatchingState(learned, moments, jnp.zeros((), jnp.int32), ends, zero, soft, nothing)

    def step(
        self, rng_key: PRNGKeyArray, target: Energy, state: MatchingState
    ) -> tuple[MatchingState, MatchingInfo]:
        key_paths, key_probe, key_draw, key_time, key_noise = random.split(rng_key, 5)
        now, num_parts = state.updates % self.every == 0, len(state.learned)
        turn = (state.updates // self.every) % num_parts

        def simulated() -> tuple[Buffer, Array, Array, Array]:
            kernels = self.kernels(target, state.learned)
            paths, scores = forward_paths(key_paths, kernels, self.num_paths)
            x0, x1, w = paths.states[0], paths.states[-1], log_weights(scores)
            looks = jax.vmap(kernels.reward.with_gradient)(x1)
            good = jnp.isfinite(looks.log_reward) & jnp.isfinite(w)
            ends = Ends(x0, x1, looks.gradient)
            held = replay.insert(state.ends, ends, w, good)
            power = self._power(held)
            stiffness = self._stiffness(key_probe, kernels, ends, good)
            share = jnp.where(state.updates > 0, FORGET, 0.0)
            stiffness = share * state.stiffness + (1 - share) * stiffness
            clipped = jnp.mean(jax.vmap(partial(self._is_cut, kernels, stiffness))(ends))
            judged = [jnp.mean(w), weights.log_mean_exp(w), weights.ess(w) / w.size, clipped]
            return held, power, stiffness, jnp.stack(judged)

        same = (state.ends, state.inverse_temperature, state.stiffness, state.judged)
        ends, power, stiffness, judged = lax.cond(now, simulated, lambda: same)
        by_weight = lambda buffer: jnp.where(turn == CONTROL, power, 0) * buffer.log_reward
        drawn, _ = replay.draw(key_draw, ends, self.batch, by_weight)
        n = random.randint(key_time, (self.batch,), 0, self.num_steps)
        noise = random.normal(key_noise, drawn.x1.shape, drawn.x1.dtype)

        def loss_of(learned: tuple[Any, ...]) -> Array:
            kernels = self.kernels(target, learned)

            def of_part(part: int) -> Array:
                one = lambda *of_one: self._residual(part, kernels, stiffness, *of_one)
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
        # Gradients are at the ends and beside them; densities, beside the first, in the weights.
        spent = jnp.full(2, jnp.where(now, 2 * self.num_paths, 0), jnp.int32)
        after = MatchingState(
            learned, optimizers, state.updates + 1, ends, power, stiffness, judged
        )
        elbo, log_evidence, share, clipped = judged
        return after, MatchingInfo(loss, elbo, log_evidence, share, clipped, ~fine, spent)

    def _residual(
        self,
        part: int,
        kernels: Any,
        stiffness: Float[Array, " d"],
        ends: Ends,
        n: Int[Array, ""],
        noise: Float[Array, " d"],
    ) -> Float[Array, " m"]:
        """At the n-th state of a bridge."""
        share = kernels.shares[n]
        sd = kernels.scale * jnp.sqrt(share * (1 - share))
        x = (1 - share) * ends.x0 + share * ends.x1 + sd * noise
        return self.residual(part, kernels, stiffness, ends, n, x)

    def off_label(
        self,
        kernels: Any,
        stiffness: Float[Array, " d"],
        u: Float[Array, " d"],
        push: Float[Array, " d"],
        ends: Ends,
        n: Int[Array, ""],
        x: Float[Array, " d"],
    ) -> Float[Array, " d"]:
        """What a control u is off by, of f = ``push``.

        Squares count as their steps are long: so they do in the divergence of paths.
        """
        length = kernels.num_steps * (kernels.shares[n + 1] - kernels.shares[n])
        most = self._most(kernels, stiffness)
        label = jnp.clip(push, -most, most) + stiffness * (ends.x1 - x) / kernels.scale
        return jnp.sqrt(length) * (u - label / (1 + stiffness * (1 - kernels.shares[n])))

    def _power(self, ends: Buffer) -> Float[Array, ""]:
        """Of the weights: the largest that leaves so many ends effective, up to 1."""
        zero = jnp.zeros((), ends.log_reward.dtype)
        alike = jnp.where(ends.is_held, zero, -jnp.inf)
        return next_inverse_temperature(ends.log_reward, alike, zero, self.kept.astype(zero.dtype))

    def _most(self, kernels: Any, stiffness: Float[Array, " d"]) -> Float[Array, " d"]:
        """Of f, by coordinate."""
        reach = self.reach.astype(stiffness.dtype) * self.width(kernels) / kernels.scale
        return reach * (1 + stiffness)

    def _is_cut(self, kernels: Any, stiffness: Float[Array, " d"], ends: Ends) -> Bool[Array, ""]:
        return jnp.any(jnp.abs(self.push(kernels, ends)) > self._most(kernels, stiffness))

    def _stiffness(
        self, rng_key: PRNGKeyArray, kernels: Any, ends: Ends, good: Bool[Array, " n"]
    ) -> Float[Array, " d"]:
        """The rho above: most curvatures are not larger; by signs, as Hutchinson's trace is."""
        signs = random.rademacher(rng_key, ends.x1.shape, ends.x1.dtype)
        apart = PROBE * kernels.scale
        beside = jax.vmap(kernels.reward.with_gradient)(ends.x1 + apart * signs).gradient
        curvatures = jnp.abs(signs * (beside - ends.gradient) / apart)
        curvatures = jnp.where(good[:, None], curvatures, jnp.nan)
        most = jnp.nan_to_num(jnp.nanquantile(curvatures, STIFF, axis=0))
        return jnp.maximum(kernels.scale**2 * most - 1, 0)

    def notes(self, history: dict[str, Any]) -> list[str]:
        clipped = float(history["clipped"][-max(1, len(history["clipped"]) // 4) :].mean())
        if clipped < 0.01:
            return []
        return [
            f"{clipped:.0%} of the ends of paths have a gradient that would send a path farther "
            f"than reach={float(self.reach):g} scales, and that is cut: training has not come to "
            "the target, or its tails are heavy. Weights are not cut; train longer, raise reach, "
            "or move and scale the source to the target"
        ]

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
        """The target on vectors. The buffer keeps long gradients: they are cut where used."""
        flat = flattened(target)
        return Reward(flat, jnp.asarray(jnp.finfo(flat.template.dtype).max, flat.template.dtype))

    def shares(self, dtype: Any) -> Float[Array, " states"]:
        """h(t) / h(1) of g = g(0) ratio^t."""
        return geometric_shares(self.num_steps, self.ratio, dtype)

    def _optimizer(self, num_parts: int) -> Any:
        return adam(self.learning_rate, -(-self.num_updates // num_parts))
