"""Sections about the values: the summary, the weights, the densities."""

import base64

import numpy as np

from ppl import weights as log_weights
from ppl.diagnostics.findings import RHAT_GOOD
from ppl.report import plots
from ppl.report.blocks import (
    Block,
    Cell,
    Download,
    Prose,
    Section,
    Table,
    aligned,
    count,
    facts,
    figure,
    number,
    plural,
)
from ppl.report.plots import MAX_CHAINS
from ppl.report.subject import MAX_SHOWN, Subject

HEADINGS = {
    "mean": "mean",
    "sd": "sd",
    "median": "50%",
    "mcse_mean": "MCSE",
    "ess_bulk": "ESS bulk",
    "ess_tail": "ESS tail",
    "ess": "ESS",
    "r_hat": "R-hat",
    "khat": "k-hat",
}


def summary(subject: Subject) -> Section | None:
    """Moments, quantiles and diagnostics of each scalar; the whole table as a file."""
    if subject.is_empty:
        return None
    frame = subject.summary
    rows = [_row(subject, row, list(frame.columns)) for row in subject.shown]
    caption = (
        "MCSE is the Monte Carlo error of the mean: digits beyond it are noise, and are not shown. "
    )
    if "r_hat" in frame:
        caption += (
            f"▲ marks an R-hat of {RHAT_GOOD} or more (the chains do not agree) and an effective "
            f"sample size (ESS) below {subject.ess_wanted:.0f} (too few independent draws: bulk, "
            "for the mean; tail, for the 5% and 95% quantiles)."
        )
    elif "ess" in frame:
        caption += (
            f"▲ marks an effective sample size (ESS) below {subject.ess_wanted:.0f} and a k-hat "
            f"of {subject.khat_limit:.2f} or more: a few draws carry the estimates."
        )
    blocks: list[Block] = []
    if len(frame) > MAX_SHOWN:
        blocks.append(
            Prose(
                [
                    f"The {len(rows)} of {plural(len(frame), 'scalar')} with the worst R-hat and "
                    "effective sample size, worst first. The file below has all of them."
                ]
            )
        )
    head = ["", "density", *(_heading(str(name)) for name in frame.columns)]
    blocks.append(Table(head, rows, caption, "Summary of the draws"))
    blocks.append(_download(subject))
    return Section("summary", "Summary", blocks)


def _heading(column: str) -> str:
    if column.startswith("q") and column[1:].replace(".", "").isdigit():
        return f"{column[1:]}%"
    return HEADINGS.get(column, column.replace("_", " "))


def _row(subject: Subject, row: int, columns: list[str]) -> list[Cell]:
    values = {name: float(subject.column(name)[row]) for name in columns}
    resolution = values.get("mcse_mean", float("nan"))
    spark = plots.sparkline(subject.scalar(row), subject.weights)
    return [
        Cell(subject.labels[row]),
        Cell(spark),
        *(_value(subject, name, values[name], resolution) for name in columns),
    ]


def _value(subject: Subject, name: str, value: float, resolution: float) -> Cell:
    if name == "r_hat":
        return Cell(
            f"{value:.3f}" if np.isfinite(value) else "–", "bad" if value >= RHAT_GOOD else ""
        )
    if name.startswith("ess"):
        return Cell(count(value), "warn" if value < subject.ess_wanted else "")
    if name == "khat":
        return Cell(number(value, 2), "bad" if value >= subject.khat_limit else "")
    if name.startswith("mcse"):
        return Cell(number(value, 2))
    return Cell(aligned(value, resolution), "" if np.isfinite(value) else "bad")


def _download(subject: Subject) -> Download:
    text = subject.summary.to_csv()
    encoded = base64.b64encode(text.encode()).decode()
    file = f"{subject.prefix}summary.csv"
    return Download(
        f"data:text/csv;base64,{encoded}",
        file,
        f"the whole table as CSV ({plural(len(subject.summary), 'row')}, full precision)",
    )


def weights(subject: Subject) -> Section | None:
    """Distribution of the weights, how few carry them, and the evidence."""
    given = subject.draws.log_weights
    if given is None or subject.weights is None or given.size == 0:
        return None
    flat = subject.weights.ravel()
    positive = flat[flat > 0]
    if len(positive) == 0:
        return Section("weights", "Weights", [Prose(["All weights are zero."])])
    log10 = np.log10(positive * flat.size)
    panels = [
        plots.histogram(
            "Weights",
            np.clip(log10, np.quantile(log10, 0.005), None),
            x_label="weight, average = 1 (log scale: −1 is a tenth)",
            goal=(0.0, "average"),
        ),
        plots.weight_share(flat),
    ]
    caption = (
        "Draws count by their weights. Look for a histogram that is narrow and ends close behind "
        "the average, and a curve on the right near the grey line: where a few draws "
        "carry most of the weight, every estimate rests on them, whatever their number."
    )
    zero = flat.size - len(positive)
    pooled = subject.draws.pooled_log_weights().ravel()
    ess, illegal = float(log_weights.ess(pooled)), int(log_weights.count_illegal(given))
    rows = [
        ("Draws", count(flat.size)),
        ("Effective sample size (Kish)", f"{count(ess)} ({ess / flat.size:.1%} of the draws)"),
        ("Largest weight", f"{flat.max():.2%} of the total"),
        ("Draws of weight zero", count(zero)),
    ]
    if illegal:
        rows.append(("Weights that are NaN or infinite", count(illegal)))
    if flat.size >= log_weights.MIN_DRAWS_KHAT:
        rows.insert(2, ("Pareto k-hat", number(log_weights.pareto_khat(pooled), 2)))
    if subject.evidence:
        rows.append(("Log evidence", subject.evidence))
    table = facts(
        rows,
        f"With a k-hat below {subject.khat_limit:.2f} the weights can be used. Above 1, they have "
        "no finite mean, and more draws would not help; a better proposal would.",
        "Weights in numbers",
    )
    return Section("weights", "Weights", [table, *figure(panels, caption)])


def densities(subject: Subject) -> Section | None:
    """Densities by run, for draws that are no chains."""
    if subject.is_empty or subject.are_chains:
        return None
    weights, runs = subject.weights, min(subject.draws.num_chains, MAX_CHAINS)
    panels = [
        plots.densities(
            label,
            [
                (values[run], None if weights is None else weights[run], f"c{run}")
                for run in range(runs)
            ],
            label=f"Density of {label}, by run",
        )
        for label, values in subject.chosen(subject.panel_rows)
    ]
    caption = "The draws of each parameter" + (", weighted. " if weights is not None else ". ")
    caption += (
        "Look for runs that differ: their differences are the Monte Carlo error."
        if runs > 1
        else "There is one run: whether another would agree is not known."
    )
    legend = subject.legend() if runs > 1 else []
    blocks = figure(panels, caption + subject.order, legend=legend)
    return Section("densities", "Densities", blocks) if blocks else None
