"""What the charts estimate from draws: densities, ranges, bands, thinned traces."""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from ppl.report.svg import Range, widened


def quantiles(
    values: np.ndarray, probabilities: Sequence[float], weights: np.ndarray | None = None
) -> np.ndarray:
    """Quantiles of finite values, weighted when there are weights."""
    if weights is None:
        return np.quantile(values, probabilities)
    order = np.argsort(values)
    cumulative = np.cumsum(weights[order])
    return np.interp(
        np.asarray(probabilities) * cumulative[-1], cumulative - weights[order] / 2, values[order]
    )


def shown_range(values: np.ndarray, weights: np.ndarray | None = None) -> tuple[float, float]:
    """Where the values are, without the few of a heavy tail that would squeeze all others."""
    lower, upper = quantiles(values, (0.005, 0.995), weights)
    if weights is not None:
        values = values[weights > 1e-6 * weights.max()]
    room = 0.25 * (upper - lower)
    return max(values.min(), lower - room), min(values.max(), upper + room)


def density(
    values: np.ndarray,
    weights: np.ndarray | None = None,
    bounds: Range | None = None,
    points: int = 128,
) -> tuple[np.ndarray, np.ndarray]:
    """Kernel density of finite values: a fine histogram, smoothed, reflected at its ends.

    The reflection keeps the density of a positive parameter from leaking below zero.
    """
    from scipy.ndimage import gaussian_filter1d

    lower, upper = widened(shown_range(values, weights) if bounds is None else bounds)
    heights, edges = np.histogram(values, 4 * points, (lower, upper), weights=weights)
    total = len(values) if weights is None else weights.sum()
    size = len(values) if weights is None else total**2 / (weights**2).sum()
    q25, q75 = quantiles(values, (0.25, 0.75), weights)
    mean = np.average(values, weights=weights)
    with np.errstate(over="ignore"):
        sd = np.sqrt(np.average((values - mean) ** 2, weights=weights))
    spread = min(sd, (q75 - q25) / 1.34) or sd
    cell = (upper - lower) / (4 * points)
    width = np.clip(0.9 * spread * size**-0.2 / cell, 3.0, points)
    smooth = gaussian_filter1d(heights / (total * cell), width, mode="reflect")
    centers = (edges[:-1] + edges[1:]) / 2
    keep = np.linspace(0, 4 * points - 1, points).round().astype(int)
    return centers[keep], smooth[keep]


def thin(size: int, keep: int, weights: np.ndarray | None = None) -> np.ndarray:
    """At most ``keep`` indices below ``size``: evenly spaced, or by systematic resampling."""
    if weights is None:
        return np.linspace(0, size - 1, min(size, keep)).round().astype(int)
    cumulative = np.cumsum(weights / weights.sum())
    places = (np.arange(min(size, keep)) + 0.5) / min(size, keep)
    return np.unique(np.minimum(np.searchsorted(cumulative, places), size - 1))


def envelope(values: np.ndarray, buckets: int = 140) -> tuple[np.ndarray, np.ndarray]:
    """Draw numbers and values of a thinned trace that keeps each bucket's lowest and highest."""
    size = len(values)
    if size <= 2 * buckets:
        return np.arange(1, size + 1), values
    starts = np.linspace(0, size, buckets + 1).astype(int)[:-1]
    low, high = np.fmin.reduceat(values, starts), np.fmax.reduceat(values, starts)
    # Alternating low-high, high-low makes one zigzag instead of a comb.
    pairs = np.stack([low, high], 1)
    pairs[1::2] = pairs[1::2, ::-1]
    return np.repeat(starts + 1, 2), pairs.ravel()


def running_mean(values: np.ndarray, stretches: int = 25) -> tuple[np.ndarray, np.ndarray]:
    """Centers and means of overlapping stretches of a trace; nothing for a short one."""
    width = len(values) // stretches
    if width < 4 or not np.isfinite(values).all():
        return np.zeros(0), np.zeros(0)
    sums = np.concatenate([[0.0], np.cumsum(values - values[0])])
    starts = np.linspace(0, len(values) - width, 4 * stretches).astype(int)
    return starts + width / 2, values[0] + (sums[starts + width] - sums[starts]) / width


@lru_cache(maxsize=32)
def rank_band(num_chains: int, level: float = 0.95) -> float:
    """Half-width of the simultaneous band for rank ECDFs, in pointwise standard deviations.

    Under agreement the ECDF differences of n draws are Brownian bridges, and they add up to zero
    over the chains because ranks are pooled: their pointwise variance is
    ``u (1 - u) (1 - 1 / num_chains) / n``. The limit is for the largest over all chains and ``u``.
    """
    generator = np.random.default_rng(0)
    u = np.linspace(0, 1, 51)[1:-1]
    steps = generator.normal(0, np.sqrt(1 / 50), (1000, num_chains, 50))
    walks = np.cumsum(steps, -1)
    bridges = walks[..., :-1] - u * walks[..., -1:]
    bridges -= bridges.mean(1, keepdims=True)
    scale = np.sqrt(u * (1 - u) * (1 - 1 / num_chains))
    return float(np.quantile(np.abs(bridges / scale).max((1, 2)), level))


def correlations(columns: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Correlations of columns, weighted when there are weights; 0 where a column is constant."""
    # Scaled first: squares of the values may be more than a double holds.
    columns = columns / np.maximum(np.abs(columns).max(axis=0), 1e-300)
    cov = np.atleast_2d(np.cov(columns, rowvar=False, aweights=weights))
    scale = np.sqrt(np.outer(np.diag(cov), np.diag(cov)))
    return np.divide(cov, scale, out=np.zeros_like(cov), where=scale > 0)
