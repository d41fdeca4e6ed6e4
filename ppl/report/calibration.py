"""The page of a calibration: the verdict, where the truths rank, and the fits they rest on."""

import base64
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ppl.diagnostics.calibration import rate_of, shown
from ppl.diagnostics.findings import Verdict
from ppl.diagnostics.uniformity import band, points
from ppl.report import plots
from ppl.report.blocks import (
    Block,
    Cell,
    Code,
    Download,
    Prose,
    Section,
    Table,
    count,
    facts,
    figure,
    number,
    plural,
)
from ppl.report.page import render, write
from ppl.report.run import key_text
from ppl.report.subject import LEVELS, checks_of
from ppl.report.svg import Chart

MAX_ROWS, MAX_PANELS, MAX_FAILED = 40, 60, 12


def report(calibration: Any, path: str | Path) -> Path:
    """Write the page of a calibration; see `ppl.report` for what happens to the file."""
    subject = Subject(calibration)
    sections = [ranks(subject), quantities(subject), fits(subject), reproduction(subject)]
    part = {"subject": subject, "facts": key_facts(subject), "sections": sections}
    text = render(calibration.about["target"], [part], kind="Calibration report")
    return write(Path(path), text)


class Subject:
    """A calibration as the page sees it."""

    name = prefix = ""

    def __init__(self, calibration: Any):
        self.calibration = calibration
        self.about: dict[str, Any] = calibration.about

    @property
    def verdict(self) -> Verdict:
        """The judgement in words."""
        return self.calibration.judgement

    @property
    def level(self) -> str:
        """Class of the verdict, which gives its color and sign."""
        return LEVELS[self.verdict.status]

    @property
    def checks(self) -> Table:
        """What the verdict looked at."""
        return checks_of(self.verdict)

    @cached_property
    def table(self) -> Any:
        """The quantities, those that are off first."""
        return self.calibration.table.sort_values("p_value", kind="stable")

    @property
    def false_alarms(self) -> float:
        """Level of the whole calibration."""
        return self.about["false_alarms"]


def key_facts(subject: Subject) -> list[tuple[str, str]]:
    """The line of key facts under the verdict."""
    about, calibration = subject.about, subject.calibration
    return [
        ("Sampler", f"{about['sampler_name']}, {about['exactness']}"),
        ("Simulations", count(len(calibration.ranks))),
        ("Each fit", f"{plural(about['num_chains'], 'chain')} × {about['num_samples']:,}"),
        ("Test quantities", count(len(subject.table))),
        ("Chance of a false alarm", f"at most {subject.false_alarms:.2g}"),
        ("Truths from", "the posterior of the data" if about["around_data"] else "the prior"),
    ]


# Ranks ----------------------------------------------------------------------------------------


def ranks(subject: Subject) -> Section:
    """ECDF differences of the ranks with their bands."""
    panels = [rank_panel(subject, label) for label in subject.table.index[:MAX_PANELS]]
    caption = (
        "In each simulation the truth has a rank among the draws of the fit. The line is the share "
        "of truths at or below each rank, minus what it should be; it stays in the dark band 19 "
        "times out of 20, and in the light one except for the chance of a false alarm, all "
        "quantities together. A line above zero at the left and below at the right (S): truths "
        "crowd at both ends, the draws are too narrow; the reverse: too wide. A line above zero "
        "everywhere: truths rank low, the draws are too high."
    )
    blocks: list[Block] = figure(panels, caption, first=12)
    return Section("ranks", "Where the truths rank", blocks)


def rank_panel(subject: Subject, label: str) -> plots.Panel | None:
    """One quantity: ECDF of its ranks minus the uniform one."""
    u = subject.calibration.ranks[label].to_numpy()
    u = np.sort(u[np.isfinite(u)])
    if len(u) < 2:
        return None
    row, at = subject.table.loc[label], points(len(u))
    x = np.concatenate([[0.0], at, [1.0]])
    difference = _closed(np.searchsorted(u, at, side="right") / len(u) - at)
    rate = rate_of(subject.table, row["kind"], subject.false_alarms) / 2
    inner, outer = ([_closed(edge - at) for edge in band(len(u), level)] for level in (0.05, rate))
    top = 1.1 * max(np.abs(outer).max(), np.abs(difference).max())
    off = row["p_value"] <= subject.false_alarms
    words = row["verdict"] or "within what chance explains"
    chart = Chart(
        (0, 1),
        (-top, top),
        label=f"Rank ECDF difference of {label}: {words}",
        x_label="rank of the truth, as a fraction of the draws",
    )
    for lower, upper in (outer, inner):
        chart.band(x, lower, upper)
    chart.guide(y=0.0)
    chart.line(x, difference, "bad" if off else "c0")
    return plots.Panel(label, chart.svg(), f"off, {shown(row['p_value'])}" if off else "")


def _closed(inside: np.ndarray) -> np.ndarray:
    """Every distribution function is right at 0 and at 1."""
    return np.concatenate([[0.0], inside, [0.0]])


# Tables ---------------------------------------------------------------------------------------


def quantities(subject: Subject) -> Section:
    """One row a quantity; the ranks themselves as a file."""
    table, effective = subject.table, subject.calibration.effective.median()
    rows = []
    for label, row in table.iloc[:MAX_ROWS].iterrows():
        flag = "bad" if row["p_value"] <= subject.false_alarms else ""
        rows.append(
            [
                Cell(str(label)),
                Cell(number(row["p_value"], 2), flag),
                Cell(number(row["shift"], 2)),
                Cell(number(row["width"], 2)),
                Cell(count(effective[label])),
            ]
        )
    caption = (
        "p is adjusted for the number of quantities: ▲ marks those that chance does not explain. "
        "Shift: how far the draws lie above the truth, in posterior standard deviations. Width: "
        "theirs over the right one. Both are exact for Gaussians, and 0 and 1 where all is right, "
        f"give or take {1 / np.sqrt(len(subject.calibration.ranks)):.2f}. Draws: thinned draws "
        "behind a rank, in the median fit."
    )
    if len(table) > MAX_ROWS:
        caption += f" The {MAX_ROWS} of {len(table):,} quantities with the least p."
    head = ["", "p", "shift", "width", "draws"]
    encoded = base64.b64encode(subject.calibration.ranks.to_csv().encode()).decode()
    download = Download(
        f"data:text/csv;base64,{encoded}", "ranks.csv", "the ranks as CSV, a row a simulation"
    )
    blocks: list[Block] = [Table(head, rows, caption, "Test quantities"), download]
    return Section("quantities", "Test quantities", blocks)


def fits(subject: Subject) -> Section:
    """The fits: how well they went, and which failed."""
    frame = subject.calibration.fits
    bad = frame[frame["failed"] != ""]
    words = (
        f"{len(bad)} of {plural(len(frame), 'fit')} failed; their ranks count like the others."
        if len(bad)
        else f"None of {plural(len(frame), 'fit')} failed."
    )
    blocks: list[Block] = [Prose([words])]
    if len(bad):
        rows = [
            [
                Cell(f"simulation {index}"),
                Cell(row["failed"]),
                Cell(number(row["r_hat"])),
                Cell(count(row["ess"])),
                Cell(count(row["divergences"])),
            ]
            for index, row in bad.iloc[:MAX_FAILED].iterrows()
        ]
        head = ["", "why", "R-hat", "least ESS", "divergences"]
        caption = "Simulations are counted from 0."
        if len(bad) > MAX_FAILED:
            caption += f" The first {MAX_FAILED} of {len(bad)}."
        blocks.append(Table(head, rows, caption, "Fits that failed"))
    panels = []
    if frame["r_hat"].notna().any():
        finite = frame["r_hat"].replace(np.inf, np.nan).dropna().to_numpy()
        panels.append(plots.histogram("Largest R-hat of each fit", finite))
    panels.append(plots.histogram("Least effective draws of each fit", frame["ess"].to_numpy()))
    if frame["divergences"].any():
        panels.append(plots.histogram("Divergences of each fit", frame["divergences"].to_numpy()))
    blocks += figure(panels, "One value a simulation. Look for fits far from the others.")
    return Section("fits", "The fits", blocks)


def reproduction(subject: Subject) -> Section:
    """How the calibration was run."""
    about = subject.about
    rows = [
        ("Model", about["target"]),
        ("Position", about["template"]),
        ("Sampler", about["sampler"]),
        ("Simulations", count(len(subject.calibration.ranks))),
        ("Truths from", "the posterior of the data" if about["around_data"] else "the prior"),
        ("Generator", about["generator"] or "the model itself"),
        ("Each fit", f"{plural(about['num_chains'], 'chain')} of {about['num_samples']:,} draws"),
        ("Warm-up", plural(about["num_warmup"], "step") if about["num_warmup"] else "none"),
        ("Started", about["started"]),
        ("Ended", about["ended"]),
        *((name, version) for name, version in about["versions"].items()),
    ]
    table = facts(rows, "", "How to repeat the calibration")
    blocks = [table, Prose(["The key:"]), Code(key_text(about["rng_key"]))]
    return Section("reproduce", "How to repeat it", blocks)
