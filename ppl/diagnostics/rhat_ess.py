"""Rank-normalized split R-hat, bulk and tail effective sample size, Monte Carlo error of a mean.

The definitions are those of [1]_ as ArviZ computes them, and agree with it to rounding; here they
run over all scalars of a model at once, because they are asked for between chunks of a run.

Null distribution: for chains that have converged and an effective size S, ``r_hat - 1`` is of
order ``1 / S`` (the squared z-scores of the half-chain means); above 1.01 the chains have not
mixed or S is below some hundred. Limits: chains that all miss the same region agree with each
other. Both sizes need their own estimate of the autocorrelation, reliable from about 50 a chain.

Differences from ArviZ, all on purpose: the tails are those of the paper and of Stan, 5 and 95 %
(ArviZ's summary takes 11 and 89 %, from the size of its default interval); a single chain is
compared with itself, half against half (ArviZ gives NaN); a constant has no effective size (ArviZ
gives the number of draws); chains stuck at different values have an R-hat of inf.

References
----------
.. [1] A. Vehtari, A. Gelman, D. Simpson, B. Carpenter, P.-C. Buerkner, "Rank-normalization,
   folding, and localization: an improved R-hat for assessing convergence of MCMC", Bayesian
   Analysis 16, 2021, arXiv:1903.08008.
"""

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

MIN_DRAWS = 4
_BLOCK_BYTES = 2**25

type Chains = Float[np.ndarray, "chain draw d"]
type Scalars = Float[np.ndarray, " d"]


class ChainStatistics(NamedTuple):
    """Per scalar; NaN where a draw is not finite, where draws are constant, or too few."""

    mean: Scalars
    sd: Scalars
    mcse_mean: Scalars
    ess_bulk: Scalars
    ess_tail: Scalars
    r_hat: Scalars


def chain_statistics(x: Float[np.ndarray, "chain draw d"]) -> ChainStatistics:
    """Mean, standard deviation, its Monte Carlo error, effective sizes and R-hat."""
    parts = [_block(part) for part in _blocks(np.asarray(x, np.float64))]
    if not parts:
        return ChainStatistics(*(np.zeros(0) for _ in ChainStatistics._fields))
    return ChainStatistics(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))


def rhat(x: Float[np.ndarray, "chain draw d"]) -> Float[np.ndarray, " d"]:
    """Rank-normalized split R-hat: the larger one of the bulk's and the folded draws'."""
    return _over(x, lambda y: _rhat(_split(y), _z_scale(_split(y))))


def ess_bulk(x: Float[np.ndarray, "chain draw d"]) -> Float[np.ndarray, " d"]:
    """Effective sample size of the rank-normalized draws."""
    return _over(x, lambda y: _ess(_z_scale(_split(y))))


def ess_tail(x: Float[np.ndarray, "chain draw d"]) -> Float[np.ndarray, " d"]:
    """The smaller one of the effective sample sizes of the 5 % and the 95 % quantile."""
    return _over(x, _ess_tail)


def ess_mean(x: Float[np.ndarray, "chain draw d"]) -> Float[np.ndarray, " d"]:
    """Effective sample size of the mean, draws as they are."""
    return _over(x, lambda y: _ess(_split(y)))


def _over(x: Chains, measure: Callable[[Chains], Scalars]) -> Scalars:
    parts = []
    for part in _blocks(np.asarray(x, np.float64)):
        result = np.full(part.shape[2], math.nan)
        good = _usable(part)
        if good.any():
            result[good] = measure(part[:, :, good])
        parts.append(result)
    return np.concatenate(parts) if parts else np.zeros(0)


def _blocks(x: Chains) -> Iterator[Chains]:
    width = max(1, _BLOCK_BYTES // (8 * max(1, x.shape[0] * x.shape[1])))
    for start in range(0, x.shape[2], width):
        yield x[:, :, start : start + width]


def _usable(x: Chains) -> np.ndarray:
    """Columns with enough draws, all finite, not all equal."""
    if x.shape[1] < MIN_DRAWS:
        return np.zeros(x.shape[2], bool)
    finite = np.isfinite(x).all(axis=(0, 1))
    return finite & (x != x[:1, :1]).any(axis=(0, 1))


def _block(x: Chains) -> ChainStatistics:
    with np.errstate(invalid="ignore"):
        size = x.shape[0] * x.shape[1]
        mean = x.mean(axis=(0, 1)) if size else np.full(x.shape[2], math.nan)
        sd = x.std(axis=(0, 1), ddof=1) if size > 1 else np.full(x.shape[2], math.nan)
    good = _usable(x)
    columns = [np.full(x.shape[2], math.nan) for _ in range(4)]
    if good.any():
        y = x[:, :, good]
        halves = _split(y)
        z = _z_scale(halves)
        for column, value in zip(
            columns,
            (
                sd[good] / np.sqrt(_ess(halves)),
                _ess(z),
                _ess_tail(y),
                _rhat(halves, z),
            ),
            strict=True,
        ):
            column[good] = value
    return ChainStatistics(mean, sd, *columns)


# [1], section 4 ---------------------------------------------------------------------------------


def _split(x: Chains) -> Float[np.ndarray, "twice half d"]:
    half = x.shape[1] // 2
    return np.concatenate([x[:, :half], x[:, -half:]])


def _z_scale(x: Chains) -> Chains:
    """Normal scores over all chains."""
    flat = np.ascontiguousarray(x.reshape(-1, x.shape[2]).T)
    return normal_scores(flat).T.reshape(x.shape)


def normal_scores(x: Float[np.ndarray, "d n"]) -> Float[np.ndarray, "d n"]:
    """Normal scores of the ranks along each row, ties averaged: equation (14) of the paper."""
    from scipy import special

    size = x.shape[1]
    order = np.argsort(x, axis=1)
    ordered = np.take_along_axis(x, order, axis=1)
    steps = np.arange(size)
    new = np.ones(x.shape, bool)
    new[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    first = np.maximum.accumulate(np.where(new, steps, 0), axis=1)
    ends = np.roll(new, -1, axis=1)  # the first is always new, so the last always ends
    last = np.minimum.accumulate(np.where(ends, steps, size)[:, ::-1], axis=1)[:, ::-1]
    scores = np.empty(x.shape)
    np.put_along_axis(scores, order, (first + last) / 2 + 1, axis=1)
    return special.ndtri((scores - 3 / 8) / (size + 1 / 4))


def _rhat(halves: Chains, z: Chains) -> Scalars:
    folded = np.abs(halves - np.median(halves, axis=(0, 1)))
    return np.maximum(_rhat_plain(z), _rhat_plain(_z_scale(folded)))


def _rhat_plain(x: Chains) -> Scalars:
    """Potential scale reduction, equations (1) to (4)."""
    n = x.shape[1]
    between = n * x.mean(axis=1).var(axis=0, ddof=1)
    within = x.var(axis=1, ddof=1).mean(axis=0)
    # Ties leave rounding where a variance is zero.
    within = np.where(within < 1e-20, 0.0, within)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where((within == 0) & (between < 1e-18), 1.0, between / within)
    return np.sqrt((ratio + n - 1) / n)


def _ess_tail(x: Chains) -> Scalars:
    low, high = np.quantile(x, [0.05, 0.95], axis=(0, 1))
    sizes = [_ess(_split((x <= q).astype(np.float64))) for q in (low, high)]
    # A quantile of a discrete scalar may be its largest value, which has no error at all.
    whole = float(2 * x.shape[0] * (x.shape[1] // 2))
    return np.minimum(*(np.nan_to_num(size, nan=whole) for size in sizes))


def _ess(x: Chains) -> Scalars:
    """Effective sample size of split chains, equations (10) to (13), with Geyer's sequences."""
    m, n, _ = x.shape
    size = m * n
    mean_acov = _autocovariance(x)  # averaged over chains, (n, d)
    within = mean_acov[0] * n / (n - 1)
    total = mean_acov[0] + (x.mean(axis=1).var(axis=0, ddof=1) if m > 1 else 0.0)
    constant = total <= 1e-300
    rho = 1 - (within - mean_acov) / np.where(constant, 1.0, total)
    rho[0] = 1.0
    # Sums of neighbors; stop at the first that is not positive, or where the lags end.
    last = max(0, math.ceil((n - 2) / 2) - 1)
    even, odd = rho[0 : 2 * last + 1 : 2], rho[1 : 2 * last + 2 : 2]
    pairs = even[: len(odd)] + odd
    negative = pairs <= 0
    stop = np.where(negative.any(axis=0), negative.argmax(axis=0), len(pairs) - 1)
    kept = np.arange(len(pairs))[:, None] < stop
    monotone = np.minimum.accumulate(pairs, axis=0)
    at_stop = np.take_along_axis(even, stop[None], axis=0)[0]
    tau = -1 + 2 * np.where(kept, monotone, 0.0).sum(axis=0) + np.maximum(at_stop, 0)
    result = size / np.maximum(tau, 1 / math.log10(size))
    return np.where(constant, math.nan, result)


def _autocovariance(x: Chains) -> Float[np.ndarray, "draw d"]:
    """Mean over chains of the biased autocovariance at every lag, by FFT."""
    from scipy import fft

    n = x.shape[1]
    centered = x - x.mean(axis=1, keepdims=True)
    # FFTs run along the last, contiguous axis.
    series = np.ascontiguousarray(np.moveaxis(centered, 1, 2))
    length = fft.next_fast_len(2 * n, real=True)
    spectrum = np.asarray(fft.rfft(series, length, axis=-1))
    power = (np.real(spectrum) ** 2 + np.imag(spectrum) ** 2).mean(axis=0)
    acov = np.asarray(fft.irfft(power, length, axis=-1))
    return np.ascontiguousarray(acov[:, :n].T) / n
