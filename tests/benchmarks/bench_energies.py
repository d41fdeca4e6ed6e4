"""Samplers of an energy on eight targets, at equal numbers of evaluations of the target.

    python tests/benchmarks/bench_energies.py rows.csv [evaluations [seeds [target ...]]]
    python tests/benchmarks/bench_energies.py rows.csv tables

Samplers that are made for multimodal energies, learned or not, stand beside `TemperedSMC`,
`ParallelTempering` and `NUTS`. Each run of each sampler spends one budget, counted as `ppl.compare`
does: log-densities or gradients, whichever are more, with warm-up and training. All are told one
number, the scale of the target, from which those that need a Gaussian reference make it. A learned
sampler has its defaults but for the number of updates, which is what the budget pays.

For each sampler and target: the error of log Z; of the masses of modes (total variation, largest
over the groups); the sliced Wasserstein distance to exact draws, in sds, beside its floor, that of
two sets of exact draws; and the effective sample size that its own diagnostics claim.

A row is appended as soon as it is known, and those that are in the file are not run again: a run
that was cut off goes on where it was. ``tables`` prints what is there, in Markdown, as
``docs/samplers_of_energies.md`` has it from ``docs/samplers_of_energies.csv``.
"""

import csv
import functools
import math
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import scipy.stats

import ppl
import samplers
from models.programs import breast_cancer
from models.targets.benchmark_mixtures import gmm25, gmm40, gmm40_jax
from models.targets.funnel import hard_funnel
from models.targets.many_well import many_well, many_well_5
from models.targets.phi4 import Phi4

BUDGET, SEEDS = 300_000, 2
TRAINING = 0.8  # share of the budget that a learned sampler trains on
MOST_UPDATES = 2000  # where an update costs few evaluations


class Case(NamedTuple):
    """A target, its scale, the true masses of its modes, and how to tell whose a draw is."""

    name: str
    target: Any
    scale: float
    masses: np.ndarray | None = None  # (groups, modes)
    modes: Callable[[Any], np.ndarray] | None = None  # positions (n, ..) -> (n, groups), integers
    reference: Any = None  # draws, where there are no exact ones
    log_normalizer: float | None = None


def mixture(name: str, target: Any, scale: float) -> Case:
    masses = np.exp(np.asarray(target.log_shares, np.float64))[None]
    return Case(name, target, scale, masses, lambda x: np.asarray(target.component(x))[:, None])


def wells(name: str, target: Any) -> Case:
    left = float(target.left_share)
    masses = np.tile([left, 1 - left], (target.num_wells, 1))
    modes = lambda x: 1 - np.asarray(target.in_left_well(x)).astype(int)
    return Case(name, target, 2.0, masses, modes)


def funnel() -> Case:
    cuts = 3 * scipy.stats.norm.ppf([0.1, 0.5, 0.9])
    modes = lambda x: np.digitize(np.asarray(x["v"]), cuts)[:, None]
    return Case("funnel", hard_funnel(), 3.0, np.array([[0.1, 0.4, 0.4, 0.1]]), modes)


def field() -> Case:
    target = Phi4(kappa=0.3)
    modes = lambda x: (np.asarray(target.magnetization(jnp.asarray(x))) > 0).astype(int)[:, None]
    tempering = samplers.ParallelTempering(reference=broad(target, 2.0))
    long = ppl.sample(tempering, target, 1, 4000, 4, progress=False)
    # The law is the same with all signs turned: so is what the others are compared with.
    both = np.concatenate([long.positions, -np.asarray(long.positions)])
    mirrored = ppl.Draws(both, target=target, sampler=long.sampler, stats={}, run=long.run)
    return Case("phi^4, 8 x 8", target, 2.0, np.array([[0.5, 0.5]]), modes, mirrored)


def regression() -> Case:
    target = ppl.from_numpyro(breast_cancer.model, **breast_cancer.data())
    long = ppl.sample(samplers.NUTS(), target, 1, 4000, 4, progress=False)
    smc = ppl.sample(samplers.TemperedSMC(num_particles=4096), target, 1, progress=False)
    assert smc.log_evidence is not None
    return Case("regression", target, 1.0, None, None, long, smc.log_evidence.value)


CASES: dict[str, Callable[[], Case]] = {
    "gmm25": lambda: mixture("GMM-25", gmm25(), 7.5),
    "gmm40": lambda: mixture("GMM-40, d = 2", gmm40(), 25.0),
    "gmm40-50": lambda: mixture("GMM-40, d = 50", gmm40_jax(50), 25.0),
    "funnel": funnel,
    "wells5": lambda: wells("many-well, d = 5", many_well_5()),
    "wells32": lambda: wells("many-well, d = 32", many_well()),
    "phi4": field,
    "regression": regression,
}


TITLES = {
    "gmm25": "GMM-25",
    "gmm40": "GMM-40, d = 2",
    "gmm40-50": "GMM-40, d = 50",
    "funnel": "Funnel, d = 10",
    "wells5": "Many-well, d = 5",
    "wells32": "Many-well, d = 32",
    "phi4": "phi^4, 8 by 8 sites",
    "regression": "Logistic regression, d = 31",
}


def broad(target: Any, scale: float) -> Any:
    """Gaussian of this scale on the space of the target, as something that can be sampled."""
    template = target.template
    if not isinstance(template, dict):
        return ppl.from_distribution(dist.Normal(0, scale).expand(template.shape).to_event())

    def model() -> None:
        for name, leaf in template.items():
            law = dist.Normal(0, scale)
            numpyro.sample(name, law.expand(leaf.shape).to_event() if leaf.shape else law)

    return ppl.from_numpyro(model)


def gaussian_of(case: Case) -> Any:
    """Where tempering starts: the prior, where the target has one."""
    return None if "log_parts" in case.target.offers else broad(case.target, case.scale)


def inner(budget: int) -> int:
    """Draws of an estimate, so that a batch of 256 draws of fifty levels is half the budget."""
    return max(budget // (2 * 256 * 50), 4)


SAMPLERS: dict[str, Callable[[Case, int], Any]] = {
    "TemperedSMC": lambda case, n: samplers.TemperedSMC(1024, reference=gaussian_of(case)),
    "ParallelTempering": lambda case, n: samplers.ParallelTempering(
        12, reference=gaussian_of(case)
    ),
    "NUTS": lambda case, n: samplers.NUTS(),
    "ReverseDiffusionMC": lambda case, n: samplers.ReverseDiffusionMC(
        samplers.InnerImportance(inner(n)), scale=case.scale
    ),
    "SchrodingerFollmer": lambda case, n: samplers.SchrodingerFollmer(
        samplers.FollmerStein(inner(n)), scale=case.scale
    ),
}
LEARNED = ("PIS", "DDS", "DIS", "CMCD", "DGFS", "SCLD", "AdjointSampling", "ASBS")


def learned(name: str) -> Callable[[Case, int], Any]:
    """The sampler with as many updates as the budget pays."""

    def make(case: Case, budget: int) -> Any:
        sampler = getattr(samplers, name)(scale=case.scale)
        # Two batches of draws have to be left: `compare` makes one at the end of training.
        left = min(TRAINING * budget, budget - 2 * max(sampler.evaluations(sampler.batch_size)))
        updates = int(np.clip(left / update_cost(sampler), 1, MOST_UPDATES))
        return replace(sampler, num_updates=updates)

    return make


def update_cost(sampler: Any) -> float:
    """Evaluations of one update: those of its paths, or of some paths now and then."""
    if hasattr(sampler, "every"):
        return 2 * sampler.num_paths / sampler.every
    paths = getattr(sampler, "num_paths", None) or sampler.num_particles
    return max(sampler.evaluations(paths))


SAMPLERS |= {name: learned(name) for name in LEARNED}


class Row(NamedTuple):
    """Means over the seeds; NaN where there is none. ``failure``: why there are no draws."""

    seeds: int = SEEDS
    log_z: float = math.nan
    masses: float = math.nan
    distance: float = math.nan
    ess: float = math.nan
    seconds: float = math.nan
    floor: float = math.nan
    failure: str = ""

    def __str__(self) -> str:
        if self.failure:
            return f"fails: {self.failure} | | |"
        figures = [(self.log_z, ".2g"), (self.masses, ".2f"), (self.distance, ".2f")]
        figures += [(self.ess, ".0f")]
        return " | ".join("-" if math.isnan(x) else format(x, form) for x, form in figures)


def mass_error(case: Case, draws: Any) -> float:
    """Total variation between the masses of the draws and the true ones, the largest of all."""
    if case.modes is None or case.masses is None:
        return math.nan
    weights = np.exp(draws.pooled_log_weights()).ravel()
    flat = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), draws.positions)
    modes = case.modes(flat)
    errors = []
    for group, true in zip(modes.T, case.masses, strict=True):
        found = np.bincount(group, weights / weights.sum(), minlength=len(true))
        errors.append(np.abs(found - true).sum() / 2)
    return float(max(errors))


def measure(name: str, case: Case, budget: int = BUDGET, seeds: int = SEEDS) -> Row:
    """A row; ``floor`` is the sliced Wasserstein distance of exact draws to others."""
    began = time.perf_counter()
    comparison = ppl.compare(
        case.target, {name: SAMPLERS[name](case, budget)}, 0, budget,
        num_seeds=seeds, reference=case.reference, progress=False,
    )  # fmt: skip
    (standing,), truth = comparison.standings, comparison.truth
    assert truth is not None
    floor = truth.distances()[1]
    if not standing.runs:
        return Row(seeds, floor=floor, failure="; ".join(dict.fromkeys(standing.failures)))
    known = truth.log_normalizer if case.log_normalizer is None else case.log_normalizer
    found = [run.log_evidence.value for run in standing.runs if run.log_evidence is not None]
    log_z = math.nan if known is None or not found else np.mean(np.abs(np.array(found) - known))
    rows = standing.rows(truth.yardstick.labels, np.random.default_rng(0))
    masses = np.mean([mass_error(case, run) for run in standing.runs])
    seconds = time.perf_counter() - began
    ess = standing.ess.mean(axis=0)[0]
    distance = truth.distances(rows)[1]
    return Row(seeds, float(log_z), float(masses), distance, float(ess), seconds, floor)


HEAD = ("target", "sampler", "budget", *Row._fields)


def read(path: Path) -> dict[tuple[str, str, int], Row]:
    """Rows of a file by target, sampler and budget, in its order."""
    if not path.exists():
        return {}
    with path.open(newline="") as file:
        return {
            (line["target"], line["sampler"], int(line["budget"])): Row(
                int(line["seeds"]),
                *(float(line[name]) for name in Row._fields[1:-1]),
                line["failure"],
            )
            for line in csv.DictReader(file)
        }


def fill(path: Path, budget: int, names: list[str], seeds: int = SEEDS) -> None:
    """Append the rows that are missing: what trains nothing first."""
    case_of = functools.cache(lambda name: CASES[name]())
    known = read(path)
    if not known:
        path.write_text(",".join(HEAD) + "\n")
    plain = [name for name in SAMPLERS if name not in LEARNED]
    for group in (plain, LEARNED):
        for target in names:
            for sampler in group:
                if (target, sampler, budget) in known:
                    continue
                row = measure(sampler, case_of(target), budget, seeds)
                jax.clear_caches()
                print(target, sampler, tuple(row), file=sys.stderr, flush=True)
                with path.open("a", newline="") as file:
                    line = (target, sampler, budget, *row)
                    csv.writer(file, lineterminator="\n").writerow(line)


def tables(path: Path) -> Iterator[str]:
    """A table for each target, in Markdown, a line at a time."""
    known = read(path)
    for target in CASES:
        found = {key: row for key, row in known.items() if key[0] == target}
        if not found:
            continue
        floor = next(iter(found.values())).floor
        yield f"## {TITLES[target]}"
        yield ""
        yield f"| sampler | log Z | masses | distance (floor {floor:.2f}) | ESS |"
        yield "| --- | --- | --- | --- | --- |"
        for sampler in SAMPLERS:
            for (_, name, budget), row in found.items():
                if name == sampler:
                    more = "" if budget == BUDGET else f", {budget:,} evaluations"
                    more += "" if row.seeds > 1 else ", one seed"
                    yield f"| `{sampler}`{more} | {row} |"
        yield ""


def test_samplers_have_their_figures_on_a_mixture(tmp_path: Path) -> None:
    """Only that each runs: the figures are for reading."""
    path = tmp_path / "rows.csv"
    fill(path, BUDGET, ["gmm25"])
    printed = list(tables(path))
    print("\n".join(printed))
    assert len(printed) == 5 + len(SAMPLERS)


if __name__ == "__main__":
    rows, *rest = sys.argv[1:]
    if rest == ["tables"]:
        print("\n".join(tables(Path(rows))))
    else:
        told = [int(number) for number in rest[:2]]
        budget, seeds = (*told, *(BUDGET, SEEDS)[len(told) :])
        fill(Path(rows), budget, rest[2:] or list(CASES), seeds)
