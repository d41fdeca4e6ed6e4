"""The charts of the report, from plain arrays; nothing here knows about draws or pages.

Arrays of one scalar have axes (chain, draw). What cannot be drawn (no finite value, a single
chain where several are compared) gives None, so that a page is the shorter for it, not broken.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from ppl.report import estimates
from ppl.report.svg import Chart, Range, Real, minus, widened

MAX_CHAINS = 8  # As many lines as an eye can tell apart in one chart.
COLORS = 8  # Classes c0 ... c7 of the style sheet.


@dataclass(frozen=True)
class Panel:
    """One chart under its own small title; ``note`` is a remark beside the title."""

    title: str
    svg: Markup
    note: str = ""


# Chains ---------------------------------------------------------------------------------------


def sparkline(values: np.ndarray, weights: np.ndarray | None = None) -> Markup:
    """A density without axes, for a cell of a table."""
    values, weights = _finite(values, weights)
    if len(values) == 0 or np.ptp(values) == 0:
        return Markup("")
    x, y = estimates.density(values, weights, points=40)
    x = (x - x[0]) / (x[-1] - x[0]) * 96
    y = 22 - 20 * y / (y.max() or 1.0)
    points = " ".join(f"{a:.0f} {b:.1f}" for a, b in zip(x, y, strict=True))
    return Markup(
        '<svg class="spark" viewBox="0 0 96 24" aria-hidden="true">'
        f'<path class="area c0" d="M0 22L{points}L96 22Z"/>'
        f'<path class="line c0" d="M{points}"/></svg>'
    )


def trace(
    title: str, values: np.ndarray, *, diverging: np.ndarray | None = None, note: str = ""
) -> Panel | None:
    """Values against the number of the draw, a line a chain; divergences as marks below."""
    finite, _ = _finite(values)
    if len(finite) == 0:
        return None
    chains, size = values.shape
    lower, upper = np.quantile(finite, (0.001, 0.999))
    room = 0.4 * (upper - lower)
    low, high = max(finite.min(), lower - room), min(finite.max(), upper + room)
    chart = Chart(
        (1, max(size, 2)),
        (low - 0.06 * (high - low), high + 0.04 * (high - low)),
        label=f"Trace of {title}: {chains} chains of {size} draws",
        x_label="draw",
    )
    shown = _extreme(values)
    for chain in shown:
        chart.line(*estimates.envelope(values[chain]), f"faint c{chain % COLORS}")
    for chain in shown:
        chart.line(*estimates.running_mean(values[chain]), f"c{chain % COLORS}")
    if diverging is not None and diverging.any():
        at = np.nonzero(diverging.any(0))[0] + 1
        at = at[estimates.thin(len(at), 200)]
        floor = low - 0.06 * (high - low)
        tall = floor + 0.07 * (high - low)
        chart.pillars(at, np.full(len(at), floor), np.full(len(at), tall), "bad")
    return Panel(title, chart.svg(), note)


def rank(title: str, values: np.ndarray, size: Real, *, note: str = "") -> Panel | None:
    """ECDFs of the pooled ranks by chain, minus the uniform one, with the band of agreement.

    A single chain is cut into halves. ``size`` is the effective number of draws in a chain, on
    which the width of the band depends.
    """
    if values.shape[0] == 1:
        half = values.shape[1] // 2
        values = values[:, : 2 * half].reshape(2, half)
    chains, draws = values.shape
    if draws < 4 or not np.isfinite(values).all() or np.ptp(values) == 0:
        return None
    from scipy.stats import rankdata

    ranks = rankdata(values).reshape(values.shape) / values.size
    u = np.linspace(0, 1, min(draws, 60) + 1)
    lines = np.stack([np.searchsorted(np.sort(r), u, side="right") / draws - u for r in ranks])
    band = estimates.rank_band(chains) * np.sqrt(u * (1 - u) * (1 - 1 / chains) / max(size, 1.0))
    top = 1.15 * max(band.max(), np.abs(lines).max())
    outside = int((np.abs(lines[:, 1:-1]) > band[1:-1] + 1 / draws).any(1).sum())
    chart = Chart(
        (0, 1),
        (-top, top),
        label=f"Rank ECDF differences of {title}: {outside} of {chains} chains leave the band",
        x_label="rank, as a fraction of all draws",
    )
    chart.band(u, -band, band)
    chart.guide(y=0.0)
    for chain in _extreme(values):
        chart.line(u, lines[chain], f"c{chain % COLORS}")
    return Panel(
        title, chart.svg(), note or (f"{outside} of {chains} leave the band" if outside else "")
    )


def ess_evolution(
    title: str, draws: np.ndarray, labels: Sequence[str], ess: np.ndarray, goal: Real
) -> Panel | None:
    """Effective sample sizes (time, scalar) against the number of draws; the least is named."""
    if len(draws) < 2 or not np.isfinite(ess[-1]).any():
        return None
    worst = int(np.nanargmin(ess[-1]))
    least = ess[-1, worst]
    chart = Chart(
        (0, float(draws[-1])),
        (0, 1.08 * max(np.nanmax(ess), goal)),
        label=f"{title} against draws; the least is {least:.0f}, of {labels[worst]}",
        x_label="draws, all chains",
        height=210,
    )
    chart.guide(y=goal, text=f"{goal:.0f} wanted")
    for scalar in range(len(labels)):
        chart.line(draws, ess[:, scalar], "thin quiet")
    chart.line(draws, ess[:, worst], "bold c0")
    return Panel(title, chart.svg(), f"least: {least:,.0f}, {labels[worst]}")


# Distributions --------------------------------------------------------------------------------


def densities(
    title: str,
    groups: Sequence[tuple[np.ndarray, np.ndarray | None, str]],
    *,
    label: str,
    x_label: str = "",
    note: str = "",
    bounds: Range | None = None,
) -> Panel | None:
    """Densities over each other: ``(values, weights or None, css class)`` each."""
    kept = [(*_finite(values, weights), css) for values, weights, css in groups]
    kept = [(v, w, css) for v, w, css in kept if len(v) > 1]
    if not kept:
        return None
    if bounds is None:
        ranges = np.array([estimates.shown_range(v, w) for v, w, _ in kept])
        bounds = (ranges[:, 0].min(), ranges[:, 1].max())
    if bounds[1] <= bounds[0]:
        return None
    bounds = widened(bounds)
    discrete = all(_is_counts(v) for v, _, _ in kept) and bounds[1] - bounds[0] <= 60
    lines = [
        _pmf(v, w, bounds) if discrete else estimates.density(v, w, bounds) for v, w, _ in kept
    ]
    top = max(float(y.max()) for _, y in lines) or 1.0
    chart = Chart(
        (bounds[0] - 0.5, bounds[1] + 0.5) if discrete else bounds,
        (0, 1.08 * top),
        label=label,
        x_label=x_label,
        y_ticks=(),
        height=150,
    )
    for (x, y), (_, _, css) in zip(lines, kept, strict=True):
        if discrete:
            chart.bars(np.append(x - 0.5, x[-1] + 0.5), y, css)
        elif len(kept) <= 3:
            chart.area(x, y, css)
        else:
            chart.line(x, y, css)
    return Panel(title, chart.svg(), note)


def histogram(
    title: str,
    values: np.ndarray,
    *,
    bounds: Range | None = None,
    x_label: str = "",
    goal: tuple[Real, str] | None = None,
    css: str = "c0",
    bins: int = 30,
    note: str = "",
) -> Panel | None:
    """Histogram of all finite values; integers get a bar each."""
    values, _ = _finite(values)
    if len(values) == 0:
        return None
    lower, upper = bounds or (values.min(), values.max())
    if _is_counts(values) and upper - lower <= 40:
        edges = np.arange(lower, upper + 2) - 0.5
    else:
        edges = np.linspace(*widened((lower, upper)), bins + 1)
    heights, _ = np.histogram(values, edges)
    chart = Chart(
        (edges[0], edges[-1]),
        (0, (1.1 if goal is None else 1.3) * heights.max()),
        label=f"Histogram of {title} from {values.min():.3g} to {values.max():.3g}",
        x_label=x_label,
        y_ticks=(),
        height=150,
    )
    chart.bars(edges, heights, css)
    if goal is not None:
        chart.guide(x=goal[0], text=goal[1])
    return Panel(title, chart.svg(), note)


# Divergences and pairs ------------------------------------------------------------------------


def divergence_ranks(title: str, values: np.ndarray, diverging: np.ndarray) -> Panel:
    """Where the divergent draws lie among all draws of one parameter."""
    from scipy.stats import rankdata

    ranks = (rankdata(values)[diverging.ravel()] - 0.5) / values.size
    heights, edges = np.histogram(ranks, 20, (0, 1))
    middle = float(np.median(ranks))
    chart = Chart(
        (0, 1),
        (0, 1.1 * heights.max()),
        label=f"Ranks of the divergent draws among all draws of {title}: median {middle:.0%}",
        x_ticks=[(0, "lowest"), (0.5, "median"), (1, "highest")],
        y_ticks=(),
        height=140,
    )
    chart.bars(edges, heights, "bad")
    chart.guide(y=len(ranks) / 20)
    return Panel(title, chart.svg(), f"half lie below its {middle:.0%} quantile")


def pair(
    x_name: str,
    x: np.ndarray,
    y_name: str,
    y: np.ndarray,
    *,
    weights: np.ndarray | None = None,
    diverging: np.ndarray | None = None,
    points: int = 700,
) -> Panel | None:
    """Scatter of two parameters; draws are thinned, divergent ones all marked (up to 300)."""
    x, y = x.ravel(), y.ravel()
    keep = np.isfinite(x) & np.isfinite(y)
    if keep.sum() < 3:
        return None
    x, y = x[keep], y[keep]
    weights = None if weights is None else weights.ravel()[keep]
    if weights is not None and weights.sum() == 0:
        return None
    marked = np.zeros(len(x), bool) if diverging is None else diverging.ravel()[keep]
    x_log, y_log = _spans_decades(x), _spans_decades(y)
    chart = Chart(
        _padded(x, weights, log=x_log),
        _padded(y, weights, log=y_log),
        label=f"Scatter of {y_name} against {x_name}",
        x_label=x_name + (" (log scale)" if x_log else ""),
        y_label=y_name + (" (log scale)" if y_log else ""),
        x_log=x_log,
        y_log=y_log,
        height=270,
    )
    plain = np.nonzero(~marked)[0]
    if len(plain):
        shown = plain[
            estimates.thin(len(plain), points, None if weights is None else weights[plain])
        ]
        chart.dots(x[shown], y[shown], "c0")
    special = np.nonzero(marked)[0]
    if len(special):
        shown = special[estimates.thin(len(special), 300)]
        chart.dots(x[shown], y[shown], "bad")
    correlation = _correlation(x, y, weights)
    note = "" if correlation is None else minus(f"correlation {correlation:.2f}")
    return Panel(f"{y_name} and {x_name}", chart.svg(), note)


# Weights, histories, evidence -----------------------------------------------------------------


def weight_share(weights: np.ndarray) -> Panel | None:
    """Share of the total weight that the heaviest draws carry."""
    if weights.size < 2 or not weights.sum() > 0:
        return None
    share = np.concatenate([[0.0], np.cumsum(np.sort(weights.ravel())[::-1]) / weights.sum()])
    heaviest = np.linspace(0, 1, len(share))
    # Close together where the curve is steep: at the heaviest.
    keep = np.unique(np.geomspace(1, len(share), 120).round().astype(int) - 1)
    half = float(heaviest[np.searchsorted(share, 0.5)])
    percent = [(0, "0"), (0.25, "25%"), (0.5, "50%"), (0.75, "75%"), (1, "100%")]
    chart = Chart(
        (0, 1),
        (0, 1),
        label=f"Share of the weight by the share of draws: {half:.2%} of the draws carry half",
        x_label="heaviest draws, as a share of all",
        x_ticks=percent,
        y_ticks=percent,
    )
    chart.line([0, 1], [0, 1], "thin quiet")
    chart.line(heaviest[keep], share[keep], "c0")
    return Panel("Share of the total weight", chart.svg(), f"{half:.1%} carry half")


def history(title: str, values: np.ndarray) -> Panel | None:
    """One line a run against the step; the y-axis leaves out the first, wildest values."""
    finite, _ = _finite(values)
    if len(finite) < 2 or values.shape[1] < 2:
        return None
    lower, upper = np.quantile(finite, (0.0, 0.98))
    upper = finite.max() if finite.max() - lower < 3 * (upper - lower) else upper
    room = 0.05 * (upper - lower)
    chart = Chart(
        (1, values.shape[1]),
        (lower - room, upper + room),
        label=f"{title} against the step, {values.shape[0]} runs",
        x_label="step",
    )
    for run in _extreme(values):
        chart.line(*estimates.envelope(values[run]), f"c{run % COLORS}")
    return Panel(title, chart.svg())


# Prior and posterior predictive checks ----------------------------------------------------------


def predictive_intervals(title: str, observed: np.ndarray, replicated: np.ndarray) -> Panel | None:
    """Each observation with the 50 % and 90 % intervals of its replications."""
    with np.errstate(invalid="ignore"):
        low, q25, q75, high = np.quantile(replicated, (0.05, 0.25, 0.75, 0.95), axis=0)
    everything = np.concatenate([low, high, observed])
    everything = everything[np.isfinite(everything)]
    if len(everything) == 0:
        return None
    x = np.arange(len(observed))
    outside = int(((observed < low) | (observed > high)).sum())
    room = 0.06 * np.ptp(everything)
    chart = Chart(
        (-0.7, len(observed) - 0.3),
        (everything.min() - room, everything.max() + room),
        label=f"{title}: {outside} of {len(observed)} observations outside their 90% interval",
        x_label="observation",
        height=220,
    )
    chart.pillars(x, low, high, "quiet")
    chart.pillars(x, q25, q75, "wide quiet")
    chart.dots(x, observed, "big c1")
    return Panel(title, chart.svg(), f"{outside} of {len(observed)} outside the 90% interval")


def predictive_density(title: str, observed: np.ndarray, replicated: np.ndarray) -> Panel | None:
    """Density (or frequencies) of the observations over those of replicated data sets."""
    observed, _ = _finite(observed)
    rows = [_finite(row)[0] for row in replicated[estimates.thin(len(replicated), 200)]]
    rows = [row for row in rows if len(row) > 1]
    if len(observed) < 2 or not rows:
        return None
    pooled = np.concatenate([observed, *rows])
    discrete = _is_counts(pooled) and np.ptp(observed) <= 60
    lower, upper = estimates.shown_range(pooled)
    lower, upper = min(lower, observed.min()), max(upper, observed.max())
    if discrete:
        upper = min(upper, observed.max() + 0.5 * (np.ptp(observed) + 4))
    if not upper > lower:
        return None
    curves = _pmf if discrete else estimates.density
    x, seen = curves(observed, None, (lower, upper))
    lines = np.stack([curves(row, None, (lower, upper))[1] for row in rows])
    q5, q25, q75, q95 = np.quantile(lines, (0.05, 0.25, 0.75, 0.95), axis=0)
    chart = Chart(
        (x[0] - 0.6, x[-1] + 0.6) if discrete else (lower, upper),
        (0, 1.08 * max(q95.max(), seen.max())),
        label=f"{title}: observed data and the bands of {len(rows)} replicated data sets",
        x_label=title,
        y_ticks=(),
        height=220,
    )
    if discrete:
        chart.pillars(x, q5, q95, "quiet")
        chart.pillars(x, q25, q75, "wide quiet")
        chart.dots(x, seen, "big c1")
    else:
        chart.band(x, q5, q95)
        chart.band(x, q25, q75)
        chart.line(x, seen, "c1")
    return Panel(title, chart.svg())


# Helpers --------------------------------------------------------------------------------------


def _finite(
    values: np.ndarray, weights: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray | None]:
    values = np.asarray(values, np.float64).ravel()
    keep = np.isfinite(values)
    if weights is None:
        return values[keep], None
    weights = np.asarray(weights, np.float64).ravel()
    keep &= weights > 0
    return values[keep], weights[keep]


def _extreme(values: np.ndarray) -> np.ndarray:
    """Indices of at most `MAX_CHAINS` chains: those whose means are farthest from the others'."""
    if len(values) <= MAX_CHAINS:
        return np.arange(len(values))
    sums = np.where(np.isfinite(values), values, 0.0).sum(1)
    means = sums / np.maximum(np.isfinite(values).sum(1), 1)
    return np.sort(np.argsort(-np.abs(means - np.median(means)))[:MAX_CHAINS])


def _is_counts(values: np.ndarray) -> bool:
    return bool(np.all(values == np.round(values)))


def _pmf(
    values: np.ndarray, weights: np.ndarray | None, bounds: Range
) -> tuple[np.ndarray, np.ndarray]:
    x = np.arange(np.floor(bounds[0]), np.ceil(bounds[1]) + 1)
    total = len(values) if weights is None else weights.sum()
    edges = np.append(x - 0.5, x[-1] + 0.5)
    return x, np.histogram(values, edges, weights=weights)[0] / total


def _spans_decades(values: np.ndarray) -> bool:
    if values.min() <= 0:
        return False
    low, high = np.quantile(values, (0.02, 0.98))
    return bool(high > 30 * low)


def _padded(values: np.ndarray, weights: np.ndarray | None, *, log: bool) -> tuple[float, float]:
    values = np.log(values) if log else values
    lower, upper = estimates.shown_range(values, weights)
    room = 0.04 * (upper - lower)
    lower, upper = lower - room, upper + room
    return (np.exp(lower), np.exp(upper)) if log else (lower, upper)


def _correlation(x: np.ndarray, y: np.ndarray, weights: np.ndarray | None) -> float | None:
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return None
    return float(estimates.correlations(np.stack([x, y], -1), weights)[0, 1])
