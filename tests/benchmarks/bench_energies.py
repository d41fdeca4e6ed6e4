"""Samplers of an energy on eight targets, at equal numbers of evaluations of the target.

    make bench, or python tests/benchmarks/bench_energies.py table.md [evaluations [target ...]]

Samplers that are made for multimodal energies, learned or not, stand beside `TemperedSMC`,
`ParallelTempering` and `NUTS`. Each run of each sampler spends one budget, counted as `ppl.compare`
does: log-densities or gradients, whichever are more, with warm-up and training. All are told one
number, the scale of the target, from which those that need a Gaussian reference make it. A learned
sampler that is not in the library yet is left out, and joins by its name.

For each sampler and target: the error of log Z; of the masses of modes (total variation, largest
over the groups); the sliced Wasserstein distance to exact draws, in sds, beside its floor, that of
two sets of exact draws; and the effective sample size that its own diagnostics claim.
"""

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

BUDGET, SEEDS = 1_000_000, 2
TRAINING = 0.8  # share of the budget that a learned sampler trains on
MOST_UPDATES = 5000  # where an update costs few evaluations


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
    return Case("phi^4, 8 x 8", target, 2.0, np.array([[0.5, 0.5]]), modes, long)


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
        few = replace(sampler, num_updates=2)
        spent = ppl.sample(few, case.target, 0, num_samples=1, progress=False).run.evaluations
        each = max(spent["train"]) / 2
        # Two batches of draws have to be left: `compare` makes one at the end of training.
        left = min(TRAINING * budget, budget - 2 * max(spent["sample"]))
        return replace(sampler, num_updates=int(np.clip(left / max(each, 1), 1, MOST_UPDATES)))

    return make


SAMPLERS |= {name: learned(name) for name in LEARNED if hasattr(samplers, name)}


class Row(NamedTuple):
    """Means over the seeds; NaN where there is none. ``failure``: why there are no draws."""

    log_z: float = math.nan
    masses: float = math.nan
    distance: float = math.nan
    ess: float = math.nan
    seconds: float = math.nan
    failure: str = ""

    def __str__(self) -> str:
        if self.failure:
            return f"fails: {self.failure} | | | |"
        figures = [(self.log_z, ".2g"), (self.masses, ".2f"), (self.distance, ".2f")]
        figures += [(self.ess, ".0f"), (self.seconds, ".0f")]
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


def measure(name: str, case: Case, budget: int = BUDGET) -> tuple[Row, float]:
    """A row, and the sliced Wasserstein distance of exact draws to others."""
    began = time.perf_counter()
    comparison = ppl.compare(
        case.target, {name: SAMPLERS[name](case, budget)}, 0, budget,
        num_seeds=SEEDS, reference=case.reference, progress=False,
    )  # fmt: skip
    (standing,), truth = comparison.standings, comparison.truth
    assert truth is not None
    floor = truth.distances()[1]
    if not standing.runs:
        return Row(failure="; ".join(dict.fromkeys(standing.failures))), floor
    known = truth.log_normalizer if case.log_normalizer is None else case.log_normalizer
    found = [run.log_evidence.value for run in standing.runs if run.log_evidence is not None]
    log_z = math.nan if known is None or not found else np.mean(np.abs(np.array(found) - known))
    rows = standing.rows(truth.yardstick.labels, np.random.default_rng(0))
    masses = np.mean([mass_error(case, run) for run in standing.runs])
    seconds = time.perf_counter() - began
    ess = standing.ess.mean(axis=0)[0]
    return Row(float(log_z), float(masses), truth.distances(rows)[1], float(ess), seconds), floor


def lines(budget: int, names: list[str]) -> Iterator[str]:
    """A table for each target, in Markdown, a line at a time."""
    for name in names:
        case, floor, table = CASES[name](), math.nan, []
        for sampler in SAMPLERS:
            row, floor = measure(sampler, case, budget)
            jax.clear_caches()
            print(case.name, sampler, tuple(row), file=sys.stderr, flush=True)
            table.append(f"| `{sampler}` | {row} |")
        yield f"### {case.name}"
        yield ""
        yield f"| sampler | log Z | masses | distance (floor {floor:.2f}) | ESS | seconds |"
        yield "| --- | --- | --- | --- | --- | --- |"
        yield from table
        yield ""


def test_every_sampler_has_its_figures_on_a_mixture():
    """Only that each runs: the figures are for reading."""
    printed = list(lines(200_000, ["gmm25"]))
    print("\n".join(printed))
    assert len(printed) == 5 + len(SAMPLERS)


if __name__ == "__main__":
    budget = int(sys.argv[2]) if len(sys.argv) > 2 else BUDGET
    with Path(sys.argv[1]).open("w") as file:
        for line in lines(budget, sys.argv[3:] or list(CASES)):
            print(line, flush=True)
            print(line, file=file, flush=True)
