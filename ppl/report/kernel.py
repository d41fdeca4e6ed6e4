"""Sections about what the sampler reported: energies, divergences, acceptance, histories."""

from collections.abc import Callable
from itertools import combinations

import numpy as np

from ppl.diagnostics import bfmi
from ppl.diagnostics.divergences import Shift, concentration
from ppl.report import estimates, plots
from ppl.report.blocks import Cell, Prose, Section, Table, count, figure, number, plural
from ppl.report.subject import MAX_RANKED, Subject


def energy(subject: Subject) -> Section | None:
    """Marginal energy beside energy transitions, and BFMI."""
    energies = subject.draws.stats.get("energy")
    if energies is None or energies.ndim != 2 or energies.shape[1] < 4:
        return None
    energies = energies.astype(np.float64)
    if not np.isfinite(energies).all():
        return None
    steps = np.diff(energies, axis=1)
    centered = energies - energies.mean()
    fractions = bfmi.bfmi(energies)
    bounds = estimates.shown_range(np.concatenate([centered.ravel(), steps.ravel()]))
    panel = plots.densities(
        "Energy",
        [(centered, None, "quiet"), (steps, None, "c0")],
        label="Densities of the energy and of its changes from draw to draw",
        x_label="energy minus its mean (nats)",
        bounds=bounds,
        note=f"least BFMI {np.nanmin(fractions):.2f}" if np.isfinite(fractions).any() else "",
    )
    caption = (
        "Look for two curves of about the same width. When the changes (blue) are much narrower "
        "than the energy (grey), the sampler crosses energy levels slowly and explores tails "
        f"badly; BFMI, the ratio of their variances, is then below {bfmi.THRESHOLD}."
    )
    legend = [("quiet", "energy"), ("c0", "change from draw to draw")]
    blocks = figure([panel], caption, legend=legend)
    return Section("energy", "Energy", blocks) if blocks else None


def divergences(subject: Subject) -> Section | None:
    """How many divergences there are, and in which parameters they concentrate."""
    diverging = subject.diverging
    if diverging is None or subject.is_empty or not subject.are_chains:
        return None
    total = int(diverging.sum())
    if total == 0:
        return Section("divergences", "Divergences", [Prose(["No transition diverged."])])
    text = (
        f"{plural(total, 'divergent transition')} in {diverging.size:,} draws "
        f"({total / diverging.size:.2%})."
    )
    shifts = _shifts(subject, diverging)[:3]
    if not shifts:
        text += " That is too few to say where they concentrate."
        return Section("divergences", "Divergences", [Prose([text])])
    text += f" Most conspicuous: {'; '.join(shift.words for shift in shifts)}."
    rows = [subject.labels.index(shift.label) for shift in shifts]
    panels = [
        plots.divergence_ranks(label, values, diverging) for label, values in subject.chosen(rows)
    ]
    caption = (
        "Where the divergent draws lie among all draws of a parameter, ordered from the lowest to "
        "the highest; spread evenly, they would follow the dashed line. A heap at one end names "
        "the region the sampler cannot enter: often the neck of a funnel, where a scale goes to "
        "zero. Write such a parameter non-centered, or give its scale a prior away from zero."
    )
    return Section("divergences", "Divergences", [Prose([text]), *figure(panels, caption)])


def _shifts(subject: Subject, diverging: np.ndarray) -> list[Shift]:
    rows = subject.ranking[:MAX_RANKED].tolist()
    draws = np.stack([subject.scalar(row) for row in rows], -1)
    return concentration([subject.labels[row] for row in rows], draws, diverging)


def pairs(subject: Subject) -> Section | None:
    """Scatter plots of the worst parameters of chains, or of the most correlated ones."""
    if subject.is_empty or len(subject.labels) < 2:
        return None
    diverging = subject.diverging if subject.are_chains else None
    chosen = _worst_pairs(subject) if subject.are_chains else _correlated_pairs(subject)
    panels = [
        plots.pair(
            *(subject.labels[a], subject.scalar(a), subject.labels[b], subject.scalar(b)),
            weights=subject.weights,
            diverging=diverging,
        )
        for a, b in chosen
    ]
    which, title = "most correlated parameters", "Parameters in pairs"
    if subject.are_chains:
        which, title = "worst parameters", "The worst parameters in pairs"
    caption = (
        f"The {which} against each other (at most 700 draws a panel). Look for bananas, funnels "
        "and narrow ridges: shapes in which one step size does not fit everywhere."
    )
    legend = []
    if diverging is not None and diverging.any():
        caption += " Red draws are where a trajectory diverged: they gather at what hinders it."
        legend = [("c0", "draw"), ("bad", "divergent")]
    blocks = figure(panels, caption, legend=legend)
    return Section("pairs", title, blocks) if blocks else None


def _worst_pairs(subject: Subject) -> list[tuple[int, int]]:
    rows = subject.worst(4)
    if subject.diverging is not None and subject.diverging.any():
        shifts = _shifts(subject, subject.diverging)[:2]
        special = [subject.labels.index(shift.label) for shift in shifts]
        rows = list(dict.fromkeys([*special, *rows]))[:4]
    return list(combinations(rows, 2))


def _correlated_pairs(subject: Subject, keep: int = 6) -> list[tuple[int, int]]:
    rows = [row for row in subject.worst(50) if np.isfinite(subject.scalar(row)).all()]
    if len(rows) < 2:
        return []
    columns = np.stack([subject.scalar(row).ravel() for row in rows], -1)
    weights = None if subject.weights is None else subject.weights.ravel()
    if len(columns) < 3 or (weights is not None and np.count_nonzero(weights) < 3):
        return []
    strength = np.abs(estimates.correlations(columns, weights))
    ordered = sorted(combinations(range(len(rows)), 2), key=lambda ij: -strength[ij])
    return [(rows[i], rows[j]) for i, j in ordered[:keep]]


def sampler(subject: Subject) -> Section | None:
    """Acceptance, step size and trajectory length, by chain."""
    stats = {k: v for k, v in subject.draws.stats.items() if v.ndim == 2 and v.size}
    columns: list[tuple[str, Callable[[int], str]]] = []

    def add(title: str, name: str, show: Callable[[np.ndarray], str]) -> None:
        if name in stats:
            columns.append((title, lambda chain: show(stats[name][chain].astype(np.float64))))

    add("acceptance", "acceptance_rate", lambda x: f"{_mean(x):.3f}")
    add("step size", "step_size", lambda x: number(float(x[-1])))
    add("steps a draw", "n_steps", lambda x: number(_mean(x)))
    add("tree depth", "tree_depth", lambda x: number(_mean(x), 2))
    add("at the depth limit", "reached_max_treedepth", lambda x: f"{_mean(x):.1%}")
    add("divergent", "diverging", lambda x: count(x.sum()))
    add("BFMI", "energy", lambda x: number(float(bfmi.bfmi(x[None])[0]), 2))
    if not columns:
        return None
    shown = range(min(subject.draws.num_chains, 16))
    rows = [
        [Cell(f"{subject.unit} {chain}"), *(Cell(show(chain)) for _, show in columns)]
        for chain in shown
    ]
    note = "" if len(shown) == subject.draws.num_chains else " The first 16 are listed."
    table = Table(
        ["", *(title for title, _ in columns)],
        rows,
        "Look for a chain that is unlike the others: a small step size or a low acceptance marks "
        "one that is caught in a narrow place." + note,
        f"The sampler, by {subject.unit}",
    )
    panels = []
    if "acceptance_rate" in stats:
        panels.append(
            plots.histogram("Acceptance rate", stats["acceptance_rate"], bounds=(0.0, 1.0))
        )
    for name, title in (("tree_depth", "Tree depth"), ("n_steps", "Steps a draw")):
        if name in stats and len(panels) < 2:
            panels.append(plots.histogram(title, stats[name]))
    caption = (
        "Many acceptance rates near zero mean that the step size is too large for part of the "
        "space; a heap at the deepest tree, that it is too small for the rest."
    )
    return Section("sampler", "Step size and acceptance", [table, *figure(panels, caption)])


def history(subject: Subject) -> Section | None:
    """What a particle or learned sampler recorded step by step."""
    order = ("loss", "ess", "inverse_temperature", "acceptance_rate", "log_evidence")
    known = {k: v for k, v in subject.draws.history.items() if v.ndim == 2}
    names = [n for n in order if n in known] + [n for n in known if n not in order]
    panels = [
        plots.history(name.replace("_", " "), known[name].astype(np.float64)) for name in names[:8]
    ]
    caption = (
        "Look for a loss that has stopped falling before training ends, an effective sample size "
        "(ess) without collapses, and inverse temperatures that reach 1 without a leap."
    )
    legend = subject.legend() if subject.draws.num_chains > 1 else []
    blocks = figure(panels, caption, legend=legend)
    return Section("history", "Step by step", blocks) if blocks else None


def _mean(values: np.ndarray) -> float:
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if len(finite) else float("nan")
