"""Nested R-hat, for many short chains.

    nR^2 = 1 + B / W,   B = variance of the superchains' means                        ([1], eq. 6)
    W = mean over superchains of (variance of its chains' means
                                  + mean variance within its chains)               ([1], eq. 7, 8)

A superchain is a group of chains that started at one point; the groups started at different ones.
Hundreds of short chains (on a GPU) have a large R-hat however well they have converged, because
the mean of a short chain is noisy; the mean of a group is not, and if the groups agree, the start
is forgotten. One draw a chain is enough.

Null distribution: once the start is forgotten all chains are alike, their means are independent,
and with M chains in each of K superchains

    M B / (mean variance of chain means within a superchain)  ~  F(K - 1, K (M - 1))

whatever the correlation along the chains (exactly for normal means). That is the p-value here.
For a converged run nR itself is near ``sqrt(1 + 1 / M)`` with one draw a chain, and less with more.

Limits: superchains that all start in the reach of one mode agree on that mode. It says that the
start is forgotten, not that there are draws enough.

Differences from the paper: draws are replaced by the normal scores of their ranks, as in the
R-hat of ArviZ, so that heavy tails do no harm; the p-value is ours. Chains are not split.

References
----------
.. [1] C. C. Margossian, M. D. Hoffman, P. Sountsov, L. Riou-Durand, A. Vehtari, A. Gelman, "Nested
   R-hat: assessing the convergence of Markov chain Monte Carlo when running many short chains",
   Bayesian Analysis 2024, arXiv:2110.13017.
"""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from ppl.diagnostics.rhat_ess import normal_scores
from ppl.diagnostics.table import scalars
from ppl.draws import Draws

MIN_SUPERCHAINS = 4
MIN_CHAINS = 2


class NestedRhat(NamedTuple):
    """Per scalar: nested R-hat, and the p-value of equal superchains."""

    r_hat: Float[np.ndarray, " d"]
    p_value: Float[np.ndarray, " d"]


def nested_rhat(draws: Any, num_superchains: int, *, rank_normalize: bool = True) -> NestedRhat:
    """Nested R-hat of every scalar.

    Parameters
    ----------
    draws
        ``(chain, draw, d)`` or `Draws`. Chains of one superchain follow each other:
        ``init = repeat(starts, M, axis=0)``.
    num_superchains
        K; the number of chains is a multiple of it.
    rank_normalize
        False: the draws as they are, as in the paper.

    Raises
    ------
    ValueError
        For fewer than 4 superchains of 2 chains, chains that cannot be divided among them, no
        draws, or draws that are not finite.
    """
    x = scalars(draws)[1] if isinstance(draws, Draws) else np.asarray(draws, np.float64)
    if x.ndim != 3:
        raise ValueError(f"nested R-hat takes draws of shape (chain, draw, d); got {x.shape}")
    chains, length, d = x.shape
    per = chains // num_superchains if num_superchains else 0
    if num_superchains < MIN_SUPERCHAINS or per < MIN_CHAINS or length < 1:
        raise ValueError(
            f"nested R-hat needs {MIN_SUPERCHAINS} superchains of {MIN_CHAINS} chains, with a draw "
            f"in each; got {chains} chains of {length} draws in {num_superchains} superchains"
        )
    if per * num_superchains != chains:
        raise ValueError(
            f"{chains} chains cannot be divided among {num_superchains} superchains of equal size"
        )
    if not np.isfinite(x).all():
        raise ValueError("nested R-hat needs finite draws")
    if rank_normalize:
        flat = np.ascontiguousarray(x.reshape(-1, d).T)
        x = normal_scores(flat).T.reshape(x.shape)
    return _nested(x.reshape(num_superchains, per, length, d))


def _nested(x: Float[np.ndarray, "K M draw d"]) -> NestedRhat:
    from scipy import stats

    groups, per, length, _ = x.shape
    means = x.mean(axis=2)
    between_chains = means.var(axis=1, ddof=1)
    within_chains = x.var(axis=2, ddof=1).mean(axis=1) if length > 1 else 0.0
    between = means.mean(axis=1).var(axis=0, ddof=1)
    within = (between_chains + within_chains).mean(axis=0)
    noise = between_chains.mean(axis=0)
    # Scalars that do not vary: ranks leave rounding where a variance is zero.
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(between < 1e-18, 0.0, between / np.where(within < 1e-18, 0.0, within))
        f = np.where(between < 1e-18, 0.0, per * between / np.where(noise < 1e-18, 0.0, noise))
    p_value = stats.f.sf(f, groups - 1, groups * (per - 1))
    return NestedRhat(np.sqrt(1 + ratio), np.asarray(p_value))
