"""Training of diffusion samplers: any objective on any pair of kernels.

``step`` is one Adam update. Where the objective is reverse KL, paths are made and differentiated;
otherwise they are made under exploration noise, and joined by backward paths from a replay buffer,
if there is one; the loss is differentiated by their scores, and these by what is learned. ``draw``
gives the ends of paths with their log-weights w: weighted draws are asymptotically exact, whatever
training reached, and the mean of e^w is an unbiased estimate of Z.
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
from ppl.energy import Energy, Position, TargetError
from ppl.sampler import Exactness, LearnedSampler, nonnegative, positive, share, size, where
from ppl.template import describe
from samplers.descent import adam, begin, descend, is_finite
from samplers.trajectory import replay as replays
from samplers.trajectory.control import small
from samplers.trajectory.kernels import (
    Kernels,
    Paths,
    Reward,
    along,
    backward_paths,
    flattened,
    forward_paths,
    held,
    join,
    score_steps,
    sum_over_paths,
)
from samplers.trajectory.objectives import Objective, ReverseKL, Scores, fl_shift, log_weights
from samplers.trajectory.replay import Buffer, Replay
from samplers.trajectory.widths import LearnedWidths


class Parameters(NamedTuple):
    """What is learned: of the kernels, the log-flow of states or None, and log Z."""

    kernels: Any
    flow: Any
    log_z: Float[Array, ""]


class PathState(NamedTuple):
    """What is learned, Adam's moments, updates made, a running ESS, and what is to be replayed."""

    parameters: Parameters
    optimizer: Any
    updates: Int[Array, ""]
    ess: Float[Array, ""]
    memory: "Memory | None"


class Memory(NamedTuple):
    """Ends of forward paths, what the local search made of them, and its step size."""

    seen: Buffer
    found: Buffer | None
    step_size: Float[Array, ""]


class PathInfo(NamedTuple):
    """An update, judged by its forward paths.

    Attributes
    ----------
    loss
        The objective before the update.
    elbo, log_evidence
        Mean of w, and log mean of e^w, in nats.
    ess
        Share of the paths that their weights are worth.
    clipped
        Share of the paths that met a clipped gradient or energy.
    diverging
        Whether the loss or its gradient was not finite, and the update left out.
    """

    loss: Float[Array, ""]
    elbo: Float[Array, ""]
    log_evidence: Float[Array, ""]
    ess: Float[Array, ""]
    clipped: Float[Array, ""]
    diverging: Bool[Array, ""]
    num_evaluations: Int[Array, "2"]


class NeedsGradient:
    """Needs of a sampler: the target's gradient, unless neither control nor objective uses it."""

    def __get__(self, sampler: Any, cls: type) -> frozenset[str]:
        free = sampler is not None and not sampler.guided and not sampler.objective.through_states
        return frozenset({"log_density"} if free else {"log_density", "gradient"})


ROWS = 512  # states at which a network is differentiated at once; more leave the cache
FORGET = 0.98  # of the running ESS, which is worth some fifty updates


class PathSampler(LearnedSampler):
    """Abstract diffusion sampler; a method gives its kernels and the parameters they start with.

    Parameters
    ----------
    num_steps
        N, from the source to the target.
    num_updates
        Adam updates; learning rates fall to zero along a half cosine over them.
    num_paths
        Paths in an update.
    learning_rate, flow_learning_rate
        Of the first update, for the kernels, and for log Z and flows.
    objective
        `ReverseKL`, `TrajectoryBalance`, `VarGrad`, `SubTrajectoryBalance`, `DetailedBalance` of
        `samplers.trajectory.objectives`.
    exploration
        Standard deviation of noise on each step in training, in units of the step's own; it falls
        to zero in the first half. For objectives that take paths of any law.
    replay
        A `Replay`, or None. For the same objectives.
    guided
        Whether the control sees the gradient of the target at each state.
    network
        ``network(rng_key, shape, dtype=...)`` makes a network ``(x, t)`` on vectors.
    learned_widths
        Whether forward steps are as wide as another such network says, or all as the method says
        (`samplers.trajectory.widths`): for targets that are narrow in places.
    gradient_clip
        Largest gradient of the target that training and control see, for each coordinate.
    energy_clip
        Largest -log R that training sees, in nats.
    enough_ess
        Training stops where the running share of ESS is above this; 1: it does not.
    """

    needs: ClassVar[Any] = NeedsGradient()
    exactness: ClassVar[Exactness] = "asymptotically exact"

    scale: eqx.AbstractVar[Float[Array, ""]]
    num_steps: int = size("num_steps", default=50)
    num_updates: int = size("num_updates", default=1000)
    num_paths: int = size("num_paths", minimum=2, default=128)
    learning_rate: Float[Array, ""] = positive("learning_rate", default=2e-3)
    flow_learning_rate: Float[Array, ""] = positive("flow_learning_rate", default=0.1)
    objective: Any = eqx.field(default_factory=ReverseKL)
    exploration: Float[Array, ""] = nonnegative("exploration", default=0.0)
    replay: Replay | None = None
    guided: bool = eqx.field(static=True, default=True)
    network: Any = eqx.field(static=True, default=small)
    learned_widths: bool = eqx.field(static=True, default=False)
    gradient_clip: Float[Array, ""] = positive("gradient_clip", default=100.0)
    energy_clip: Float[Array, ""] = positive("energy_clip", default=1e5)
    enough_ess: Float[Array, ""] = share("enough_ess", default=1.0)

    # What a method is ------------------------------------------------------------------------

    @abstractmethod
    def first(self, rng_key: PRNGKeyArray, num_dims: int, dtype: Any) -> Any:
        """Parameters of the kernels before training."""

    @abstractmethod
    def kernels(self, reward: Reward, learned: Any) -> Kernels:
        """The kernels with these parameters."""

    def looked_ahead(self, kernels: Kernels, paths: Paths, log_z: Array) -> Array | None:
        """Shift of a forward-looking flow, (state, path); None: the reference alone."""
        return None

    # Before compilation ----------------------------------------------------------------------

    def check(self, target: Energy) -> None:
        name = type(self).__name__
        leaves = jax.tree.leaves(target.template)
        if not all(jnp.issubdtype(x.dtype, jnp.floating) for x in leaves):
            raise TargetError(
                f"{name} moves points by Gaussian steps, so positions must be floating; these are "
                f"{describe(target.template)}"
            )
        if not isinstance(self.objective, Objective):
            raise ValueError(
                f"objective must be one such as TrajectoryBalance(); got {self.objective!r}"
            )
        if self.objective.law == "backward":
            raise ValueError(
                f"{name} has no draws of the target to go backward from, as "
                f"{type(self.objective).__name__} asks; write ReverseKL() or TrajectoryBalance()"
            )
        if self.objective.law == "forward" and (self.replay is not None or self.exploration > 0):
            raise ValueError(
                f"{type(self.objective).__name__} is an average over the sampler's own paths: it "
                "takes neither replay nor exploration; write TrajectoryBalance() or VarGrad()"
            )
        if self.replay is not None:
            if self.replay.capacity < self.num_paths:
                raise ValueError(
                    f"the replay buffer holds {self.replay.capacity} ends, fewer than the "
                    f"{self.num_paths} paths of an update; write Replay(capacity=...) of a few "
                    "thousand, or a smaller num_paths"
                )
            if self.replay.local_search is not None and "gradient" not in target.offers:
                raise TargetError(
                    f"the local search moves by gradients: {target.refuse('gradient')}"
                )

    # Training --------------------------------------------------------------------------------

    def init(self, rng_key: PRNGKeyArray, target: Energy) -> PathState:
        flat = flattened(target)
        d, dtype = flat.template.shape[0], flat.template.dtype
        key_kernels, key_flow = random.split(rng_key)
        flow = None
        if self.objective.flow == "states":
            flow = small(key_flow, (d,), out_shape=(), dtype=dtype)
        learned = self._untrained(key_kernels, d, dtype)
        parameters = Parameters(learned, flow, jnp.zeros((), dtype))
        parts = zip(self._optimizers, _groups(parameters), strict=True)
        optimizer = tuple(begin(*part) for part in parts)
        memory = None
        if self.replay is not None:
            room = replays.empty(flat.template, self.replay.capacity, dtype)
            search = self.replay.local_search
            found = None if search is None else room
            size = jnp.zeros((), dtype) if search is None else search.step_size.astype(dtype)
            memory = Memory(room, found, size)
        zero = jnp.zeros((), dtype)
        return PathState(parameters, optimizer, jnp.zeros((), jnp.int32), zero, memory)

    def step(
        self, rng_key: PRNGKeyArray, target: Energy, state: PathState
    ) -> tuple[PathState, PathInfo]:
        reward = self._reward(target)
        t = state.updates
        key_forward, key_memory = random.split(rng_key)
        memory, spent = state.memory, jnp.zeros(2, jnp.int32)

        if self.objective.through_states:

            @eqx.filter_value_and_grad(has_aux=True)
            def loss_of(learned: Any) -> Any:
                kernels = self._kernels(reward, learned)
                paths, made = forward_paths(key_forward, kernels, self.num_paths, through=True)
                return self.objective(self._clipped(made)), (made, paths)

            (loss, (made, paths)), gradient = loss_of(state.parameters.kernels)
            gradient = Parameters(gradient, None, jnp.zeros_like(state.parameters.log_z))
        else:
            kernels = self._kernels(reward, held(state.parameters.kernels))
            num = self.num_paths - self._num_replayed
            noise = self.exploration * jnp.maximum(0.0, 1 - 2 * t / self.num_updates)
            paths, made = forward_paths(key_forward, kernels, num, noise)
            scores = made
            if memory is not None:
                old, memory, spent = self._remember(key_memory, kernels, paths, memory, t)
                paths, scores = join((paths, made), old)
            loss, gradient = self._off_policy(reward, kernels, state.parameters, paths, scores)

        w = log_weights(made)
        clipped = jnp.mean(self._met_a_clip(paths))
        fine = is_finite(loss, gradient)
        moved = [
            descend(*of_group, fine)
            for of_group in zip(
                self._optimizers, _groups(gradient), state.optimizer, _groups(state.parameters),
                strict=True,
            )
        ]  # fmt: skip
        ((learned, (flow, log_z)), optimizer) = zip(*moved, strict=True)
        share = weights.ess(w) / w.size
        running = FORGET * state.ess + (1 - FORGET) * share
        updated = PathState(Parameters(learned, flow, log_z), optimizer, t + 1, running, memory)
        spent = spent + jnp.array(self._cost(self.num_paths, training=True), jnp.int32)
        return updated, PathInfo(
            loss, jnp.mean(w), weights.log_mean_exp(w), share, clipped, ~fine, spent
        )

    def done(self, state: PathState) -> Bool[Array, ""]:
        return state.ess > self.enough_ess.astype(state.ess.dtype)

    def notes(self, history: dict[str, Any]) -> list[str]:
        clipped = float(history["clipped"][-max(1, len(history["clipped"]) // 4) :].mean())
        if clipped < 0.01:
            return []
        return [
            f"{clipped:.0%} of the paths met a gradient clipped at gradient_clip="
            f"{float(self.gradient_clip):g} a coordinate or an energy clipped at energy_clip="
            f"{float(self.energy_clip):g}: the target is steep where the paths go. Weights are not "
            "clipped; raise the clips, or move and scale the reference to the target"
        ]

    # Draws -----------------------------------------------------------------------------------

    def draw(
        self, rng_key: PRNGKeyArray, target: Energy, state: PathState, n: int
    ) -> tuple[Position, Float[Array, " n"]]:
        kernels = self._kernels(self._reward(target), state.parameters.kernels)
        paths, scores = forward_paths(rng_key, kernels, n)
        return jax.vmap(kernels.reward.target.unravel)(paths.states[-1]), log_weights(scores)

    def log_weights(
        self, rng_key: PRNGKeyArray, target: Energy, state: PathState, positions: Position
    ) -> Float[Array, " n"]:
        """Weight w of one backward path from each position.

        With draws of the target, E e^-w = 1 / Z, and the mean of w is an upper bound of log Z.
        """
        kernels = self._kernels(self._reward(target), state.parameters.kernels)
        flat = jax.vmap(lambda x: ravel_pytree(x)[0])(positions)
        return log_weights(backward_paths(rng_key, kernels, flat)[1])

    def evaluations(self, n: int) -> tuple[int, int]:
        return self._cost(n, training=False)

    # Parts -----------------------------------------------------------------------------------

    def _untrained(self, rng_key: PRNGKeyArray, num_dims: int, dtype: Any) -> Any:
        """What is learned, before training: of the method, and of the widths if they are."""
        learned = self.first(rng_key, num_dims, dtype)
        if not self.learned_widths:
            return learned
        return learned, self.network(random.fold_in(rng_key, 0), (num_dims,), dtype=dtype)

    def _kernels(self, reward: Reward, learned: Any) -> Kernels:
        if not self.learned_widths:
            return self.kernels(reward, learned)
        within = self.kernels(reward, learned[0])
        unit = self.scale.astype(reward.target.template.dtype)
        return LearnedWidths(within, learned[1], unit)  # pyright: ignore[reportCallIssue]

    def _reward(self, target: Energy) -> Reward:
        return Reward(flattened(target), self.gradient_clip)

    def _cost(self, num: int, *, training: bool) -> tuple[int, int]:
        """(log-density, gradient) evaluations of so many paths."""
        through = training and self.objective.through_states
        if self.guided:
            states = num * (self.num_steps + 1)
            return states, 2 * states if through else states  # once more to be differentiated
        return num, num if through else 0

    @property
    def _num_replayed(self) -> int:
        if self.replay is None:
            return 0
        return min(max(1, int(self.replay.share * self.num_paths)), self.num_paths - 1)

    def _remember(
        self, rng_key: PRNGKeyArray, kernels: Kernels, paths: Paths, memory: Memory, t: Array
    ) -> tuple[tuple[Paths, Scores], Memory, Array]:
        """Replayed paths, the memory with the new ends, and what the local search has spent."""
        assert self.replay is not None
        key_starts, key_search, key_draw, key_back = random.split(rng_key, 4)
        ends, log_reward = paths.states[-1], paths.ends.log_reward
        seen = replays.insert(memory.seen, ends, log_reward, jnp.isfinite(log_reward))
        memory, spent = memory._replace(seen=seen), jnp.zeros(2, jnp.int32)
        search = self.replay.local_search
        if search is not None and memory.found is not None:
            before = memory.found
            starts, _ = replays.draw(key_starts, seen, search.num_chains, replays.uniform)
            now = t % search.every == 0
            found, step_size = lax.cond(
                now,
                lambda: search.search(
                    key_search, kernels.reward.target, starts, memory.step_size, before
                ),
                lambda: (before, memory.step_size),
            )
            memory = Memory(seen, found, step_size)
            spent = jnp.where(now, search.evaluations, 0) * jnp.ones(2, jnp.int32)
        # Nothing is found before the first search has been accepted anywhere.
        source = memory.seen
        if memory.found is not None:
            source = where(memory.found.num_held > 0, memory.found, memory.seen)
        drawn, _ = replays.draw(key_draw, source, self._num_replayed, self.replay.priority)
        return backward_paths(key_back, kernels, drawn), memory, spent

    def _off_policy(
        self, reward: Reward, kernels: Kernels, old: Parameters, paths: Paths, scores: Scores
    ) -> tuple[Array, Parameters]:
        """Loss of paths with the scores they were made with, and its gradient.

        First the loss is differentiated by the scores, then these by what is learned, some paths
        at a time: whatever the length of the paths, a network is differentiated at `ROWS` states
        at once, or at those of one path.
        """
        num = scores.log_reward.size
        per = -(-num // -(-num * len(paths.states) // ROWS))
        steps = jnp.arange(kernels.num_steps + 1) / kernels.num_steps
        flow = None
        if old.flow is not None:
            of_path = lambda states: jax.vmap(old.flow)(states, steps)
            flow = lax.map(of_path, jnp.swapaxes(paths.states, 0, 1), batch_size=per).T

        def loss_of(log_pf: Array, log_pb: Array, flow: Array | None, log_z: Array) -> Array:
            found = scores._replace(log_pf=log_pf, log_pb=log_pb)
            return self.objective(
                self._clipped(self._with_flow(kernels, found, paths, flow, log_z))
            )

        at = (scores.log_pf, scores.log_pb, flow, old.log_z)
        loss, pulls = jax.value_and_grad(loss_of, (0, 1, 2, 3))(*at)
        arrays, rest = eqx.partition((old.kernels, old.flow), eqx.is_inexact_array)

        def pulled(arrays: Any, part: Any) -> Array:
            learned, flow = eqx.combine(arrays, rest)
            (states, looks), pulls = part
            found = score_steps(self._kernels(reward, learned), states, looks)
            if flow is not None:
                found = (*found, along(lambda t, x: flow(x, t))(steps, states))
            return jnp.sum(jnp.stack(list(map(jnp.vdot, jax.tree.leaves(pulls), found))))

        gradient = sum_over_paths(jax.grad(pulled), arrays, (paths[:2], pulls[:3]), per)
        kernels_gradient, flow_gradient = gradient
        return loss, Parameters(kernels_gradient, flow_gradient, pulls[3])

    def _with_flow(
        self, kernels: Kernels, scores: Scores, paths: Paths, flow: Array | None, log_z: Array
    ) -> Scores:
        """Log F = log Z + log of the reference (or what looks ahead) + what is learned."""
        if flow is not None:
            steps = jnp.arange(kernels.num_steps + 1)
            scores = scores._replace(log_flow=flow)
            scores = fl_shift(scores, self._shift(kernels, paths, log_z, steps))
        source = log_z + scores.log_start
        return scores._replace(log_flow=scores.log_flow.at[0].set(source))

    def _shift(self, kernels: Kernels, paths: Paths, log_z: Array, steps: Array) -> Array:
        shift = self.looked_ahead(kernels, paths, log_z)
        if shift is not None:
            return shift
        return log_z + along(kernels.log_reference)(steps, paths.states, paths.looks)

    def _clipped(self, scores: Scores) -> Scores:
        """Scores whose energy is clipped in value; gradients stay what they are."""
        log_reward, floor = scores.log_reward, -self.energy_clip
        value = jnp.maximum(lax.stop_gradient(log_reward), floor.astype(log_reward.dtype))
        finite = jnp.isfinite(log_reward)
        rest = jnp.where(finite, log_reward - lax.stop_gradient(log_reward), 0.0)
        return scores._replace(log_reward=value + rest)

    def _met_a_clip(self, paths: Paths) -> Bool[Array, " B"]:
        met = paths.ends.is_clipped | ~(paths.ends.log_reward >= -self.energy_clip)
        return met if paths.looks is None else met | jnp.any(paths.looks.is_clipped, axis=0)

    @property
    def _optimizers(self) -> tuple[Any, Any]:
        """Kernels and flows have their own rates and clips."""
        rates = self.learning_rate, self.flow_learning_rate
        return adam(rates[0], self.num_updates), adam(rates[1], self.num_updates)


def _groups(parameters: Parameters) -> tuple[Any, Any]:
    """What the two optimizers move."""
    return parameters.kernels, (parameters.flow, parameters.log_z)
