"""Drive particle, direct and learned samplers; the same chunks, one independent run a chain."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import random
from jaxtyping import PRNGKeyArray, PyTree

from ppl import chunks, keys, weights
from ppl.checkpoint import Checkpoint
from ppl.chunks import LearnedProgram, ParticleProgram
from ppl.draws import Estimate
from ppl.energy import Energy
from ppl.keys import Keys
from ppl.markov import Pace, Rows, Tallies, next_check
from ppl.sampler import DirectSampler, LearnedSampler, ParticleSampler, Trained

ROWS = 512  # steps a chunk may hold
MAX_GENERATIONS = 100_000
SMALLEST_BATCH = 16


@dataclass
class Drawn:
    """Positions and weights on the host, leading axes (chain, draw), and what they cost."""

    positions: PyTree
    log_weights: np.ndarray | None
    log_evidences: np.ndarray | None  # one a run, or None
    sampler: Any
    history: dict[str, np.ndarray]
    tallies: Tallies
    stopped: str = "complete"
    notes: list[str] = field(default_factory=list)
    log_evidence_errors: list[float | None] = field(default_factory=list)  # one a run
    log_evidences_given: np.ndarray | None = None  # an exact draw each; one a run, or None

    @property
    def log_evidence(self) -> Estimate | None:
        """Of independent runs together, or of one run with its own error where it has one."""
        if self.log_evidences is None:
            return None
        # Weights of direct and learned samplers say what a single run knows of its own error.
        if self.log_weights is not None and isinstance(self.sampler, DirectSampler):
            return weights.evidence_estimate(self.log_weights, self.sampler.draws_together)
        errors = self.log_evidence_errors or [None] * len(self.log_evidences)
        runs = zip(map(float, self.log_evidences), errors, strict=True)
        found = weights.evidence_of_runs([Estimate(*run) for run in runs])
        if self.log_evidences_given is None:
            return found
        lower, upper = np.mean(self.log_evidences), np.mean(self.log_evidences_given)
        return found._replace(lower=float(lower), upper=float(upper))


type Progress = Callable[[int, dict[str, Any]], None]


def _silent(steps: int, infos: dict[str, Any]) -> None:
    """No progress to show."""


# Particles ------------------------------------------------------------------------------------


@eqx.filter_jit
def _first_population(sampler: ParticleSampler, target: Energy, chain_keys: Keys) -> Any:
    start_keys = jax.vmap(keys.key_for, (0, None))(chain_keys, keys.START)
    return chunks.strong(jax.vmap(sampler.init, (0, None))(start_keys, target))


@eqx.filter_jit
def _of_run(run_keys: Keys, states: Any, run: Any) -> tuple[PRNGKeyArray, Any]:
    """Key of the collection, and the state, of one of the runs."""
    arrays, rest = eqx.partition(states, eqx.is_array)
    mine = eqx.combine(jax.tree.map(lambda x: x[run], arrays), rest)
    return keys.key_for(run_keys[run], keys.COLLECT), mine


@eqx.filter_jit
def _chunk(
    program: Any,
    target: Energy,
    run_keys: Keys,
    state: Any,
    first: Any,
    count: Any,
    capacity: int,
) -> Any:
    return chunks.chunk(program, target, run_keys, state, first, count, jnp.int32(1), capacity)


def run_particles(
    sampler: ParticleSampler,
    target: Energy,
    rng_key: PRNGKeyArray,
    num_chains: int,
    *,
    checkpoint: Checkpoint | None,
    progress: Progress,
) -> Drawn:
    """Run ``num_chains`` independent populations to their end."""
    tallies, clock = Tallies(), time.perf_counter()
    run_keys = keys.chain_keys(rng_key, num_chains)
    state = _first_population(sampler, target, run_keys)
    tallies.spend("start", [0, 0], time.perf_counter() - clock)
    loop = Loop(ParticleProgram(sampler), target, run_keys, state, tallies, checkpoint)
    loop.run(MAX_GENERATIONS, progress)
    if not loop.done:
        raise RuntimeError(
            f"{type(sampler).__name__} had not finished after {loop.t} steps: its done() never "
            "became true"
        )
    infos = loop.history()
    stood = infos.pop("arrived")
    collected, notes, errors = [], [], []
    clock = time.perf_counter()
    for run in range(num_chains):
        key, mine = _of_run(run_keys, loop.state, np.asarray(run, np.int32))
        # A run that arrived before the others stood still: its history ends where it did.
        steps = {n: x[~stood[:, run], run] for n, x in infos.items()}
        notes += sampler.notes(steps)
        collected.append(sampler.collect(key, target, mine, steps))
        errors.append(sampler.log_evidence_error(steps))
    tallies.spend("sample", [0, 0], time.perf_counter() - clock)
    given = None
    # A target that can be sampled and has no data draws from itself.
    draws_itself = "simulate" in target.offers and "log_likelihood" not in target.offers
    if sampler.bounds_evidence and draws_itself:
        clock, spent = time.perf_counter(), tallies.evaluations["sample"]
        given = np.asarray(_given_exact_draws(sampler, target, run_keys), np.float64)
        tallies.spend("bound", spent, time.perf_counter() - clock)
    positions, log_weights, log_evidence = zip(*collected, strict=True)
    if log_weights[0] is not None:
        positions, log_weights = _of_one_length(positions, log_weights)
    history = {n: np.swapaxes(x, 0, 1) for n, x in infos.items()}
    never = "resampled" in history and not np.any(history["resampled"])
    if log_weights[0] is not None and (sampler.draws_apart or never):
        notes += _doubts(np.stack([np.asarray(w) for w in log_weights]))
    elif log_evidence[0] is not None:
        lost = weights.rounded(np.stack([np.asarray(z) for z in log_evidence]))
        notes += [] if lost is None else [lost]
    return Drawn(
        jax.tree.map(lambda *x: np.stack([np.asarray(a) for a in x]), *positions),
        None if log_weights[0] is None else np.stack([np.asarray(w) for w in log_weights]),
        None if log_evidence[0] is None else np.asarray([float(z) for z in log_evidence]),
        sampler,
        history,
        tallies,
        loop.stopped,
        list(dict.fromkeys(notes)),
        errors,
        given,
    )


@eqx.filter_jit
def _given_exact_draws(sampler: Any, target: Energy, run_keys: Keys) -> Any:
    """Log-evidence of a run given an exact draw, one after the other."""

    def one(key: PRNGKeyArray) -> Any:
        key_draw, key_run = random.split(keys.key_for(key, keys.EXACT))
        exact_draw, _ = target.simulate(key_draw)
        return sampler.log_evidence_given(key_run, target, exact_draw)

    return jax.lax.map(one, run_keys)


def _of_one_length(positions: Any, log_weights: Any) -> tuple[Any, Any]:
    """Runs may leave different numbers of draws: the short ones get copies without weight."""
    longest = max(map(len, log_weights))

    def pad(x: Any, n: int) -> np.ndarray:
        x = np.asarray(x)
        return np.concatenate([x, np.repeat(x[-1:], longest - n, axis=0)])

    sizes = [len(w) for w in log_weights]
    positions = [
        jax.tree.map(lambda x: pad(x, n), one)  # noqa: B023
        for one, n in zip(positions, sizes, strict=True)
    ]
    log_weights = [pad(w, n) for w, n in zip(log_weights, sizes, strict=True)]
    for one, n in zip(log_weights, sizes, strict=True):
        one[n:] = -np.inf
    return positions, log_weights


# Learned --------------------------------------------------------------------------------------


# It runs once, and is nearly all random numbers, which take longer to compile well than to draw.
QUICKLY = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


@eqx.filter_jit(compiler_options=QUICKLY)  # pyright: ignore[reportCallIssue]
def _untrained(sampler: LearnedSampler, target: Energy, key: PRNGKeyArray) -> Any:
    return chunks.strong(sampler.init(keys.key_for(key, keys.START), target))


def run_learned(
    sampler: LearnedSampler,
    target: Energy,
    rng_key: PRNGKeyArray,
    num_chains: int,
    num_samples: int,
    *,
    checkpoint: Callable[[int], Checkpoint] | None,
    progress: Progress,
    until: Callable[[Drawn], bool] | None = None,
) -> Drawn:
    """Train and draw, ``num_chains`` times, one run after the other with the same program.

    ``until`` is asked about each run by itself, after 100, 150, 225, ... updates, and shown a batch
    of draws from what has been learned by then.
    """
    tallies, runs, histories, notes, stopped = Tallies(), [], [], [], "complete"
    trained, evidence = sampler, sampler.weights_estimate_evidence
    for run in range(num_chains):
        key, spent, clock = random.fold_in(rng_key, run), Tallies(), time.perf_counter()
        state = _untrained(sampler, target, key)
        spent.spend("start", [0, 0], time.perf_counter() - clock)
        here = checkpoint(run) if checkpoint is not None else None
        loop = Loop(LearnedProgram(sampler), target, key, state, spent, here)

        def enough(loop: Loop = loop) -> bool:
            assert until is not None
            trained = Trained(sampler, loop.state)
            key = random.fold_in(keys.key_for(loop.keys, keys.LOOK), loop.t)
            few = min(num_samples, sampler.batch_size)
            drawn = _draw_run(trained, target, key, few, loop.tallies, _silent, "train")
            history = {name: x[None] for name, x in loop.history().items()}
            return bool(until(_join(trained, [drawn], history, loop.tallies, "running", evidence)))

        check = None if until is None else enough
        loop.run(sampler.num_updates, progress, phase="train", check=check)
        stopped = loop.stopped if loop.stopped != "complete" else stopped
        histories.append(loop.history())
        if loop.stopped != "interrupted":
            notes += sampler.notes(loop.history())
        if loop.stopped == "until":
            notes.append(
                f"until= ended training after {loop.t} of {sampler.num_updates} updates: schedules "
                "over all of them, as of learning rates, had not come to their end"
            )
        trained = Trained(sampler, loop.state)
        runs.append(_draw_run(trained, target, key, num_samples, spent, progress))
        tallies.add(spent)
        if stopped == "interrupted":
            break
    shortest = min((len(x) for h in histories for x in h.values()), default=0)
    history = {n: np.stack([h[n][:shortest] for h in histories]) for n in histories[0]}
    drawn = _join(trained, runs, history, tallies, stopped, evidence)
    drawn.notes += dict.fromkeys(notes)
    if drawn.log_evidences is not None:
        drawn.notes += _doubts(drawn.log_weights, trained.draws_together)
    return drawn


# Direct ---------------------------------------------------------------------------------------


@eqx.filter_jit
def _draw(sampler: DirectSampler, target: Energy, key: PRNGKeyArray, n: int) -> Any:
    return sampler.draw(key, target, n)


def run_direct(
    sampler: DirectSampler,
    target: Energy,
    rng_key: PRNGKeyArray,
    num_chains: int,
    num_samples: int,
    *,
    progress: Progress,
) -> Drawn:
    """Draw in batches of a fixed size, so that one program serves every large ``num_samples``."""
    tallies = Tallies()
    runs = [
        _draw_run(sampler, target, random.fold_in(rng_key, run), num_samples, tallies, progress)
        for run in range(num_chains)
    ]
    drawn = _join(sampler, runs, {}, tallies, "complete", sampler.weights_estimate_evidence)
    if drawn.log_evidences is not None:
        drawn.notes += _doubts(drawn.log_weights, sampler.draws_together)
    return drawn


def _doubts(log_weights: Any, together: int = 1) -> list[str]:
    doubt = weights.doubt(log_weights, together)
    return [] if doubt is None else [doubt]


def _batch(sampler: DirectSampler, num_samples: int) -> int:
    """As many draws as the sampler makes at once, or a power of two that is enough.

    Six draws of a costly sampler must not cost a thousand; of every size there is a program.
    """
    if sampler.draws_together > 1:
        return sampler.batch_size
    return min(sampler.batch_size, max(SMALLEST_BATCH, 1 << (num_samples - 1).bit_length()))


def _draw_run(
    sampler: DirectSampler,
    target: Energy,
    key: PRNGKeyArray,
    num_samples: int,
    tallies: Tallies,
    progress: Progress,
    phase: str = "sample",
) -> tuple[PyTree, np.ndarray | None]:
    batch = _batch(sampler, num_samples)
    rows = Rows(num_samples)
    while rows.count < num_samples:
        began = time.perf_counter()
        batch_key = random.fold_in(keys.key_for(key, keys.COLLECT), rows.count // batch)
        drawn = jax.tree.map(np.asarray, _draw(sampler, target, batch_key, batch))
        keep = min(batch, num_samples - rows.count)
        rows.append(jax.tree.map(lambda x: x[:keep], drawn))  # noqa: B023
        tallies.spend(phase, sampler.evaluations(batch), time.perf_counter() - began)
        progress(keep, {})
    positions, log_weights = rows.arrays
    return positions, log_weights


def _join(
    sampler: Any, runs: list, history: dict, tallies: Tallies, stopped: str, evidence: Any
) -> Drawn:
    positions, log_weights = zip(*runs, strict=True)
    weighted = log_weights[0] is not None
    log_evidences = None
    if weighted and evidence:
        from ppl.weights import log_mean_exp

        log_evidences = np.asarray([float(log_mean_exp(w)) for w in log_weights])
    return Drawn(
        jax.tree.map(lambda *x: np.stack(x), *positions),
        np.stack(log_weights) if weighted else None,
        log_evidences,
        sampler,
        history,
        tallies,
        stopped,
    )


# The loop of chunks ---------------------------------------------------------------------------


class Loop:
    """Chunks of one program until it is done, ``limit`` steps are taken, a check, or Ctrl-C."""

    def __init__(
        self,
        program: Any,
        target: Energy,
        run_keys: Keys,
        state: Any,
        tallies: Tallies,
        checkpoint: Checkpoint | None,
    ):
        self.program, self.target, self.keys = program, target, run_keys
        self.state, self.tallies, self.checkpoint = state, tallies, checkpoint
        self.t, self.done, self.stopped = 0, False, "complete"
        self.rows = Rows(0)

    def run(
        self,
        limit: int,
        progress: Progress,
        phase: str = "sample",
        check: Callable[[], bool] | None = None,
    ) -> None:
        """Advance; an interrupt keeps what is complete. ``check`` is asked at geometric times."""
        try:
            if self.checkpoint is not None:
                self._resume(progress)
            pace = Pace(0.4)
            while self.t < limit and not self.done:
                # A run that the check ended and that is called again must end there again.
                if check is not None and next_check(self.t - 1) == self.t and check():
                    self.stopped = "until"
                    break
                end = limit if check is None else min(limit, next_check(self.t))
                self._advance(min(pace.steps(end - self.t, 1, ROWS), ROWS), pace, progress, phase)
        except KeyboardInterrupt:
            self.stopped = "interrupted"

    def history(self) -> dict[str, np.ndarray]:
        """Infos by name, leading axis: step."""
        kept = self.rows.slice(0, self.rows.count)
        return {} if kept is None else kept

    def _advance(self, count: int, pace: Pace, progress: Progress, phase: str) -> None:
        began, first = time.perf_counter(), self.t
        state, buffer, counts, steps, done = _chunk(
            self.program, self.target, self.keys, self.state,
            np.asarray(first, np.int32), np.asarray(count, np.int32), ROWS,
        )  # fmt: skip
        steps = int(steps)
        self.rows.append(jax.tree.map(lambda x: np.asarray(x)[:steps], buffer))
        self.state, self.t, self.done = state, first + steps, bool(done)
        seconds = time.perf_counter() - began
        pace.learn(max(steps, 1), seconds)
        self.tallies.spend(phase, counts.evaluations, seconds)
        if self.checkpoint is not None:
            self._save(first)
        progress(steps, {n: x[-1] for n, x in self.history().items() if len(x)})

    def _save(self, first: int) -> None:
        assert self.checkpoint is not None
        new = self.rows.slice(first, self.t)
        if new is not None and self.t > first:
            self.checkpoint.save_chunk(first, {f"history/{n}": x for n, x in new.items()})
        counters = {
            "t": self.t,
            "done": self.done,
            "evaluations": self.tallies.evaluations,
            "seconds": self.tallies.seconds,
        }
        self.checkpoint.save_state(self.state, counters)

    def _resume(self, progress: Progress) -> None:
        assert self.checkpoint is not None
        found = self.checkpoint.resume(self.state)
        if found is None:
            return
        self.state, counters = found
        self.t, self.done = counters["t"], counters["done"]
        self.tallies.evaluations = counters["evaluations"]
        self.tallies.seconds = counters["seconds"]
        for arrays in self.checkpoint.chunks(self.t):
            self.rows.append({n.removeprefix("history/"): x for n, x in arrays.items()})
        progress(self.t, {})
