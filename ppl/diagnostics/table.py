"""Summary tables: a row per scalar, columns by what the draws are.

Chains: as ArviZ's summary, computed by `ppl.diagnostics.rhat_ess`. Weighted draws: weighted moments
and quantiles, Kish's effective size and k-hat, of the weights and so the same in every row.
Independent draws: errors that follow from independence. Particles share ancestors: their errors
come from the spread between independent runs, and with one run they are a lower bound. Resampled
draws get moments and quantiles only.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from ppl import weights
from ppl.diagnostics.rhat_ess import ChainStatistics, chain_statistics
from ppl.draws import Draws


def scalars(
    draws: Draws, names: Sequence[str] | None = None, *, keep_every: int = 1
) -> tuple[list[str], Float[np.ndarray, "chain draw d"]]:
    """Labels and draws of every scalar, in the order of the names; complex ones in two parts.

    Of each array larger than ``keep_every`` only every so many-th entry is taken.
    """
    labels: list[str] = []
    columns = [np.zeros((draws.num_chains, draws.num_samples, 0))]
    dims, coords = draws.labels
    for name in draws.names if names is None else names:
        value = draws[name]
        if value.dtype.kind == "c":
            value = np.stack([np.real(value), np.imag(value)], axis=-1)
        labels += entry_labels(name, value.shape[2:], dims.get(name, []), coords)[::keep_every]
        flat = value.reshape(*value.shape[:2], math.prod(value.shape[2:]))
        columns.append(flat[:, :, ::keep_every].astype(np.float64))
    return labels, np.concatenate(columns, axis=2)


def entry_labels(
    name: str, shape: tuple[int, ...], dims: Sequence[str], coords: Mapping[str, Any]
) -> list[str]:
    """``theta[Choate]`` where the model names its entries, ``theta[0]`` elsewhere."""
    if not shape:
        return [name]
    entries = []
    for axis, size in enumerate(shape):
        named = coords.get(dims[axis]) if len(dims) == len(shape) else None
        entries.append(named if named is not None and len(named) == size else range(size))
    return [
        f"{name}[{', '.join(str(e[i]) for e, i in zip(entries, index, strict=True))}]"
        for index in np.ndindex(*shape)
    ]


def statistics_of(draws: Draws, name: str) -> ChainStatistics:
    """`chain_statistics` of one name, kept with the draws: report and verdict both ask."""
    cache = draws.cache.setdefault("chain_statistics", {})
    if name not in cache:
        cache[name] = chain_statistics(scalars(draws, [name])[1])
    return cache[name]


def summarize(draws: Draws, names: Sequence[str], quantiles: Sequence[float]) -> Any:
    """Compute the table of `Draws.summary`, a pandas DataFrame."""
    import pandas as pd

    bad = [q for q in quantiles if not 0 <= q <= 1]
    if bad:
        raise ValueError(f"quantiles lie between 0 and 1; got {bad}")
    labels, x = scalars(draws, names)
    weighted = draws.log_weights is not None
    columns = _weighted(draws, x, quantiles) if weighted else _plain(draws, names, x, quantiles)
    return pd.DataFrame(columns, index=labels)


def _quantile_name(q: float) -> str:
    return "median" if q == 0.5 else f"q{100 * q:g}"


def _plain(
    draws: Draws, names: Sequence[str], x: np.ndarray, quantiles: Sequence[float]
) -> dict[str, Any]:
    size = x.shape[0] * x.shape[1]
    flat = x.reshape(size, x.shape[2])
    nothing = np.full(flat.shape[1], math.nan)
    with np.errstate(invalid="ignore"):
        columns = {
            "mean": flat.mean(axis=0) if size else nothing,
            "sd": flat.std(axis=0, ddof=1) if size > 1 else nothing,
        }
        for q in quantiles:
            columns[_quantile_name(q)] = np.quantile(flat, q, axis=0) if size else nothing
    if draws.run.kind == "markov":
        parts = [statistics_of(draws, name) for name in names]
        for field in ("mcse_mean", "ess_bulk", "ess_tail", "r_hat"):
            columns[field] = np.concatenate([np.zeros(0), *(getattr(p, field) for p in parts)])
    elif draws.run.kind == "particle" and draws.num_chains > 1:
        columns["mcse_mean"] = _run_error(x, np.zeros(x.shape[:2]))
    elif draws.run.kind != "resampled":
        columns["mcse_mean"] = columns["sd"] / math.sqrt(max(size, 1))
    return columns


def _weighted(draws: Draws, x: np.ndarray, quantiles: Sequence[float]) -> dict[str, Any]:
    log_weights = draws.pooled_log_weights().ravel()
    flat = x.reshape(log_weights.size, x.shape[2])
    if not np.isfinite(log_weights).any():
        nothing = np.full(flat.shape[1], math.nan)
        names = ["mean", "sd", *(_quantile_name(q) for q in quantiles), "mcse_mean"]
        return dict.fromkeys(names, nothing) | {"ess": 0.0, "khat": math.inf}
    columns = {
        "mean": weights.mean(flat, log_weights),
        "sd": weights.sd(flat, log_weights),
    }
    for q in quantiles:
        columns[_quantile_name(q)] = weights.quantile(flat, log_weights, q)
    if draws.run.kind == "particle" and draws.num_chains > 1:
        columns["mcse_mean"] = _run_error(x, np.asarray(draws.log_weights, np.float64))
    elif getattr(draws.sampler, "draws_together", 1) > 1:
        columns["mcse_mean"] = _group_error(x, draws.log_weights, draws.sampler.draws_together)
    else:
        columns["mcse_mean"] = weights.mcse_mean(flat, log_weights)
    columns["ess"] = np.full(flat.shape[1], float(weights.ess(log_weights)))
    columns["khat"] = np.full(flat.shape[1], weights.pareto_khat(log_weights))
    return columns


def _run_error(x: np.ndarray, log_weights: np.ndarray) -> np.ndarray:
    """Standard error of a mean over independent runs, from the spread of their means."""
    means = run_means(x, log_weights)
    if len(means) < 2:
        return np.full(x.shape[2], math.nan)
    return means.std(axis=0, ddof=1) / math.sqrt(len(means))


def _group_error(x: np.ndarray, log_weights: Any, together: int) -> np.ndarray:
    """Standard error of a weighted mean of draws that depend on each other in groups."""
    full = x.shape[1] // together * together
    x = x[:, :full].reshape(-1, together, x.shape[2])
    log_weights = np.asarray(log_weights, np.float64)[:, :full].reshape(-1, together)
    alive = np.isfinite(weights.log_sum_exp(log_weights))
    if alive.sum() < 2:
        return np.full(x.shape[2], math.nan)
    totals = weights.log_mean_exp(log_weights[alive])
    return weights.mcse_mean(run_means(x, log_weights), totals)


def run_means(x: np.ndarray, log_weights: np.ndarray) -> Float[np.ndarray, "run d"]:
    """Weighted mean of each independent run; runs without weight are left out."""
    alive = np.isfinite(weights.log_sum_exp(log_weights)) & (x.shape[1] > 0)
    pairs = zip(x[alive], log_weights[alive], strict=True)
    means = [weights.mean(one, row) for one, row in pairs]
    return np.stack(means) if means else np.zeros((0, x.shape[2]))
