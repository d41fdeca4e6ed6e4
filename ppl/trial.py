"""One sampler, one target, one budget, one key: the unit of which `ppl.compare` is made.

How a budget of evaluations is spent, by the contract of the sampler:

- A Markov kernel warms up for about a share of the budget, then runs until the rest is spent; its
  draws are cut where the cumulated evaluations would exceed it. A step costs the same in every
  draw, or as many times that as the stat ``n_steps`` says (trajectories of varying length).
- A particle sampler makes independent runs, at least one, as long as the next one fits.
- A learned sampler trains, then draws with what is left; a direct sampler draws.

The larger one of log-density and gradient evaluations counts, as in `ppl.evaluations`, because one
usually brings the other. Warm-up, training and the search for a start count. A short pilot with
another key comes first: it compiles, and measures what a step costs; its draws are thrown away and
its evaluations are not counted. Compile time is kept apart from run time.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import numpy as np
from jax import random
from jaxtyping import PRNGKeyArray

from ppl import about, weights
from ppl.draws import Draws
from ppl.energy import Energy
from ppl.inference import WARMUP, sample
from ppl.sampler import LearnedSampler, MarkovKernel, ParticleSampler, Sampler
from ppl.stopping import Elapsed, Evaluations

MIN_WARMUP = 100  # steps: the windows of a warm-up need some draws
PILOT_DRAWS = 100
WARMUP_SHARE = 0.25
FREE_DRAWS = 10_000  # of a sampler that evaluates nothing
MAX_ROUNDS = 10_000

type Budget = Evaluations | Elapsed


class BudgetError(ValueError):
    """A budget that is too small for what it should pay."""


@dataclass(frozen=True)
class Trial:
    """What one run gave and cost.

    Attributes
    ----------
    draws
        None where the run failed.
    evaluations
        Larger one of log-density and gradient evaluations.
    seconds, compile_seconds
        Wall time without compilation, and compilation.
    failure
        Why there are no draws; empty where there are.
    notes
        What a reader of the figures should know.
    """

    draws: Draws | None
    evaluations: int = 0
    seconds: float = 0.0
    compile_seconds: float = 0.0
    failure: str = ""
    notes: tuple[str, ...] = ()


class Clock:
    """Wall time since it was made, compilation apart."""

    def __init__(self):
        self._began, self._compiled = time.perf_counter(), about.CompileClock.read()

    @property
    def compiling(self) -> float:
        """Seconds spent on tracing and compiling."""
        return about.CompileClock.read() - self._compiled

    @property
    def running(self) -> float:
        """All other seconds."""
        return max(time.perf_counter() - self._began - self.compiling, 0.0)


@dataclass
class Contestant:
    """A sampler with a budget: `prepare` once, then `run` for each key; never raises for it.

    ``num_warmup`` None: chosen by `prepare`. A sampler that cannot be prepared fails in every run,
    with the reason it had.
    """

    sampler: Sampler
    target: Energy
    budget: Budget
    num_chains: int
    num_warmup: int | None = None
    init: Any = None
    compile_seconds: float = 0.0
    reason: str = field(default="", init=False)
    _step: float = field(default=1.0, init=False)  # what one step of all chains costs

    def prepare(self, rng_key: PRNGKeyArray) -> None:
        """Compile, and choose the length of a warm-up."""
        clock = Clock()
        try:
            if isinstance(self.sampler, MarkovKernel):
                self._pilot(self.sampler, rng_key)
        except Exception as error:  # one sampler's failure is a row of the table
            self.reason = said(error)
        self.compile_seconds += clock.compiling

    def run(self, rng_key: PRNGKeyArray) -> Trial:
        """Spend the budget once."""
        if self.reason:
            return Trial(None, failure=self.reason)
        clock = Clock()
        try:
            match self.sampler:
                case MarkovKernel():
                    draws, notes = self._markov(self.sampler, rng_key, clock)
                case ParticleSampler():
                    draws, notes = self._particles(self.sampler, rng_key, clock)
                case LearnedSampler():
                    draws, notes = self._learned(self.sampler, rng_key, clock)
                case _:
                    draws, notes = self._direct(self.sampler, rng_key, clock, 0, 0.0)
        except Exception as error:
            return Trial(None, 0, clock.running, clock.compiling, said(error))
        spent = max(draws.num_evaluations)
        finite = all(np.isfinite(leaf).any() for leaf in jax.tree.leaves(draws.positions))
        failure = "" if finite else "every draw is NaN or infinite"
        seconds = clock.running
        if isinstance(self.sampler, MarkovKernel):  # without those of draws that were cut off
            seconds = max(draws.run.wall_seconds - clock.compiling, 0.0)
        kept = draws if finite else None
        return Trial(kept, spent, seconds, clock.compiling, failure, tuple(notes))

    # Markov kernels ---------------------------------------------------------------------------

    def _pilot(self, kernel: MarkovKernel, rng_key: PRNGKeyArray) -> None:
        warmup = MIN_WARMUP if self.num_warmup is None else self.num_warmup
        sizes: dict[str, Any] = {"num_samples": PILOT_DRAWS, "num_chains": self.num_chains}
        sizes |= {"init": self.init, "progress": False}
        draws = _sample(kernel, self.target, rng_key, num_warmup=warmup, **sizes)
        if isinstance(self.budget, Elapsed):  # again: the first time compiled
            draws = _sample(kernel, self.target, rng_key, num_warmup=warmup, **sizes)
            unit, budget = draws.run.seconds, self.budget.seconds
        else:
            unit = {phase: max(n) for phase, n in draws.run.evaluations.items()}
            budget = self.budget.n
        self._step = unit["sample"] / PILOT_DRAWS
        affordable = WARMUP_SHARE * budget * warmup / max(unit["warmup"], 1e-9)
        if self.num_warmup is None and affordable < MIN_WARMUP:
            raise _too_small(self.budget, math.ceil(unit["warmup"]), self.num_chains)
        if self.num_warmup is None:
            self.num_warmup = min(WARMUP, int(affordable))

    def _markov(
        self, kernel: MarkovKernel, rng_key: PRNGKeyArray, clock: Clock
    ) -> tuple[Draws, list[str]]:
        assert self.num_warmup is not None
        if isinstance(self.budget, Elapsed):
            seconds = self.budget.seconds
            until = lambda draws: clock.running >= seconds  # compilation does not count
            most = 10 * seconds / self._step  # short pilots are slow
        elif kernel.fixed_length:
            until = self.budget
            most = self.budget.n / self._step - self.num_warmup + 1
        else:
            until = self.budget
            most = self.budget.n / self.num_chains  # a step evaluates the target once at least
        draws = _sample(
            kernel, self.target, rng_key,
            num_samples=max(1, math.ceil(most)), num_chains=self.num_chains,
            num_warmup=self.num_warmup, init=self.init, until=until, progress=False,
        )  # fmt: skip
        warmup = max(_phases(draws, "start", "warmup"))
        if isinstance(self.budget, Elapsed):
            sampling = draws.run.seconds["sample"]
            share = (self.budget.seconds - clock.running + sampling) / sampling
            kept = math.floor(draws.num_samples * min(1.0, share))
        else:
            cost = np.cumsum(cost_by_row(draws))
            kept = int(np.searchsorted(cost, self.budget.n - warmup + 0.5))
        if kept < 1:
            raise BudgetError(
                f"the warm-up of {self.num_warmup} steps spent all of the budget "
                f"({warmup:,} evaluations, {clock.running:.3g} s)"
            )
        return first(draws, kept), []

    # All others -------------------------------------------------------------------------------

    def _particles(
        self, sampler: ParticleSampler, rng_key: PRNGKeyArray, clock: Clock
    ) -> tuple[Draws, list[str]]:
        runs: list[Draws] = []
        spent = largest = slowest = 0.0
        while len(runs) < MAX_ROUNDS:
            began = clock.running
            key = random.fold_in(rng_key, len(runs))
            runs.append(_sample(sampler, self.target, key, num_chains=1, progress=False))
            cost = max(runs[-1].num_evaluations)
            spent, largest = spent + cost, max(largest, cost)
            slowest = max(slowest, clock.running - began)
            if isinstance(self.budget, Evaluations):
                over = spent + max(largest, 1) > self.budget.n
            else:
                over = clock.running + slowest > self.budget.seconds
            if over:
                break
        notes = []
        if isinstance(self.budget, Evaluations) and spent > self.budget.n:
            notes = [f"one run cost {spent:,.0f} evaluations, more than the budget"]
        return joined(runs), notes

    def _learned(
        self, sampler: LearnedSampler, rng_key: PRNGKeyArray, clock: Clock
    ) -> tuple[Draws, list[str]]:
        key_train, key_draw = random.split(rng_key)
        few = _sample(sampler, self.target, key_train, num_samples=1, progress=False)
        trained, spent = few.sampler, max(few.num_evaluations)
        draws, notes = self._direct(trained, key_draw, clock, spent, clock.running)
        total = (
            draws.num_evaluations[0] + few.num_evaluations[0],
            draws.num_evaluations[1] + few.num_evaluations[1],
        )
        run = replace(
            draws.run,
            kind="learned",
            sampler_name=type(sampler).__name__,
            evaluations=few.run.evaluations | {"sample": list(draws.num_evaluations)},
        )
        return rebuilt(draws, run=run, history=few.history, num_evaluations=total), notes

    def _direct(
        self, sampler: Any, rng_key: PRNGKeyArray, clock: Clock, spent: int, before: float
    ) -> tuple[Draws, list[str]]:
        sampler = sampler.resolve(self.target)  # what a draw costs may be known only then
        batch = sampler.batch_size
        each = max(sampler.evaluations(batch))
        if isinstance(self.budget, Evaluations):
            left = self.budget.n - spent
            if left < each:
                what = f"training spent {spent:,} evaluations of it, and " if spent else ""
                raise BudgetError(
                    f"the budget of {self.budget.n:,} evaluations is too small: {what}a batch of "
                    f"{batch:,} draws costs {each:,}"
                )
            num = batch * (left // each) if each else FREE_DRAWS
        else:
            draws = _sample(sampler, self.target, rng_key, num_samples=batch, progress=False)
            began = clock.running  # that batch compiled
            draws = _sample(sampler, self.target, rng_key, num_samples=batch, progress=False)
            pace = max(clock.running - began, 1e-6)
            rounds = min(int((self.budget.seconds - clock.running) / pace), MAX_ROUNDS)
            if rounds < 1:
                if before:
                    raise BudgetError(f"training took {before:.3g} s, all of the budget")
                return draws, ["one batch took all of the budget"]
            num = batch * rounds
        return _sample(sampler, self.target, rng_key, num_samples=num, progress=False), []


def refuse_small(budget: Budget, sampler: Sampler, num_chains: int, num_warmup: int | None) -> None:
    """Raise where a budget cannot pay one warm-up, whatever a step costs; nothing is compiled."""
    if not (isinstance(sampler, MarkovKernel) and isinstance(budget, Evaluations)):
        return
    if num_warmup is None and WARMUP_SHARE * budget.n < MIN_WARMUP * num_chains:
        raise _too_small(budget, MIN_WARMUP * num_chains, num_chains)
    if num_warmup is not None and budget.n <= num_warmup * num_chains:
        raise BudgetError(
            f"a budget of {budget.n:,} evaluations is smaller than one warm-up: {num_warmup} steps "
            f"of {num_chains} chains cost {num_warmup * num_chains:,} at least. Write a larger "
            "budget=, fewer num_chains= or a smaller num_warmup="
        )


def _too_small(budget: Budget, warmup: int, num_chains: int) -> BudgetError:
    """``warmup``: what the shortest one costs, in evaluations."""
    if isinstance(budget, Elapsed):
        return BudgetError(
            f"a budget of {budget.seconds:g} s is smaller than one warm-up: {MIN_WARMUP} steps may "
            f"get {WARMUP_SHARE:.0%} of it and take longer. Write a larger budget=, or num_warmup="
        )
    return BudgetError(
        f"a budget of {budget.n:,} evaluations is smaller than one warm-up: {MIN_WARMUP} steps of "
        f"{num_chains} chains cost about {warmup:,}, and warm-up gets {WARMUP_SHARE:.0%} of the "
        f"budget. Write budget={math.ceil(warmup / WARMUP_SHARE):,} or more, fewer num_chains=, or "
        "num_warmup= to say how long it should be"
    )


def said(error: Exception) -> str:
    """An error as the cell of a table: what and why, in one line."""
    text = " ".join(str(error).split())
    kind = type(error).__name__
    return text if isinstance(error, BudgetError) else f"{kind}: {text}" if text else kind


def _sample(*args: Any, **options: Any) -> Draws:
    draws = sample(*args, **options)
    if draws.run.stopped == "interrupted":
        raise KeyboardInterrupt  # who interrupts a comparison does not mean one of its runs
    return draws


# Parts of draws -------------------------------------------------------------------------------


def _phases(draws: Draws, *phases: str) -> tuple[int, int]:
    spent = [draws.run.evaluations.get(phase, [0, 0]) for phase in phases]
    return sum(s[0] for s in spent), sum(s[1] for s in spent)


def cost_by_row(draws: Draws) -> np.ndarray:
    """Evaluations that each draw cost, all chains together; they add up to those of sampling."""
    total = max(_phases(draws, "sample"))
    steps = draws.stats.get("n_steps")
    if steps is None or steps.shape != (draws.num_chains, draws.num_samples) or not steps.any():
        return np.full(draws.num_samples, total / draws.num_samples)
    return steps.sum(axis=0) * (total / steps.sum())


def first(draws: Draws, count: int) -> Draws:
    """The first ``count`` draws of each chain, with their share of what sampling cost."""
    if count >= draws.num_samples:
        return draws
    share = cost_by_row(draws)[:count].sum() / max(_phases(draws, "sample"))
    density, gradient = (round(n * share) for n in draws.run.evaluations["sample"])
    evaluations = draws.run.evaluations | {"sample": [density, gradient]}
    seconds = dict(draws.run.seconds)
    seconds["sample"] *= count / draws.num_samples
    before = _phases(draws, "start", "warmup")
    stats = {name: x[:, :count] for name, x in draws.stats.items()}
    kernel = draws.sampler
    run = replace(draws.run, num_samples=count, evaluations=evaluations, seconds=seconds)
    return rebuilt(
        draws,
        positions=jax.tree.map(lambda x: x[:, :count], draws.positions),
        stats=stats,
        run=run,
        log_evidence=kernel.log_evidence(stats) if isinstance(kernel, MarkovKernel) else None,
        num_evaluations=(before[0] + density, before[1] + gradient),
    )


def joined(runs: list[Draws]) -> Draws:
    """Independent runs of one sampler as one set of draws, a chain a run."""
    one = runs[0]
    if len(runs) == 1:
        return one

    def add(parts: list[dict[str, Any]], plus: Callable[[Any, Any], Any]) -> dict[str, Any]:
        total: dict[str, Any] = {}
        for part in parts:
            for name, value in part.items():
                total[name] = plus(total[name], value) if name in total else value
        return total

    run = replace(
        one.run,
        num_chains=len(runs),
        seconds=add([each.run.seconds for each in runs], lambda a, b: a + b),
        evaluations=add(
            [each.run.evaluations for each in runs],
            lambda a, b: [x + y for x, y in zip(a, b, strict=True)],
        ),
    )
    evidences = [each.log_evidence for each in runs if each.log_evidence is not None]
    evidence = weights.evidence_of_runs(evidences) if len(evidences) == len(runs) else None
    weighted = [each.log_weights for each in runs if each.log_weights is not None]
    return rebuilt(
        one,
        positions=jax.tree.map(lambda *x: np.concatenate(x), *(each.positions for each in runs)),
        run=run,
        log_weights=np.concatenate(weighted) if weighted else None,
        log_evidence=evidence,
        num_evaluations=tuple(sum(n) for n in zip(*(r.num_evaluations for r in runs), strict=True)),
        history={},
    )


def rebuilt(draws: Draws, **changes: Any) -> Draws:
    """Draws with some of their parts changed."""
    fields = {
        "positions": draws.positions,
        "target": draws.target,
        "sampler": draws.sampler,
        "stats": draws.stats,
        "run": draws.run,
        "log_weights": draws.log_weights,
        "log_evidence": draws.log_evidence,
        "num_evaluations": draws.num_evaluations,
        "history": draws.history,
    } | changes
    return Draws(fields.pop("positions"), **fields)
