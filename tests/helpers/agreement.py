"""How far draws may lie from a known truth before a test fails.

Every scalar check gets an equal share of one rate of false alarms, so that adding checks widens
each limit a little instead of making the suite fail by chance. Limits are in standard errors, and
the standard error is always that of the very quantity compared: the error of a variance comes from
the effective sample size of the squares, that of a quantile from the effective sample size of the
indicator. Approximating the error of an sd by ``1 / sqrt(2 ESS)`` fails right samplers on heavy
tails.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import scipy.stats
from arviz_stats.base import array_stats
from numpy.typing import ArrayLike

RATE = 1e-4


def z_limit(num_checks: int, rate: float = RATE) -> float:
    """Limit that the largest of ``num_checks`` scores ``|z|`` exceeds with probability ``rate``."""
    return float(scipy.stats.norm.isf(rate / (2 * num_checks)))


def t_limit(num_checks: int, df: float, rate: float = RATE) -> float:
    """The same for Student scores: R independent runs have ``df = R - 1``; take R of 32 or more."""
    return float(scipy.stats.t.isf(rate / (2 * num_checks), df))


def dkw_limit(num_checks: int, num_draws: int, rate: float = RATE) -> float:
    """Largest distance of an empirical CDF of independent draws from its law (Massart's bound)."""
    return math.sqrt(math.log(2 * num_checks / rate) / (2 * num_draws))


@dataclass(frozen=True)
class Reference:
    """What is known of one scalar: moments, and quantiles as ``{probability: value}``.

    ``num_draws`` is the number of nearly independent draws that it was estimated from; infinity
    means that it is exact.
    """

    mean: float
    sd: float
    quantiles: Mapping[float, float] = field(default_factory=dict)
    num_draws: float = math.inf

    @classmethod
    def from_posteriordb(cls, entry: Mapping[str, float], num_draws: float = 10_000) -> "Reference":
        """One parameter of a file in ``tests/reference/posteriordb``: mean, sd, q05, q50, q95."""
        quantiles = {int(name[1:]) / 100: entry[name] for name in ("q05", "q50", "q95")}
        return cls(entry["mean"], entry["sd"], quantiles, num_draws)


def t_scores(estimates: ArrayLike, truth: ArrayLike) -> np.ndarray:
    """Scores of the mean over the leading axis: one row for each independent run.

    Needs no estimate of an effective sample size. Compare with ``t_limit(num_checks, R - 1)``.
    """
    estimates = np.asarray(estimates, np.float64)
    error = estimates.std(axis=0, ddof=1) / math.sqrt(len(estimates))
    return _score(estimates.mean(axis=0) - np.asarray(truth, np.float64), error)


def z_scores(draws: ArrayLike, reference: Reference) -> dict[str, float]:
    """Scores of the ``(chain, draw)`` draws of one scalar: mean, square and each quantile.

    ``square`` compares the mean of ``(x - reference.mean)**2`` with ``reference.sd**2``, ``q0.05``
    the frequency below that quantile with 0.05. NaN draws give NaN scores, which no limit admits.
    """
    x = np.asarray(draws, np.float64)
    if x.ndim != 2:
        raise ValueError(f"draws of one scalar have the shape (chain, draw); got {x.shape}")
    square = (x - reference.mean) ** 2
    scores = {
        "mean": _z(x, reference.mean, reference.sd**2, reference),
        # The fourth moment of the reference is not given: ours stands in for it.
        "square": _z(square, reference.sd**2, square.var(), reference),
    }
    for probability, value in reference.quantiles.items():
        below = np.where(np.isnan(x), np.nan, x <= value)
        variance = probability * (1 - probability)
        # A chain that never crosses the quantile has a constant indicator, hence no ESS of its own.
        ess = _ess(below) if below.min() < below.max() else _ess(x)
        error = math.sqrt(variance / ess + variance / reference.num_draws)
        scores[f"q{probability:g}"] = float(_score(below.mean() - probability, error))
    return scores


def disagreements(
    draws: Mapping[str, ArrayLike],
    references: Mapping[str, Reference],
    *,
    r_hat: float = 1.01,
    ess: float = 400,
    rate: float = RATE,
    num_checks: int | None = None,
) -> list[str]:
    """Say in words where the draws are not those of the references; an empty list is agreement.

    ``draws`` holds one ``(chain, draw)`` array for every name in ``references``. The scores are
    valid only where R-hat and the effective sample size are good, so these are checked as well.
    ``num_checks`` defaults to the number of scores in this call; give it when several calls share
    one rate.
    """
    scores = {name: z_scores(draws[name], reference) for name, reference in references.items()}
    num_checks = num_checks or sum(len(score) for score in scores.values())
    limit = z_limit(num_checks, rate)
    found = []
    for name, score in scores.items():
        x = np.asarray(draws[name], np.float64)
        rank, effective = float(array_stats.rhat(x)), _ess(x)
        # Written so that NaN fails.
        if not rank < r_hat:
            found.append(f"{name}: R-hat is {rank:.4f}, the limit is {r_hat}")
        if not effective >= ess:
            found.append(f"{name}: the effective sample size is {effective:.0f}, of {ess:.0f}")
        found += [
            f"{name}: z of the {statistic} is {z:+.2f}, the limit is {limit:.2f}"
            for statistic, z in score.items()
            if not abs(z) < limit
        ]
    return found


def _z(x: np.ndarray, truth: float, reference_variance: float, reference: Reference) -> float:
    error = math.sqrt(x.var(ddof=1) / _ess(x) + reference_variance / reference.num_draws)
    return float(_score(x.mean() - truth, error))


def _ess(x: np.ndarray) -> float:
    return float(array_stats.ess(x, method="mean"))


def _score(difference, error) -> np.ndarray:
    """Difference in standard errors; no difference is 0 whatever the error, even none."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(np.asarray(difference) == 0, 0.0, difference / np.asarray(error))
