"""Sections about the model: prior and posterior, observed and replicated data."""

import numpy as np

from ppl.report import estimates, plots
from ppl.report.blocks import Cell, Section, Table, figure, number
from ppl.report.subject import Subject


def prior_posterior(subject: Subject) -> Section | None:
    """Prior and posterior of each parameter."""
    if subject.is_empty:
        return None
    prior = subject.group("prior")
    if not prior:
        return None
    panels = []
    for row in subject.panel_rows:
        name, index = subject.places[row]
        draws = prior.get(name.replace("/", "."))
        if (
            draws is None
            or draws.shape[2:] != subject.draws[name].shape[2:]
            or np.iscomplexobj(draws)
        ):
            continue
        before = draws.reshape(*draws.shape[:2], -1)[..., index].astype(np.float64)
        panels.append(
            _prior_panel(subject.labels[row], before, subject.scalar(row), subject.weights)
        )
    caption = (
        "How much the data have moved and narrowed each parameter. Look for a posterior that is "
        "its prior again (the data say nothing about it), and for one at the edge or "
        "outside of its prior (they contradict each other)."
    )
    legend = [("quiet", "prior"), ("c0", "posterior")]
    blocks = figure(panels, caption, legend=legend)
    return Section("prior", "Prior and posterior", blocks) if blocks else None


def _prior_panel(
    label: str, before: np.ndarray, after: np.ndarray, weights: np.ndarray | None
) -> plots.Panel | None:
    finite = np.isfinite(after) if weights is None else np.isfinite(after) & (weights > 0)
    chosen, mass = after[finite], None if weights is None else weights[finite]
    before = before[np.isfinite(before)]
    if len(chosen) < 2 or len(before) < 2 or np.ptp(chosen) == 0:
        return None
    low, high = estimates.shown_range(chosen, mass)
    room = 2.0 * (high - low)
    prior_low, prior_high = estimates.shown_range(before)
    bounds = (max(min(low, prior_low), low - room), min(max(high, prior_high), high + room))
    middle = np.average(chosen, weights=mass)
    sd = np.sqrt(np.average((chosen - middle) ** 2, weights=mass))
    # Heavy-tailed priors have no standard deviation: compare by quantiles that always exist.
    q16, q84 = np.quantile(before, (0.16, 0.84))
    ratio = 2 * sd / (q84 - q16) if q84 > q16 else np.nan
    return plots.densities(
        label,
        [(before, None, "quiet"), (chosen, mass, "c0")],
        label=f"Prior and posterior of {label}",
        bounds=bounds,
        note=f"width {ratio:.0%} of the prior's" if np.isfinite(ratio) and ratio < 10 else "",
    )


def predictive(subject: Subject) -> Section | None:
    """Observed data beside data that the fitted model generates."""
    if subject.is_empty:
        return None
    observed, replicated = subject.group("observed_data"), subject.group("posterior_predictive")
    panels, rows = [], []
    for name in [name for name in observed if name in replicated]:
        seen = observed[name].astype(np.float64)
        data = replicated[name].astype(np.float64)
        if data.shape[2:] != seen.shape:
            continue
        data = data.reshape(-1, seen.size)
        data = data[estimates.thin(len(data), 1000)]
        seen = seen.ravel()
        if not len(data) or not seen.size:
            continue
        draw = plots.predictive_intervals if seen.size <= 40 else plots.predictive_density
        panels.append(draw(name, seen, data))
        rows += _statistics(name, seen, data)
    blocks = figure(
        panels,
        "Data that the fitted model generates: bands and bars are the middle 50% and 90% of them, "
        "the observed data are in orange. Look for data outside the bands where the model should "
        "describe them: in the middle, in the tails, at zero.",
        legend=[("c1", "observed"), ("quiet", "replicated")],
    )
    if rows:
        head = ["", "observed", "replicated 5%", "50%", "95%", "p"]
        caption = (
            "p is the share of replicated data sets whose statistic is at least the observed one; "
            "▲ marks those below 2.5% or above 97.5%: a feature the model does not reproduce."
        )
        blocks.append(Table(head, rows, caption, "Statistics of observed and replicated data"))
    return Section("predictive", "Posterior predictive checks", blocks) if blocks else None


def _statistics(name: str, seen: np.ndarray, data: np.ndarray) -> list[list[Cell]]:
    rows = []
    with np.errstate(all="ignore"):
        for title, statistic in (
            ("mean", np.mean),
            ("sd", np.std),
            ("least", np.min),
            ("greatest", np.max),
        ):
            value = float(statistic(seen))
            values = np.asarray(statistic(data, axis=1))
            if not (np.isfinite(value) and np.isfinite(values).all()):
                continue
            # A statistic that the model fixes (the greatest of zeros and ones) tells nothing.
            p = float((values > value).mean() + 0.5 * (values == value).mean())
            flag = "warn" if not 0.025 <= p <= 0.975 else ""
            q5, q50, q95 = np.quantile(values, (0.05, 0.5, 0.95))
            cells = [number(value), number(q5), number(q50), number(q95)]
            rows.append([Cell(f"{name}: {title}"), *map(Cell, cells), Cell(f"{p:.1%}", flag)])
    return rows
