"""The sections of a report: each function takes the draws and gives its section, or None.

A section that has nothing to say is left out; none of them judges: that is
`ppl.diagnostics.convergence.judge`, whose limits are repeated here as guides for the eye.
"""

import base64
from collections.abc import Callable
from itertools import combinations

import numpy as np

from ppl import weights as log_weights
from ppl.diagnostics import bfmi, rhat_ess
from ppl.diagnostics.convergence import RHAT_GOOD
from ppl.diagnostics.divergences import Shift, concentration
from ppl.report import plots
from ppl.report.blocks import (
    Block,
    Cell,
    Code,
    Download,
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
from ppl.report.plots import MAX_CHAINS
from ppl.report.subject import MAX_RANKED, MAX_SHOWN, Subject
from ppl.report.svg import minus

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

# The table -------------------------------------------------------------------------------------


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


# Chains ----------------------------------------------------------------------------------------


def ranks(subject: Subject) -> Section | None:
    """Rank ECDFs of the chains."""
    if subject.is_empty or not subject.are_chains:
        return None
    caption = (
        "The draws of all chains are ranked together. Where chains agree, every chain holds its "
        "share of low, middle and high ranks and its line stays in the grey band (95% for all "
        "chains together, at this chain's effective sample size). Look for a line that leaves the "
        "band: a slope up at the left is a chain with too many low values, a wave is one that is "
        "too narrow or too wide."
    )
    if subject.draws.num_chains == 1:
        caption += " There is one chain: its two halves are compared."
    panels = [
        plots.rank(label, values, _chain_ess(values))
        for label, values in subject.chosen(_panel_rows(subject))
    ]
    blocks = figure(
        panels, _worst_first(subject, caption), legend=_chain_legend(subject, halves=True)
    )
    return Section("ranks", "Do the chains agree?", blocks) if blocks else None


def traces(subject: Subject) -> Section | None:
    """Values against the number of the draw."""
    if subject.is_empty or not subject.are_chains:
        return None
    diverging = subject.diverging
    caption = (
        "A chain that mixes looks like grass: the same height everywhere, no trend, no plateaus. "
        "Look for chains at different levels, slow waves, and flat stretches where a chain was "
        "stuck."
    )
    if subject.draws.num_samples > 280:
        caption += (
            " The strong lines are running means; behind them the draws, thinned so that the "
            "extremes of every stretch remain."
        )
    if diverging is not None and diverging.any():
        caption += " Red marks at the foot are divergences."
    panels = [
        plots.trace(label, values, diverging=diverging)
        for label, values in subject.chosen(_panel_rows(subject))
    ]
    blocks = figure(panels, _worst_first(subject, caption), legend=_chain_legend(subject))
    return Section("traces", "Traces", blocks) if blocks else None


def ess_evolution(subject: Subject) -> Section | None:
    """Effective sample size as draws accumulate."""
    chains, size = subject.draws.num_chains, subject.draws.num_samples
    if subject.is_empty or not subject.are_chains or size < 16:
        return None
    ends = np.unique(np.linspace(size / 8, size, 8).astype(int))
    rows = subject.worst(MAX_SHOWN)
    if not rows:
        return None
    draws = np.stack([values for _, values in subject.chosen(rows)], -1)
    panels = [
        plots.ess_evolution(
            title,
            ends * chains,
            [subject.labels[row] for row in rows],
            np.stack([measure(draws[:, :end]) for end in ends]),
            subject.ess_wanted,
        )
        for title, measure in (("Bulk ESS", rhat_ess.ess_bulk), ("Tail ESS", rhat_ess.ess_tail))
    ]
    caption = (
        "Effective sample size of the first draws, then of more and more; a line a parameter, the "
        "least in colour. Look for straight lines that end above the dashed one: a line that "
        "flattens or falls is a chain that finds new places late, and its ESS cannot be trusted."
    )
    blocks = figure(panels, caption)
    return Section("ess", "Effective sample size", blocks) if blocks else None


def _chain_ess(values: np.ndarray) -> float:
    """Mean effective sample size of the chains, each on its own: agreement is not presumed."""
    each = [rhat_ess.ess_bulk(chain[None, :, None])[0] for chain in values[:MAX_CHAINS]]
    each = [size for size in each if np.isfinite(size)]
    size = float(np.clip(np.mean(each), 2, values.shape[1])) if each else float(values.shape[1])
    return size / 2 if len(values) == 1 else size


# Weights, runs --------------------------------------------------------------------------------


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
    rows += _evidence_rows(subject)
    table = _pairs(
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
        for label, values in subject.chosen(_panel_rows(subject))
    ]
    caption = "The draws of each parameter" + (", weighted. " if weights is not None else ". ")
    caption += (
        "Look for runs that differ: their differences are the Monte Carlo error."
        if runs > 1
        else "There is one run: whether another would agree is not known."
    )
    legend = _chain_legend(subject) if runs > 1 else []
    blocks = figure(panels, _worst_first(subject, caption), legend=legend)
    return Section("densities", "Densities", blocks) if blocks else None


# What the kernel reports -------------------------------------------------------------------------


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
    bounds = plots.shown_range(np.concatenate([centered.ravel(), steps.ravel()]))
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
        "zero. Write such a parameter non-centred, or give its scale a prior away from zero."
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
    strength = np.abs(plots.correlations(columns, weights))
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
    legend = _chain_legend(subject) if subject.draws.num_chains > 1 else []
    blocks = figure(panels, caption, legend=legend)
    return Section("history", "Step by step", blocks) if blocks else None


# The model ------------------------------------------------------------------------------------


def prior_posterior(subject: Subject) -> Section | None:
    """Prior and posterior of each parameter."""
    if subject.is_empty:
        return None
    prior = subject.group("prior")
    if not prior:
        return None
    panels = []
    for row in _panel_rows(subject):
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
    low, high = plots.shown_range(chosen, mass)
    room = 2.0 * (high - low)
    prior_low, prior_high = plots.shown_range(before)
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
        data = data.reshape(-1, seen.size)
        data = data[plots.thin(len(data), 1000)]
        seen = seen.ravel()
        if not len(data) or not seen.size or data.shape[1] != seen.size:
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


# The run --------------------------------------------------------------------------------------


def cost(subject: Subject) -> Section:
    """Evaluations and wall times by phase."""
    run = subject.draws.run
    names = {"start": "start", "warmup": "warm-up", "sample": "sampling"}
    phases = [p for p in names if p in run.evaluations or p in run.seconds]
    rows = []
    for phase in phases:
        density, gradient = run.evaluations.get(phase, [0, 0])
        time = run.seconds.get(phase)
        rows.append(_cost_row(names[phase], density, gradient, time))
    density, gradient = subject.draws.num_evaluations
    total = float(sum(run.seconds.get(phase, 0.0) for phase in phases))
    rows.append(_cost_row("all", density, gradient, total))
    caption = "Evaluations of the log density and of its gradient, and wall times."
    if "compile" in run.seconds:
        caption += f" Compilation took {seconds(run.seconds['compile'])} of the time."
    least = np.fmin(subject.column("ess_bulk"), subject.column("ess_tail"))
    least = least[np.isfinite(least)] if not subject.is_empty else np.zeros(0)
    spent = max(density, gradient)
    if len(least) and spent and total:
        caption += (
            f" That is {number(1000 * least.min() / spent)} effective draws per 1,000 evaluations "
            f"and {number(least.min() / total)} per second, for the parameter with the fewest."
        )
    if run.warmup_divergences:
        caption += f" Warm-up had {plural(run.warmup_divergences, 'divergence')}, which is usual."
    table = Table(["", "log densities", "gradients", "time"], rows, caption, "Cost of the run")
    return Section("cost", "What it cost", [table])


def _cost_row(name: str, density: int, gradient: int, time: float | None) -> list[Cell]:
    clock = "–" if time is None else seconds(time)
    return [Cell(name), Cell(count(density)), Cell(count(gradient)), Cell(clock)]


def reproduction(subject: Subject) -> Section:
    """Key, sizes, settings and versions."""
    run = subject.draws.run
    data = np.array2string(np.asarray(run.rng_key.get("data", [])), separator=", ")
    implementation = run.rng_key.get("impl", "threefry2x32")
    key = f'jax.random.wrap_key_data(jnp.array({data}, "uint32"), impl="{implementation}")'
    rows = [
        ("Target", run.target),
        ("Sampler, as tuned", run.sampler),
        ("Its claim", run.exactness),
        ("Draws", f"{plural(run.num_chains, subject.unit)} of {run.num_samples:,}"),
        ("Warm-up", plural(run.num_warmup, "step") if run.num_warmup else "none"),
        ("Thinning", f"one in {run.thin}" if run.thin > 1 else "none"),
        ("Started", run.started or "–"),
        ("Ended", run.stopped),
        *((name, version) for name, version in run.versions.items()),
    ]
    table = _pairs(rows, "", "How to repeat the run")
    return Section(
        "reproduce", "How to repeat it", [table, Prose(["The key:"]), Code(f"rng_key = {key}")]
    )


def notes(subject: Subject) -> Section | None:
    """What the run warned about."""
    if not subject.draws.run.notes:
        return None
    return Section("notes", "Notes", [Prose(list(subject.draws.run.notes))])


# In the order of the page.
ALL: tuple[Callable[[Subject], Section | None], ...] = (
    summary,
    weights,
    densities,
    ranks,
    traces,
    ess_evolution,
    energy,
    divergences,
    pairs,
    sampler,
    history,
    prior_posterior,
    predictive,
    cost,
    reproduction,
    notes,
)


# Helpers --------------------------------------------------------------------------------------


def _panel_rows(subject: Subject) -> list[int]:
    return subject.worst(MAX_SHOWN)


def _worst_first(subject: Subject, caption: str) -> str:
    if len(subject.summary) <= 9:
        return caption
    return caption + " The worst parameters come first."


def _chain_legend(subject: Subject, *, halves: bool = False) -> list[tuple[str, str]]:
    chains = subject.draws.num_chains
    if chains == 1:
        return [("c0", "first half"), ("c1", "second half")] if halves else []
    if chains > MAX_CHAINS:
        text = f"{MAX_CHAINS} of {plural(chains, subject.unit)}: those farthest from the rest"
        return [("c0", text)]
    return [(f"c{chain}", f"{subject.unit} {chain}") for chain in range(chains)]


def _evidence_rows(subject: Subject) -> list[tuple[str, str]]:
    text = evidence(subject)
    return [("Log evidence", text)] if text else []


def evidence(subject: Subject) -> str:
    """The log evidence with its error and bounds; empty when there is none."""
    estimate = subject.draws.log_evidence
    if estimate is None:
        return ""
    error = estimate.std_error
    text = aligned(estimate.value, float("nan") if error is None else error)
    if error is not None:
        text += f" ± {number(error, 2)}"
    if estimate.lower is not None or estimate.upper is not None:
        bounds = (
            "?" if bound is None else number(bound, 4) for bound in (estimate.lower, estimate.upper)
        )
        text += f", between {' and '.join(bounds)}"
    return minus(text)


def _pairs(rows: list[tuple[str, str]], caption: str, label: str) -> Table:
    return Table([], [[Cell(name), Cell(value)] for name, value in rows], caption, label)


def _mean(values: np.ndarray) -> float:
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if len(finite) else float("nan")
