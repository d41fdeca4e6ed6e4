"""Algebra of log weights: in log space to the end, and never NaN out of zero weights.

The weighted axis is the last one of ``log_weights`` and the first one of ``values``. Functions
take NumPy or JAX arrays and compute in the library of what they get: JAX arrays may be traced,
NumPy arrays cost no compilation and keep float64.

Conventions
-----------
- -inf is a legal log weight: a weight of zero. When all are -inf, `normalize` gives -inf
  everywhere, sums are -inf, effective sizes and the maximal weight are 0, moments are 0; the
  caller says so (`ess` = 0 is the sign).
- NaN and +inf are never legal. `clean` makes them -inf and every function here does so first;
  `count_illegal` counts them, and a report must mention them.

References
----------
.. [1] A. Kong, J. S. Liu, W. H. Wong, "Sequential imputations and Bayesian missing data
   problems", JASA 89, 1994 (effective sample size).
.. [2] Y. Zhou, A. M. Johansen, J. A. D. Aston, "Toward automatic model comparison: an adaptive
   sequential Monte Carlo approach", JCGS 25, 2016 (conditional ESS).
.. [3] A. Vehtari, D. Simpson, A. Gelman, Y. Yao, J. Gabry, "Pareto smoothed importance
   sampling", JMLR 25, 2024, arXiv:1507.02646.
.. [4] L. Martino, V. Elvira, F. Louzada, "Effective sample size for importance sampling based
   on discrepancy measures", Signal Processing 131, 2017 (perplexity).
"""

import math
from collections.abc import Sequence
from types import ModuleType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int


class Estimate(NamedTuple):
    """An estimate with its standard error and, where they are known, bounds."""

    value: float
    std_error: float | None
    lower: float | None = None
    upper: float | None = None


def _library(x: Any) -> ModuleType:
    return jnp if isinstance(x, jax.Array) else np


# Sums -----------------------------------------------------------------------------------------


def is_illegal(
    log_weights: Float[Any, "*batch"],
) -> Bool[Any, "*batch"]:
    """Whether log weights are NaN or +inf."""
    xp = _library(log_weights)
    return xp.isnan(log_weights) | (log_weights == math.inf)


def count_illegal(log_weights: Float[Any, "*batch"]) -> Int[Any, ""]:
    """How many log weights are NaN or +inf."""
    return is_illegal(log_weights).sum()


def clean(
    log_weights: Float[Any, "*batch"],
) -> Float[Any, "*batch"]:
    """Log weights with NaN and +inf made -inf."""
    xp = _library(log_weights)
    never = xp.full_like(log_weights, -math.inf)
    return xp.where(is_illegal(log_weights), never, log_weights)


def _log(x: Any) -> Any:
    if isinstance(x, jax.Array):
        return jnp.log(x)
    with np.errstate(divide="ignore"):
        return np.log(x)


def _shifted(log_weights: Any) -> tuple[Any, Any]:
    """Clean log weights, and their maximum where it is finite (else 0), with the axis kept."""
    xp = _library(log_weights)
    log_weights = clean(log_weights)
    top = log_weights.max(axis=-1, keepdims=True, initial=-math.inf)
    return log_weights, xp.where(xp.isfinite(top), top, xp.zeros_like(top))


def log_sum_exp(
    log_weights: Float[Any, "*batch n"],
) -> Float[Any, "*batch"]:
    """``log sum_i exp(log_weights_i)``; -inf when all weights are zero."""
    log_weights, top = _shifted(log_weights)
    total = _library(log_weights).exp(log_weights - top).sum(axis=-1)
    return _log(total) + top[..., 0]


def log_mean_exp(
    log_weights: Float[Any, "*batch n"],
) -> Float[Any, "*batch"]:
    """``log mean_i exp(log_weights_i)``: the log evidence of importance weights."""
    return log_sum_exp(log_weights) - math.log(log_weights.shape[-1])


def normalize(
    log_weights: Float[Any, "*batch n"],
) -> Float[Any, "*batch n"]:
    """Log weights that sum to one in linear scale; -inf everywhere when all weights are zero."""
    xp = _library(log_weights)
    log_weights, top = _shifted(log_weights)
    shifted = log_weights - top
    log_total = _log(xp.exp(shifted).sum(axis=-1, keepdims=True))
    return shifted - xp.where(xp.isfinite(log_total), log_total, xp.zeros_like(log_total))


def probabilities(
    log_weights: Float[Any, "*batch n"],
) -> Float[Any, "*batch n"]:
    """Normalized weights in linear scale; 0 everywhere when all weights are zero."""
    return _library(log_weights).exp(normalize(log_weights))


# Effective sizes ------------------------------------------------------------------------------


def ess(
    log_weights: Float[Any, "*batch n"],
) -> Float[Any, "*batch"]:
    """Kish's effective sample size ``1 / sum W_i^2`` [1]_: between 1 and n; 0 without weight."""
    xp = _library(log_weights)
    squared = (probabilities(log_weights) ** 2).sum(axis=-1)
    safe = xp.where(squared > 0, squared, xp.ones_like(squared))
    return xp.where(squared > 0, 1 / safe, xp.zeros_like(squared))


def entropy_ess(
    log_weights: Float[Any, "*batch n"],
) -> Float[Any, "*batch"]:
    """Perplexity ``exp(-sum W_i log W_i)`` [4]_: between 1 and n; 0 without weight."""
    xp = _library(log_weights)
    log_weights = normalize(log_weights)
    finite = xp.isfinite(log_weights)
    safe = xp.where(finite, log_weights, xp.zeros_like(log_weights))
    terms = xp.where(finite, xp.exp(safe) * safe, xp.zeros_like(safe))
    return xp.where(finite.any(axis=-1), xp.exp(-terms.sum(axis=-1)), 0.0 * terms[..., 0])


def cess(
    log_weights: Float[Any, "*batch n"],
    log_increments: Float[Any, "*batch n"],
) -> Float[Any, "*batch"]:
    """Conditional effective sample size of an incremental weight [2]_, between 0 and n.

    ``n (sum W_i w_i)^2 / sum W_i w_i^2`` with the present weights ``W`` and the increments ``w``;
    it equals `ess` of the increments when the present weights are equal.
    """
    xp = _library(log_weights)
    log_weights, log_increments = normalize(log_weights), clean(log_increments)
    first = log_sum_exp(log_weights + log_increments)
    second = log_sum_exp(log_weights + 2 * log_increments)
    alive = xp.isfinite(first)
    zero = xp.zeros_like(first)
    gap = xp.where(alive, 2 * first, zero) - xp.where(alive, second, zero)
    return xp.where(alive, log_weights.shape[-1] * xp.exp(gap), zero)


def max_weight(
    log_weights: Float[Any, "*batch n"],
) -> Float[Any, "*batch"]:
    """Largest normalized weight: 1/n when all are equal, near 1 when one draw decides."""
    return probabilities(log_weights).max(axis=-1)


# Moments --------------------------------------------------------------------------------------


def _column(weights: Any, values: Any) -> Any:
    """Weights (n,) against values (n, ...), without implicit rank promotion."""
    return weights.reshape(weights.shape + (1,) * (values.ndim - 1)).astype(values.dtype)


def _live(values: Any, weights: Any) -> Any:
    """Values with those of zero weight made 0: a draw outside the support may be inf or NaN."""
    xp = _library(values)
    column = xp.broadcast_to(_column(weights, values), values.shape)
    return xp.where(column > 0, values, xp.zeros_like(values))


def mean(
    values: Float[Any, "n *event"],
    log_weights: Float[Any, " n"],
) -> Float[Any, "*event"]:
    """Self-normalized mean ``sum W_i x_i``; consistent, biased at order 1/n."""
    weights = probabilities(log_weights)
    return (_column(weights, values) * _live(values, weights)).sum(axis=0)


def _centered(values: Any, weights: Any) -> Any:
    """Squared distances from the weighted mean; 0 where the weight is."""
    live, column = _live(values, weights), _column(weights, values)
    distance = live - (column * live).sum(axis=0, keepdims=True)
    return _live(distance**2, weights)


def sd(
    values: Float[Any, "n *event"],
    log_weights: Float[Any, " n"],
) -> Float[Any, "*event"]:
    """Weighted standard deviation, ``sum W_i (x_i - m)^2 / (1 - sum W_i^2)`` under the root.

    With equal weights it is the usual one with n - 1; it is 0 when one draw has all the weight.
    """
    xp = _library(values)
    weights = probabilities(log_weights)
    variance = (_column(weights, values) * _centered(values, weights)).sum(axis=0)
    rest = (1 - (weights**2).sum()).astype(values.dtype)
    safe = xp.where(rest > 0, rest, xp.ones_like(rest))
    return xp.sqrt(variance / safe)


def mcse_mean(
    values: Float[Any, "n *event"],
    log_weights: Float[Any, " n"],
) -> Float[Any, "*event"]:
    """Monte Carlo error of `mean` for independent draws: ``sqrt(sum W_i^2 (x_i - m)^2)``.

    The delta method. Too small when weights have a heavy tail (see `pareto_khat`), and for
    particles of one SMC run, which share ancestors: compare independent runs instead.
    """
    xp = _library(values)
    weights = probabilities(log_weights)
    return xp.sqrt((_column(weights**2, values) * _centered(values, weights)).sum(axis=0))


def quantile(
    values: Float[Any, "n *event"],
    log_weights: Float[Any, " n"],
    probability: float,
) -> Float[Any, "*event"]:
    """Smallest value whose weighted distribution function reaches ``probability``.

    Values of zero weight are never returned, unless all weights are zero.
    """
    xp = _library(values)
    weights = probabilities(log_weights)
    order = xp.argsort(values, axis=0)
    column = xp.broadcast_to(_column(weights, values), values.shape)
    ordered = xp.take_along_axis(values, order, axis=0)
    ordered_weights = xp.take_along_axis(column, order, axis=0)
    cumulative = xp.cumsum(ordered_weights, axis=0)
    # Rounding may leave the last sum below 1, and the sums before q a little above or below it.
    slack = 4 * float(xp.finfo(values.dtype).eps)
    reached = (cumulative >= probability * cumulative[-1:] * (1 - slack)) & (ordered_weights > 0)
    return xp.take_along_axis(ordered, reached.argmax(axis=0)[None], axis=0)[0]


# Evidence -------------------------------------------------------------------------------------


def evidence(
    log_weights: Float[Any, " n"],
) -> tuple[Float[Any, ""], Float[Any, ""]]:
    """Log mean weight of one set of independent draws, and its standard error.

    The mean weight is unbiased for Z when the proposal is normalized; its logarithm is low by
    about half the squared error. The error is the delta method's, the relative standard error
    of the mean weight; it is infinite when no draw has weight, or there is one draw only.
    """
    xp = _library(log_weights)
    size = log_weights.shape[-1]
    if size < 2:
        value = log_mean_exp(log_weights)
        return value, xp.full_like(value, math.inf)
    squared = (probabilities(log_weights) ** 2).sum()
    relative = xp.maximum(size * squared - 1, xp.zeros_like(squared)) / (size - 1)
    error = xp.where(squared > 0, xp.sqrt(relative), xp.full_like(squared, math.inf))
    return log_mean_exp(log_weights), error


def combine_evidence(
    log_evidences: Float[Any, " runs"],
) -> tuple[Float[Any, ""], Float[Any, ""]]:
    """Log mean of independent unbiased estimates of Z, and the error between the runs.

    Runs count as draws: the mean is unbiased for Z when each run is. With two or three runs the
    error is itself uncertain by half.
    """
    return evidence(log_evidences)


MANY_RUNS = 10  # from which on their spread is a good estimate of their error


def evidence_of_runs(runs: Sequence[Estimate]) -> Estimate:
    """Evidence of independent runs together: the mean of Z, and its error.

    Two runs may agree by luck: of few runs the error is no smaller than what they know of their
    own, where all know one.
    """
    values = np.array([run.value for run in runs], np.float64)
    own = [run.std_error for run in runs if run.std_error is not None]
    if len(runs) == 1:
        return Estimate(float(values[0]), own[0] if own else None)
    value, error = map(float, combine_evidence(values))
    if len(own) == len(runs) < MANY_RUNS:
        shares = np.exp(values - log_sum_exp(values))
        error = max(error, float(np.sqrt(np.sum((shares * np.array(own)) ** 2))))
    return Estimate(value, error)


def evidence_estimate(log_weights: Float[np.ndarray, "runs n"], together: int = 1) -> Estimate:
    """Evidence from independent runs of weighted draws.

    One run: the delta method. Several: their mean; the error is the larger one of what pooling
    all draws gives and of the spread between runs, so that neither a lucky agreement of two runs
    nor one run that missed the tail hides an error. Draws that depend on each other in groups of
    ``together`` count as one for each group; with a single group there is no error to be told.
    """
    log_weights = np.asarray(log_weights, np.float64)
    value = float(log_mean_exp(log_weights.ravel()))
    if together > 1:
        log_weights = grouped(log_weights, together)
        if log_weights.size < 2:
            return Estimate(value, None)
    error = float(evidence(log_weights.ravel())[1])
    if len(log_weights) > 1:
        error = max(error, float(combine_evidence(log_mean_exp(log_weights))[1]))
    return Estimate(value, error)


def grouped(
    log_weights: Float[np.ndarray, "runs n"], together: int
) -> Float[np.ndarray, "runs groups"]:
    """Log mean weights of groups of ``together`` draws; a last group that is not full is left out.

    A run without a full group is one.
    """
    runs, n = log_weights.shape
    if n < together:
        return log_mean_exp(log_weights)[:, None]
    full = log_weights[:, : n // together * together]
    return log_mean_exp(full.reshape(runs, -1, together))


# Tails ----------------------------------------------------------------------------------------

MIN_DRAWS_KHAT = 25
EQUAL = 1e-3  # nats: weights that differ by less are equal up to rounding of the density


def khat_threshold(n: int) -> float:
    """Largest k-hat with which ``n`` draws are enough: ``min(1 - 1 / log10(n), 0.7)`` [3]_."""
    return min(1 - 1 / math.log10(n), 0.7) if n > 1 else 0.0


def pareto_khat(log_weights: Float[Any, " n"]) -> float:
    """Shape of the generalized Pareto tail of the weights [3]_; see `pareto_smooth`.

    Under 0.5 the weights have a finite variance, up to 0.7 estimates are usable, beyond 1 their
    mean does not exist. It sees the weights of the draws there are: a mode that no draw has
    found leaves no trace.
    """
    return pareto_smooth(log_weights)[1]


def pareto_smooth(
    log_weights: Float[Any, " n"],
) -> tuple[Float[np.ndarray, " n"], float]:
    """Pareto-smoothed normalized log weights, and k-hat [3]_.

    Cases without a fit, whose weights are only normalized:

    ==================================================  =========
    all weights are zero                                k =  inf
    the tail is constant (an exact sampler, clipping)   k = -inf
    fewer than 25 draws with weight: nothing to fit     k =  nan
    ==================================================  =========

    Weights that are nearly constant may pile up where the tail begins (a proposal whose log weight
    is flat in its bulk). No generalized Pareto law has such a lump, and its fit gives a k far
    beyond 1: weights without a mean, while the effective sample size is above half of the draws.
    Where the two contradict each other, the tail is halved until they do not.

    Weights of zero take no part in the fit. The log weights go in with their own sign; ArviZ 1
    wants minus log weights, and with the wrong sign a bad tail passes as a very good one.
    """
    log_weights = clean(np.asarray(log_weights, np.float64))
    normalized = normalize(log_weights)
    alive = np.isfinite(log_weights)
    positive = normalized[alive]
    if positive.size == 0:
        return normalized, math.inf
    tail = np.sort(positive)[-_tail_size(positive.size) :]
    if tail[-1] - tail[0] < EQUAL:
        return normalized, -math.inf
    if positive.size < MIN_DRAWS_KHAT:
        return normalized, math.nan

    from arviz_stats.base.array import BaseArray

    n, size = positive.size, _tail_size(positive.size)
    even = ess(positive) > n / 2
    with np.errstate(all="ignore"):
        smoothed, khat = BaseArray().psislw(-positive)
        while even and not khat <= 1 and size // 2 >= MIN_DRAWS_KHAT:
            size //= 2
            # ArviZ takes the length of the tail as a relative efficiency: 3 sqrt(n / r_eff).
            smoothed, khat = BaseArray().psislw(-positive, r_eff=n * (3 / (size + 0.5)) ** 2)
    if not np.isfinite(khat):
        return normalized, math.nan
    result = np.full_like(log_weights, -math.inf)
    result[alive] = smoothed
    return normalize(result), float(khat)


def _tail_size(n: int) -> int:
    """As in the paper: a fifth of the draws, but no more than three roots."""
    return max(1, math.floor(3 * math.sqrt(n)) if n > 225 else n // 5)


# Resampling on the host -----------------------------------------------------------------------


def stratified(
    generator: np.random.Generator, log_weights: Float[np.ndarray, " n"], num: int
) -> Int[np.ndarray, " num"]:
    """Indices by stratified resampling, in order: one uniform point in each of ``num`` strata.

    The expected number of copies of draw i is exactly ``num W_i``, and a draw without weight is
    never taken.

    Raises
    ------
    ValueError
        If all weights are zero.
    """
    weights = probabilities(np.asarray(log_weights, np.float64))
    if not weights.any():
        illegal = int(count_illegal(np.asarray(log_weights, np.float64)))
        raise ValueError(
            f"cannot resample: none of {weights.size} draws has weight ({illegal} log weights are "
            "NaN or +inf, the others -inf)"
        )
    cumulative = np.cumsum(weights)
    points = (np.arange(num) + generator.random(num)) / num * cumulative[-1]
    indices = np.searchsorted(cumulative, points, side="right")
    return np.minimum(indices, np.flatnonzero(weights)[-1])


def doubt(log_weights: Float[np.ndarray, "runs n"], together: int = 1) -> str | None:
    """Why not to believe the error of `evidence_estimate`, if the tail of the weights says so.

    A sample of weights without a variance has one. Weights that are worth more than half of their
    number are not looked at, unless rounding may have made them equal.
    """
    if (lost := rounded(log_weights)) is not None:
        return lost
    if together > 1:
        log_weights = grouped(log_weights, together)
    log_weights = np.asarray(log_weights, np.float64).ravel()
    n = log_weights.size
    if n < MIN_DRAWS_KHAT or ess(log_weights) > n / 2:
        return None
    khat = pareto_khat(log_weights)
    if not khat >= khat_threshold(n):
        return None
    lacks = "mean" if khat >= 1 else "variance"
    what = "weights" if together == 1 else "mean weights of populations"
    return (
        f"the {what} have no {lacks} (k-hat {khat:.2f}, wanted below {khat_threshold(n):.2f}): the "
        "errors of the log evidence and of weighted means are not to be believed, and log Z is "
        "likely low"
    )


def rounded(logs: Float[np.ndarray, "..."]) -> str | None:
    """Why not to believe log-weights or log Z whose size leaves no room for differences."""
    largest = np.abs(logs[np.isfinite(logs)]).max(initial=0.0)
    if largest * np.finfo(logs.dtype).eps <= 1:
        return None
    return (
        f"log-weights of {largest:.1e} nats are not known to a nat in {logs.dtype}: equal or not, "
        "the weights say nothing, nor does log Z. Something on the way is far too large"
    )
