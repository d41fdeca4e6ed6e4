"""Several sets of draws side by side: what each cost and gave, and whether they agree."""

from collections.abc import Sequence
from itertools import combinations

import numpy as np

from ppl.diagnostics.findings import RHAT_GOOD
from ppl.report import plots
from ppl.report.blocks import (
    Cell,
    Prose,
    Section,
    Table,
    aligned,
    count,
    figure,
    number,
    plural,
    seconds,
)
from ppl.report.subject import Subject

MAX_ROWS = 12
VERDICTS = {
    "good": "good",
    "caution": "with care",
    "unknown": "cannot be judged",
    "bad": "do not use",
}
DISAGREEMENT = 4.0  # Standard errors between two means that chance seldom leaves among dozens.


def overview(subjects: Sequence[Subject]) -> Section:
    """One row a sampler: its verdict, its worst diagnostics, its cost."""
    rows = [_row(subject) for subject in subjects]
    head = [
        "",
        "verdict",
        "draws",
        "R-hat",
        "least ESS",
        "k-hat",
        "evaluations",
        "time",
        "compilation",
        "ESS per 1,000",
        "ESS per second",
        "log evidence",
    ]
    empty = {i for i in range(len(head)) if i and all(row[i].text in ("–", "") for row in rows)}
    kept = [i for i in range(len(head)) if i not in empty]
    caption = (
        "R-hat, ESS and k-hat are those of the worst parameter. Evaluations are those of the log "
        "density or of its gradient, whichever were more. ESS per 1,000 evaluations and per second "
        "count warm-up and training; time and ESS per second leave out compilation, which is paid "
        "once for all data of a shape."
    )
    table = Table(
        [head[i] for i in kept],
        [[row[i] for i in kept] for row in rows],
        caption,
        "The samplers side by side",
    )
    return Section("comparison", "Side by side", [table])


def _row(subject: Subject) -> list[Cell]:
    draws, run = subject.draws, subject.draws.run
    r_hat = _extreme(subject, np.nanmax, "r_hat")
    ess = _extreme(subject, np.nanmin, "ess_bulk", "ess_tail", "ess")
    k_hat = _extreme(subject, np.nanmax, "khat")
    spent = max(draws.num_evaluations)
    compiling = run.seconds.get("compile", 0.0)
    time = max(run.wall_seconds - compiling, 0.0)
    return [
        Cell(subject.name, link=f"#{subject.prefix}verdict"),
        Cell(VERDICTS[subject.verdict.status], subject.level),
        Cell(f"{draws.num_chains:,} × {draws.num_samples:,}"),
        Cell(f"{r_hat:.3f}" if np.isfinite(r_hat) else "–", "bad" if r_hat >= RHAT_GOOD else ""),
        Cell(count(ess), "warn" if ess < subject.ess_wanted else ""),
        Cell(number(k_hat, 2), "bad" if k_hat >= subject.khat_limit else ""),
        Cell(count(spent)),
        Cell(seconds(time)),
        Cell(seconds(compiling) if compiling else "–"),
        Cell(number(1000 * ess / spent) if spent else "–"),
        Cell(number(ess / time) if time else "–"),
        Cell(subject.evidence or "–"),
    ]


def _extreme(subject: Subject, choose: object, *columns: str) -> float:
    if subject.is_empty:
        return float("nan")
    values = np.concatenate([subject.column(name) for name in columns])
    values = values[np.isfinite(values)]
    return float(choose(values)) if len(values) else float("nan")  # pyright: ignore


def agreement(subjects: Sequence[Subject]) -> Section | None:
    """Means and densities of the parameters about which the samplers differ most."""
    subjects = [subject for subject in subjects if not subject.is_empty]
    if len(subjects) < 2:
        return None
    places = [{label: row for row, label in enumerate(s.labels)} for s in subjects]
    common = [label for label in subjects[0].labels if all(label in p for p in places)]
    if not common:
        return None
    at = np.array([[p[label] for label in common] for p in places])
    means = np.stack([s.column("mean")[rows] for s, rows in zip(subjects, at, strict=True)])
    errors = np.stack([s.column("mcse_mean")[rows] for s, rows in zip(subjects, at, strict=True)])
    z = _largest_z(means, errors)
    order = np.argsort(-np.nan_to_num(z, nan=-1.0), kind="stable")[:MAX_ROWS]
    rows = [
        [
            Cell(common[i]),
            *(Cell(_mean(m, e)) for m, e in zip(means[:, i], errors[:, i], strict=True)),
            Cell(number(float(z[i]), 2), "bad" if z[i] > DISAGREEMENT else ""),
        ]
        for i in order
    ]
    caption = (
        "Means with their Monte Carlo errors, and the largest difference between two samplers in "
        f"units of its error. ▲ marks differences above {DISAGREEMENT:.0f}: chance does not "
        "explain them, at least one sampler is wrong (or its error is)."
    )
    if len(common) > MAX_ROWS:
        caption += f" The {MAX_ROWS} of {len(common):,} scalars that differ most."
    apart = [common[i] for i in np.argsort(-np.nan_to_num(z)) if z[i] > DISAGREEMENT]
    words = (
        f"No: {len(apart)} of {plural(len(common), 'mean')} differ by more than {DISAGREEMENT:.0f} "
        f"standard errors, most of all {apart[0]}."
        if apart
        else f"No mean differs by more than {DISAGREEMENT:.0f} standard errors."
    )
    head = ["", *(subject.name for subject in subjects), "difference"]
    table = Table(head, rows, caption, "Means by sampler")
    panels = [_overlay(common[i], subjects, at[:, i]) for i in order]
    blocks = figure(
        panels,
        "Densities by sampler. Look for a mode that only one of them has, and for tails that "
        "differ.",
        legend=[(f"c{i % plots.COLORS}", s.name) for i, s in enumerate(subjects)],
        first=6,
    )
    return Section("agreement", "Do the samplers agree?", [Prose([words]), table, *blocks])


def _largest_z(means: np.ndarray, errors: np.ndarray) -> np.ndarray:
    largest = np.full(means.shape[1], np.nan)
    with np.errstate(invalid="ignore", divide="ignore"):
        for a, b in combinations(range(len(means)), 2):
            z = np.abs(means[a] - means[b]) / np.hypot(errors[a], errors[b])
            largest = np.fmax(largest, z)
    return largest


def _mean(mean: float, error: float) -> str:
    text = aligned(mean, error)
    return f"{text} ± {number(error, 2)}" if np.isfinite(error) else text


def _overlay(label: str, subjects: Sequence[Subject], rows: np.ndarray) -> plots.Panel | None:
    groups = [
        (subject.scalar(int(row)), subject.weights, f"c{i % plots.COLORS}")
        for i, (subject, row) in enumerate(zip(subjects, rows, strict=True))
    ]
    return plots.densities(label, groups, label=f"Density of {label}, by sampler")
