"""The page of a comparison: which sampler to use, why, and what speaks against the others."""

import math
from pathlib import Path
from typing import Any

import numpy as np

from ppl.diagnostics.findings import RHAT_BAD, Verdict
from ppl.report import comparison as side_by_side
from ppl.report import plots
from ppl.report.blocks import (
    Block,
    Cell,
    Code,
    Prose,
    Section,
    Table,
    aligned,
    count,
    facts,
    figure,
    number,
    plural,
    seconds,
)
from ppl.report.page import render, write
from ppl.report.run import key_text
from ppl.report.subject import Subject
from ppl.report.svg import Chart

KHAT_BAD = 0.7
MAX_NAME = 20  # characters of a name beside a chart
MAX_OVERLAID = 6  # samplers whose densities one chart shows


def report(comparison: Any, path: str | Path) -> Path:
    """Write the page of a comparison; see `ppl.report` for what happens to the file."""
    subject = Compared(comparison)
    sections = [
        ranking(subject),
        efficiency(subject),
        accuracy(subject),
        reasons(subject),
        answers(subject),
        reproduction(subject),
    ]
    kept = [section for section in sections if section is not None]
    part = {"subject": subject, "facts": key_facts(subject), "sections": kept}
    text = render(comparison.about["Target"], [part], kind="Comparison of samplers")
    return write(Path(path), text)


class Compared:
    """A comparison as the page sees it."""

    name = prefix = ""
    checks = Table([], [], "", "")

    def __init__(self, comparison: Any):
        self.comparison = comparison
        self.by_seconds = "second" in comparison.per
        self.table = comparison.table

    @property
    def verdict(self) -> Verdict:
        """The recommendation, in the words of a verdict."""
        found = self.comparison.recommendation
        best = "bad" if found.sampler is None else "good"
        advice = [found.advice] if found.advice else []
        return Verdict(best, found.headline, [found.why], advice, None)

    @property
    def level(self) -> str:
        """Class of the verdict, which gives its color and sign."""
        return "bad" if self.comparison.recommendation.sampler is None else "good"

    def color(self, name: str) -> str:
        """Class of a sampler's color on all charts."""
        shown = [each.name for each in self.comparison.standings if each.runs]
        return f"c{shown.index(name) % plots.COLORS}"


def key_facts(subject: Compared) -> list[tuple[str, str]]:
    """The line of key facts under the verdict."""
    about = subject.comparison.about
    return [
        (name, about[name])
        for name in ("Samplers", "Budget of a run", "Seeds", "Reference", "Tolerance")
    ]


# Tables ---------------------------------------------------------------------------------------


def ranking(subject: Compared) -> Section:
    """One row a sampler: whether it is right, how fast it is, its diagnostics, its cost."""
    found = subject.comparison.recommendation
    columns: list[tuple[str, list[Cell]]] = [
        ("", [Cell(str(name)) for name in subject.table.index]),
        ("answers", [_verdict(row) for _, row in subject.table.iterrows()]),
    ]

    def add(title: str, show: Any) -> None:
        cells = [show(row) for _, row in subject.table.iterrows()]
        if any(cell.text not in ("–", "") for cell in cells):
            columns.append((title, cells))

    per = "second" if subject.by_seconds else "1000"
    other = "1000" if subject.by_seconds else "second"
    words = {"second": "per second", "1000": "per 1,000"}
    add(f"least ESS {words[per]}", lambda r: Cell(number(r[f"ess_min_per_{per}"])))
    add(f"median ESS {words[per]}", lambda r: Cell(number(r[f"ess_median_per_{per}"])))
    add(f"least ESS {words[other]}", lambda r: Cell(number(r[f"ess_min_per_{other}"])))
    add("R-hat", lambda r: Cell(number(r["r_hat"], 4), "bad" if r["r_hat"] >= RHAT_BAD else ""))
    add("k-hat", lambda r: Cell(number(r["khat"], 2), "bad" if r["khat"] >= KHAT_BAD else ""))
    add("divergences", lambda r: Cell(count(r["divergences"])))
    limit = subject.comparison.tolerance
    add("bias, sd", lambda r: Cell(number(r["bias"], 2), "bad" if r["bias"] > 2 * limit else ""))
    add("coverage of 95%", lambda r: Cell(_percent(r["coverage"])))
    add("log Z", _evidence)
    add("energy distance", lambda r: Cell(number(r["energy_distance"], 2)))
    add("sliced W₂", lambda r: Cell(number(r["sliced_wasserstein"], 2)))
    add("Stein p", lambda r: Cell(number(r["stein_p"], 2)))
    add("draws", lambda r: Cell(count(r["draws"])))
    add("evaluations", lambda r: Cell(count(r["evaluations"])))
    add("time", lambda r: Cell(_seconds(r["seconds"])))
    add("compiling", lambda r: Cell(_seconds(r["compile_seconds"])))
    failures = subject.table["failures"].any()
    if failures:
        add("failures", lambda r: Cell(count(r["failures"]), "bad" if r["failures"] else ""))
    caption = (
        "Means over the seeds. ESS: bulk effective sample size of chains, Kish's of weights; least "
        "and median over the scalars, for all that was spent: warm-up and training included, "
        "compilation not. An evaluation is one of the log density, of its gradient, or of both."
    )
    if subject.comparison.truth is not None:
        caption += (
            " Bias: largest error of a mean or of a tail probability, in its own standard "
            "deviations; coverage: share of the single runs' 95% intervals that hold the truth."
        )
        floor = subject.comparison.truth.distances()
        if math.isfinite(floor[0]):
            caption += (
                " Distances are those of 1,000 draws to as many of the reference; two halves of "
                f"the reference are {number(floor[0], 2)} and {number(floor[1], 2)} apart."
            )
    if subject.table["stein_p"].notna().any():
        caption += (
            " Stein p: whether draws and the target's score fit together; a mode that is missed "
            "leaves no trace in it."
        )
    rows = [list(cells) for cells in zip(*(cells for _, cells in columns), strict=True)]
    table = Table([title for title, _ in columns], rows, caption, "The samplers, best first")
    title = "Ranking" if found.sampler else "The samplers"
    return Section("ranking", title, [table])


def _verdict(row: Any) -> Cell:
    if row["right"]:
        return Cell("right", "good")
    return Cell("failed" if math.isnan(row["evaluations"]) else "not right", "bad")


def _evidence(row: Any) -> Cell:
    value, error = row["log_evidence"], row["log_evidence_error"]
    if math.isnan(value):
        return Cell("–")
    return Cell(aligned(value, error) + (f" ± {number(error, 2)}" if error == error else ""))


def _percent(value: float) -> str:
    return f"{value:.0%}" if math.isfinite(value) else "–"


def _seconds(value: float) -> str:
    return seconds(value) if math.isfinite(value) else "–"


def reasons(subject: Compared) -> Section | None:
    """What speaks against each of the others, and remarks of the runs."""
    against = subject.comparison.recommendation.against
    notes = {e.name: "; ".join(e.notes) for e in subject.comparison.standings if e.notes}
    if not against and not notes:
        return None
    blocks: list[Block] = []
    if against:
        blocks.append(facts(list(against.items()), "", "What speaks against the others"))
    if notes:
        blocks.append(facts(list(notes.items()), "", "Remarks of the runs"))
    return Section("against", "What speaks against the others", blocks)


# Charts ---------------------------------------------------------------------------------------


def efficiency(subject: Compared) -> Section | None:
    """Effective draws for the money, a dot a seed."""
    comparison = subject.comparison
    values = {e.name: comparison.efficiency(e.name) for e in comparison.standings if e.runs}
    unit = "second" if subject.by_seconds else "1,000 evaluations"
    panel = _dots(subject, "Speed", values, f"least ESS per {unit}")
    caption = "A dot a seed: least effective sample size over the scalars, for all that was spent."
    if comparison.against:
        caption += (
            " Names in brackets are not right, and the speed of a wrong answer is worth nothing."
        )
    blocks = figure([panel], caption)
    return Section("speed", "How fast", blocks) if blocks else None


def accuracy(subject: Compared) -> Section | None:
    """Errors of all answers, a dot an answer."""
    truth = subject.comparison.truth
    if truth is None:
        return None
    values = {}
    for each in subject.comparison.standings:
        if each.runs:
            bias = np.abs(each.answers(truth.yardstick).bias).ravel()
            values[each.name] = np.maximum(bias[np.isfinite(bias)], 1e-4)
    limit = subject.comparison.tolerance
    panel = _dots(subject, "Errors", values, "error, in sd", guide=(limit, "tolerance"))
    caption = (
        "A dot a mean or a tail probability, of all seeds together, in its own standard "
        "deviations. To the left of the tolerance is good enough; to the right of it may be "
        "chance, where there are few effective draws."
    )
    blocks = figure([panel], caption)
    return Section("accuracy", "How right", blocks) if blocks else None


def _dots(
    subject: Compared,
    title: str,
    values: dict[str, np.ndarray],
    x_label: str,
    guide: tuple[float, str] | None = None,
) -> plots.Panel | None:
    finite = {name: x[np.isfinite(x) & (x > 0)] for name, x in values.items()}
    finite = {name: x for name, x in finite.items() if len(x)}
    if not finite:
        return None
    everything = np.concatenate([*finite.values(), [guide[0]] if guide else []])
    against = subject.comparison.against
    places = {name: len(finite) - 1 - i for i, name in enumerate(finite)}
    # The word beside the guide needs room to its right.
    upper = max(everything.max() * 1.5, 10 * guide[0] if guide else 0.0)
    chart = Chart(
        (everything.min() / 1.5, upper),
        (-0.6, len(finite) - 0.4),
        label=f"{title}: " + ", ".join(f"{name} {np.median(x):.3g}" for name, x in finite.items()),
        x_label=x_label,
        y_ticks=[(y, _short(name, bracketed=name in against)) for name, y in places.items()],
        x_log=True,
        height=46 + 26 * len(finite),
    )
    if guide is not None:
        chart.guide(x=guide[0], text=guide[1])
    for name, x in finite.items():
        chart.dots(x, np.full(len(x), places[name]), f"{subject.color(name)} big")
    return plots.Panel(title, chart.svg())


def _short(name: str, *, bracketed: bool) -> str:
    text = name if len(name) <= MAX_NAME else f"{name[: MAX_NAME - 1]}…"
    return f"({text})" if bracketed else text


def answers(subject: Compared) -> Section | None:
    """Means and densities by sampler, from the first run of each."""
    shown = [each for each in subject.comparison.standings if each.runs][:MAX_OVERLAID]
    return side_by_side.agreement([Subject(each.runs[0], each.name) for each in shown])


# The run --------------------------------------------------------------------------------------


def reproduction(subject: Compared) -> Section:
    """How the comparison was run."""
    comparison = subject.comparison
    rows = list(comparison.about.items())
    rows += [(each.name, each.described) for each in comparison.standings]
    total = sum(len(each.trials) for each in comparison.standings)
    words = (
        f"{plural(total, 'run')}, after one short pilot of each Markov kernel that compiled it and "
        "measured what a step costs. Every sampler had the same keys. Draws of Markov kernels are "
        "cut where the budget ends."
    )
    blocks: list[Block] = [Prose([words]), facts(rows, "", "How to repeat the comparison")]
    blocks += [Prose(["The key:"]), Code(key_text(comparison.rng_key))]
    return Section("reproduce", "How to repeat it", blocks)
