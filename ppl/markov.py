"""Drive Markov chains: start, warm-up, sampling; chunk by chunk, on the host's side.

The compiled parts are three: the start, the chunk, and what warm-up does between chunks. Between
chunks come the progress bar, the checkpoint, the copy of the draws to the host (so that device
memory does not grow with ``num_samples``) and ``until``.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int, PRNGKeyArray, PyTree

from ppl import chunks, keys, start
from ppl.checkpoint import Checkpoint, pack, unpack
from ppl.chunks import MarkovProgram, MarkovState
from ppl.energy import Energy, Position, TargetError
from ppl.keys import Keys
from ppl.sampler import MarkovKernel, OnePieceWarmUp

BUFFER_BYTES = 2**25
MAX_ROWS = 16384


FIRST_CHECK = 100  # `until` is asked after 100, 150, 225, ... draws, or updates


def next_check(count: int, first: int = FIRST_CHECK) -> int:
    """When `until` is asked next, after so many draws."""
    check = first
    while check <= count:
        check = int(check * 1.5)
    return check


@dataclass(frozen=True)
class Plan:
    """Sizes of a run and what happens between its chunks."""

    num_samples: int
    num_chains: int
    num_warmup: int
    thin: int
    chunk_seconds: float = 0.4
    first_check: int = FIRST_CHECK


@dataclass
class Tallies:
    """What a run has cost so far."""

    evaluations: dict[str, list[int]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    warmup_divergences: int = 0
    divergences: int = 0

    def spend(self, phase: str, evaluations: Any, seconds: float) -> None:
        spent = [int(n) for n in np.reshape(np.asarray(evaluations), (-1, 2)).sum(0)]
        old = self.evaluations.get(phase, [0, 0])
        self.evaluations[phase] = [a + b for a, b in zip(old, spent, strict=True)]
        self.seconds[phase] = self.seconds.get(phase, 0.0) + seconds

    def add(self, other: "Tallies") -> None:
        """What another run has cost as well."""
        for phase, seconds in other.seconds.items():
            self.spend(phase, other.evaluations.get(phase, [0, 0]), seconds)
        self.warmup_divergences += other.warmup_divergences
        self.divergences += other.divergences


@dataclass
class Outcome:
    """Draws of all chains on the host, leading axes (draw, [target,] chain)."""

    positions: PyTree
    stats: dict[str, np.ndarray]
    kernel: Any
    tallies: Tallies
    stopped: str
    notes: list[str]


# The compiled parts ---------------------------------------------------------------------------
# Counts and flags are NumPy arrays on the host and traced within.
# ``vectorize``: None for one target; for a stack of targets, whether to vmap or to map over it.


@eqx.filter_jit
def _start(
    kernel: Any,
    warmup: Any,
    batched: tuple[Energy, Keys, Position | None],
    num_chains: int,
    adapt: bool,  # noqa: FBT001
    vectorize: bool | None,  # noqa: FBT001
) -> "Started":
    def one(batched: tuple[Energy, Keys, Position | None]) -> Started:
        target, rng_key, positions = batched
        chain_keys = keys.chain_keys(rng_key, num_chains)
        with_gradient = "gradient" in kernel.needs
        if positions is None:
            positions, good, attempts = start.jittered(
                chain_keys, target, with_gradient=with_gradient
            )
        else:
            good, _ = start.finite(target, positions, with_gradient=with_gradient)
            attempts = jnp.int32(1)
        # A chain without a finite start begins where a chain that has one does.
        donor = jnp.where(good, jnp.arange(num_chains), jnp.argmax(good))
        begun = jax.tree.map(lambda x: x[donor], positions)
        start_keys = jax.vmap(keys.key_for, (0, None))(chain_keys, keys.START)
        states = jax.vmap(kernel.init, (0, None, 0))(start_keys, target, begun)
        tuned, adaptation = kernel, ()
        if warmup is not None and not isinstance(warmup, OnePieceWarmUp):
            key = keys.key_for(chain_keys[0], keys.WARM_UP)
            begun_kernel, adaptation = warmup.init(key, target, kernel, states)
            tuned = begun_kernel if adapt else kernel
        state = chunks.strong(MarkovState(tuned, adaptation, states))
        return Started(state, chain_keys, positions, good, attempts)

    if vectorize is None:
        return one(batched)
    return chunks.over_targets(one, batched, vectorize=vectorize)


class Started(NamedTuple):
    """State of all chains at step 0, and how the starts were found."""

    state: MarkovState
    keys: Keys
    tried: Position
    good: Bool[Array, "*target chain"]
    attempts: Int[Array, "*target"]


@eqx.filter_jit
def _chunk(
    program: MarkovProgram,
    batched: tuple[Energy, Keys, MarkovState],
    first: Any,
    count: Any,
    thin: Any,
    capacity: int,
    vectorize: bool | None,  # noqa: FBT001
) -> Any:
    def one(batched: tuple[Energy, Keys, MarkovState]) -> Any:
        target, chain_keys, state = batched
        return chunks.chunk(program, target, chain_keys, state, first, count, thin, capacity)[:3]

    return (
        one(batched)
        if vectorize is None
        else chunks.over_targets(one, batched, vectorize=vectorize)
    )


@eqx.filter_jit
def _end_chunk(
    warmup: Any,
    batched: tuple[Energy, Keys, MarkovState, Any],
    first: Any,
    count: Any,
    window_ends: Any,
    is_last: Any,
    vectorize: bool | None,  # noqa: FBT001
) -> MarkovState:
    def one(batched: tuple[Energy, Keys, MarkovState, Any]) -> MarkovState:
        target, chain_keys, state, record = batched
        key = jax.random.fold_in(keys.key_for(chain_keys[0], keys.WARM_UP), first + count)
        kernel, adaptation, chains = warmup.end_chunk(
            key, target, state.kernel, state.adaptation, state.chains, record,
            count, window_ends, is_last,
        )  # fmt: skip
        return MarkovState(kernel, adaptation, chains)

    return (
        one(batched)
        if vectorize is None
        else chunks.over_targets(one, batched, vectorize=vectorize)
    )


@eqx.filter_jit
def _tune(
    warmup: Any,
    batched: tuple[Energy, Keys, MarkovState],
    num_warmup: int,
    vectorize: bool | None,  # noqa: FBT001
) -> tuple[MarkovState, Int[Array, "..."]]:
    def one(batched: tuple[Energy, Keys, MarkovState]) -> Any:
        target, chain_keys, state = batched
        key = keys.key_for(chain_keys[0], keys.WARM_UP)
        kernel, chains, spent = warmup.run(key, target, state.kernel, state.chains, num_warmup)
        return chunks.strong(MarkovState(kernel, state.adaptation, chains)), spent

    return (
        one(batched)
        if vectorize is None
        else chunks.over_targets(one, batched, vectorize=vectorize)
    )


# The run --------------------------------------------------------------------------------------


class Chains:
    """One run of all chains; with ``vectorize`` not None, on a stack of targets at once."""

    def __init__(
        self,
        kernel: MarkovKernel,
        target: Energy,
        rng_key: PRNGKeyArray,
        plan: Plan,
        *,
        positions: Position | None = None,
        num_targets: int | None = None,
        place: Callable[[PyTree], PyTree] = lambda tree: tree,
        continues: bool = False,
    ):
        self.plan = plan
        self.target = target
        self.notes: list[str] = []
        self.tallies = Tallies()
        self.vectorize = None if num_targets is None else kernel.fixed_length
        # A run that goes on from another has that one's program, adaptation and all; a run that
        # never adapts need not pay for it.
        self.warmup = kernel.warmup(target) if plan.num_warmup or continues else None
        by_steps = None if isinstance(self.warmup, OnePieceWarmUp) else self.warmup
        self.program = MarkovProgram(by_steps, jnp.int32(plan.num_warmup))
        self._begin(kernel, rng_key, positions, num_targets, place)
        self.t = 0  # global steps taken
        self.rows = Rows(plan.num_samples)
        self.capacity = self._capacity()

    def _begin(
        self,
        kernel: MarkovKernel,
        rng_key: Keys,
        positions: Position | None,
        num_targets: int | None,
        place: Callable[[PyTree], PyTree],
    ) -> None:
        began = time.perf_counter()
        if num_targets is not None:
            rng_key = jax.vmap(jax.random.fold_in, (None, 0))(rng_key, jnp.arange(num_targets))
        started = _start(
            kernel,
            self.warmup,
            (self.target, rng_key, positions),
            self.plan.num_chains,
            self.plan.num_warmup > 0,
            self.vectorize,
        )
        good = np.asarray(started.good)
        if not good.all():
            lead = () if num_targets is None else (num_targets,)
            self._judge_start(started.tried, good, lead, from_user=positions is not None)
        state = started.state
        self.keys = place(started.keys)
        self.state = MarkovState(state.kernel, state.adaptation, place(state.chains))
        attempts = int(np.sum(np.asarray(started.attempts)))
        spent = attempts * self.plan.num_chains + good.size
        gradients = spent if "gradient" in kernel.needs else 0
        self.tallies.spend("start", [spent, gradients], time.perf_counter() - began)

    def _judge_start(
        self, tried: Position, good: np.ndarray, lead: tuple, *, from_user: bool
    ) -> None:
        bad = np.argwhere(~(good if from_user else good.any(-1, keepdims=True)))
        if len(bad):
            target = self.target
            index = tuple(int(i) for i in bad[0][: len(lead)])
            if lead:
                arrays, rest = eqx.partition(target, eqx.is_array)
                target = eqx.combine(jax.tree.map(lambda x: x[index], arrays), rest)
                tried = jax.tree.map(lambda x: x[index], tried)
            raise start.refuse_start(target, tried, good[index], from_user=from_user)
        self.notes.append(
            f"{int((~good).sum())} of {good.size} chains found no finite start in "
            f"{start.ATTEMPTS} attempts and began where another chain did"
        )

    # Chunks -----------------------------------------------------------------------------------

    def segments(self, *, checked: bool) -> Iterator[tuple[int, bool]]:
        """Steps up to the next border that a chunk must not cross, and if a window ends there."""
        plan = self.plan
        if not isinstance(self.warmup, OnePieceWarmUp):
            # A kernel with nothing to tune still burns in.
            adapted = self.warmup is not None and self.warmup.windows(plan.num_warmup)
            border = 0
            for length in adapted or [plan.num_warmup]:
                border += length
                while self.t < border:
                    yield border - self.t, True
        while self.rows.count < plan.num_samples:
            check = next_check(self.rows.count, plan.first_check) if checked else plan.num_samples
            yield (min(check, plan.num_samples) - self.rows.count) * plan.thin, False

    def run(
        self,
        *,
        checkpoint: Checkpoint | None = None,
        progress: Callable[[int, "Chains"], None] = lambda steps, run: None,
        check: Callable[["Chains"], bool] | None = None,
    ) -> Outcome:
        """Run to the end, to ``check``, or to Ctrl-C; what was computed is kept."""
        stopped = "complete"
        try:
            if checkpoint is not None:
                self._resume(checkpoint, progress)
            if isinstance(self.warmup, OnePieceWarmUp) and self.t < self.plan.num_warmup:
                self._tune_in_one_piece(checkpoint, progress)
            pace = Pace(self.plan.chunk_seconds)
            # A run that `check` ended and that is called again must end there again.
            if check is not None and self._at_check() and check(self):
                return self._outcome("until")
            for limit, is_window in self.segments(checked=check is not None):
                self._advance(limit, pace, checkpoint, progress, is_window=is_window)
                if check is not None and not is_window and self._at_check() and check(self):
                    stopped = "until"
                    break
        except KeyboardInterrupt:
            stopped = "interrupted"
            self.notes.append("interrupted: these are the draws so far")
        return self._outcome(stopped)

    def _at_check(self) -> bool:
        count, plan = self.rows.count, self.plan
        at_check = next_check(count - 1, plan.first_check) == count
        return at_check or count == plan.num_samples

    def _advance(
        self, limit: int, pace: "Pace", checkpoint: Any, progress: Callable, *, is_window: bool
    ) -> None:
        plan, began = self.plan, time.perf_counter()
        thin = 1 if is_window else plan.thin
        capacity = self.capacity
        count = pace.steps(limit, thin, capacity)
        batched = (self.target, self.keys, self.state)
        state, buffer, counts = _chunk(
            self.program, batched, _int(self.t), _int(count),
            None if plan.thin == 1 else _int(thin), capacity, self.vectorize,
        )  # fmt: skip
        if is_window and self.program.warmup is not None:
            window_ends = count == limit
            state = _end_chunk(
                self.warmup,
                (self.target, self.keys, state, buffer),
                _int(self.t),
                _int(count),
                np.asarray(window_ends),
                np.asarray(window_ends and self.t + count == plan.num_warmup),
                self.vectorize,
            )
        jax.block_until_ready(state)
        first = self.rows.count
        if not is_window:
            kept = (buffer.position, buffer.info)
            self.rows.append(self._rows_first(kept, count // thin))
        # Only now is the step complete: an interrupt above leaves the run as it was.
        self.state, self.t = state, self.t + count
        seconds = time.perf_counter() - began
        pace.learn(count, seconds)
        self.tallies.spend("warmup" if is_window else "sample", counts.evaluations, seconds)
        # On the host: np.sum of a JAX array would run a program of its own.
        diverging = int(np.asarray(counts.diverging).sum())
        if is_window:
            self.tallies.warmup_divergences += diverging
        self.tallies.divergences += 0 if is_window else diverging
        if checkpoint is not None:
            self._save(checkpoint, first)
        progress(count, self)

    def _capacity(self) -> int:
        """Rows of the buffer: a power of two that fits ``BUFFER_BYTES``; not of num_samples."""
        leaves = jax.tree.leaves(eqx.filter(self.state.chains, eqx.is_array))
        row = 2 * sum(x.size * x.dtype.itemsize for x in leaves) or 1
        return int(min(MAX_ROWS, max(16, 2 ** int(np.log2(max(BUFFER_BYTES / row, 1))))))

    def _rows_first(self, tree: PyTree, count: int) -> PyTree:
        if self.vectorize is None:
            return jax.tree.map(lambda x: np.asarray(x)[:count], tree)
        return jax.tree.map(lambda x: np.swapaxes(np.asarray(x), 0, 1)[:count], tree)

    def _tune_in_one_piece(self, checkpoint: Any, progress: Callable) -> None:
        began = time.perf_counter()
        batched = (self.target, self.keys, self.state)
        state, spent = _tune(self.warmup, batched, self.plan.num_warmup, self.vectorize)
        jax.block_until_ready(state)
        self.state, self.t = state, self.plan.num_warmup
        self.tallies.spend("warmup", spent, time.perf_counter() - began)
        if checkpoint is not None:
            self._save(checkpoint, 0)
        progress(self.plan.num_warmup, self)

    # Checkpoints ------------------------------------------------------------------------------

    def _save(self, checkpoint: Checkpoint, first: int) -> None:
        new = self.rows.slice(first, self.rows.count)
        if new is not None and self.rows.count > first:
            positions, stats = new
            checkpoint.save_chunk(first, pack(positions, stats, self._values(positions)))
        counters = {
            "t": self.t,
            "draws": self.rows.count,
            "evaluations": self.tallies.evaluations,
            "seconds": self.tallies.seconds,
            "warmup_divergences": self.tallies.warmup_divergences,
            "divergences": self.tallies.divergences,
            "notes": self.notes,
        }
        checkpoint.save_state(self.state, counters)

    def _values(self, positions: PyTree) -> dict[str, np.ndarray]:
        """Named values beside the positions, so that a run can be read without its target."""
        if self.vectorize is not None:
            return {}
        from ppl.draws import outputs

        return outputs(self.target, positions)

    def _resume(self, checkpoint: Checkpoint, progress: Callable) -> None:
        found = checkpoint.resume(self.state)
        if found is None:
            return
        self.state, counters = found
        self.t = counters["t"]
        self.tallies.evaluations = counters["evaluations"]
        self.tallies.seconds = counters["seconds"]
        self.tallies.warmup_divergences = counters["warmup_divergences"]
        self.tallies.divergences = counters["divergences"]
        self.notes = counters["notes"]
        for arrays in checkpoint.chunks(counters["draws"]):
            self.rows.append(unpack(arrays, self.target.template))
        if self.rows.count != counters["draws"]:
            raise TargetError(
                f"the checkpoint in {checkpoint.path} is incomplete: its state stands at draw "
                f"{counters['draws']}, its chunks end at {self.rows.count}"
            )
        progress(self.t, self)

    # Outcome ----------------------------------------------------------------------------------

    def _outcome(self, stopped: str) -> Outcome:
        positions, stats = self.rows.slice(0, self.plan.num_samples) or self._no_rows()
        return Outcome(positions, stats, self.state.kernel, self.tallies, stopped, self.notes)

    def so_far(self) -> Outcome:
        """Draws up to now, for ``until``."""
        return self._outcome("running")

    def _no_rows(self) -> tuple[PyTree, dict[str, np.ndarray]]:
        return jax.tree.map(lambda x: np.asarray(x)[None][:0], self.state.chains.position), {}


def _int(value: int) -> np.ndarray:
    """Traced int: a NumPy array reaches the program without an eager conversion."""
    return np.asarray(value, np.int32)


class Rows:
    """Host arrays that take rows; room for ``expected`` is laid out at once."""

    def __init__(self, expected: int):
        self.expected, self.count = expected, 0
        self.arrays: PyTree = None

    def append(self, tree: PyTree) -> None:
        """Copy rows (leading axis) behind those that are there."""
        num = jax.tree.leaves(tree)[0].shape[0]
        room = max(self.expected, self.count + num)
        if self.arrays is None:
            self.arrays = jax.tree.map(lambda x: np.empty((room, *x.shape[1:]), x.dtype), tree)
        elif jax.tree.leaves(self.arrays)[0].shape[0] < self.count + num:
            self.arrays = jax.tree.map(
                lambda x: np.concatenate(
                    [x[: self.count], np.empty((room, *x.shape[1:]), x.dtype)]
                ),
                self.arrays,
            )

        def copy(into: np.ndarray, rows: np.ndarray) -> None:
            into[self.count : self.count + num] = rows

        jax.tree.map(copy, self.arrays, tree)
        self.count += num

    def slice(self, first: int, last: int) -> PyTree | None:
        """Rows ``first`` to ``last`` (views)."""
        if self.arrays is None:
            return None
        last = min(last, self.count)
        return jax.tree.map(lambda x: x[first:last], self.arrays)


class Pace:
    """How many steps make a chunk of about ``seconds``."""

    def __init__(self, seconds: float):
        self.seconds, self.next, self.compiled = seconds, 64, False

    def steps(self, limit: int, thin: int, capacity: int) -> int:
        """At most ``limit`` and what the buffer holds; a multiple of ``thin``."""
        wanted = max(1, min(self.next, capacity * thin) // thin) * thin
        return min(limit, wanted)

    def learn(self, count: int, seconds: float) -> None:
        """Scale to the last chunk's speed; the first may hold a compilation and tells nothing."""
        if self.compiled:
            wanted = count * self.seconds / max(seconds, 1e-6)
            self.next = int(max(1, min(wanted, 32 * self.next)))
        self.compiled = True
