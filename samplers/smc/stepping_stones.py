"""Evidence from draws at every temperature of a path, by stepping stones, both ways.

    Z_{k+1} / Z_k = E_k[exp(d V)]                forward                       (eq. 7 of [1])
                  = 1 / E_{k+1}[exp(-d V)]       backward,   d = b_{k+1} - b_k

with pi_b = r exp(b V) and E_k the mean under pi_{b_k}. The log of a mean is low in expectation: the
sum of forward stones is low, that of backward stones is high, and where the two meet both are
right. The estimate of the least variance takes both sides of each stone [2, 3]: C = log(Z_{k+1} /
Z_k) solves

    mean_k sigma(d V - C) = mean_{k+1} sigma(C - d V),   sigma(u) = 1 / (1 + exp(-u))

Draws are those of chains. The error comes from the influence that each scan has on the sum, all
stones together: the Monte Carlo error of its mean counts the autocorrelation and what neighboring
temperatures have in common. Where much noise is fast and a little is slow, the shares of modes, the
autocorrelation is cut off too early: the error is no less than that of the means of long batches.

References
----------
.. [1] W. Xie, P. O. Lewis, Y. Fan, L. Kuo, M.-H. Chen, "Improving marginal likelihood estimation
   for Bayesian phylogenetic model selection", Systematic Biology 60, 2011,
   doi:10.1093/sysbio/syq085.
.. [2] C. H. Bennett, "Efficient estimation of free energy differences from Monte Carlo data",
   J. Comput. Phys. 22, 1976, doi:10.1016/0021-9991(76)90078-4. Equations 12 and 13.
.. [3] X.-L. Meng, W. H. Wong, "Simulating ratios of normalizing constants via a simple identity: a
   theoretical exploration", Statistica Sinica 6, 1996.
"""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.special import expit

from ppl import weights
from ppl.diagnostics.rhat_ess import chain_statistics
from ppl.weights import Estimate

BISECTIONS = 100
BATCHES, SHORTEST = 32, 10  # of all chains together; draws of one

type Sides = tuple[Float[np.ndarray, "draw stone"], Float[np.ndarray, "draw stone"]]


class SteppingStones(NamedTuple):
    """Log-evidence from below, from above, and from both sides of each stone."""

    forward: Estimate
    backward: Estimate
    both: Estimate


def stepping_stones(
    log_ratios: Float[np.ndarray, "chain draw rung"], ladder: Float[np.ndarray, " rung"]
) -> SteppingStones:
    """Evidence along a ladder from 0 to 1, from V at each of its rungs."""
    chains, draws, _ = log_ratios.shape
    per_chain = max(BATCHES // chains, 2)
    length = draws // per_chain
    values = weights.clean(np.asarray(log_ratios, np.float64))
    steps = np.diff(np.asarray(ladder, np.float64))

    def estimate(value: float, influence: Float[np.ndarray, "draw stone"]) -> Estimate:
        series = influence.sum(axis=1).reshape(chains, draws, 1)
        error = float(chain_statistics(series).mcse_mean[0])
        if length >= SHORTEST:
            batches = series[:, draws - per_chain * length :].reshape(chains * per_chain, length)
            error = max(error, float(batches.mean(axis=1).std(ddof=1) / math.sqrt(len(batches))))
        return Estimate(value, error if math.isfinite(error) else None)

    below, above = ((steps * part).reshape(chains * draws, -1) for part in _neighbors(values))
    return SteppingStones(
        estimate(*_one_way(below)),
        _negated(estimate(*_one_way(-above))),
        estimate(*_both_ways(below, above)),
    )


def _neighbors(values: Float[np.ndarray, "chain draw rung"]) -> tuple[np.ndarray, np.ndarray]:
    """V at the lower and at the upper rung of each stone."""
    return values[..., :-1], values[..., 1:]


def _one_way(log_weights: Float[np.ndarray, "draw stone"]) -> tuple[float, np.ndarray]:
    """Sum over stones of the log of the mean weight, and what each draw has to do with it."""
    means = weights.log_mean_exp(log_weights.T)
    with np.errstate(invalid="ignore", over="ignore"):
        return float(means.sum()), np.exp(log_weights - means) - 1


def _both_ways(
    below: Float[np.ndarray, "draw stone"], above: Float[np.ndarray, "draw stone"]
) -> tuple[float, np.ndarray]:
    """Sum over stones of C, and what each draw has to do with it."""

    def excess(c: Float[np.ndarray, " stone"]) -> Float[np.ndarray, "draw stone"]:
        return expit(below - c) - expit(c - above)

    with np.errstate(invalid="ignore"):
        low = np.minimum(below.min(axis=0, where=np.isfinite(below), initial=0), above.min(axis=0))
        high = np.maximum(below.max(axis=0), above.max(axis=0))
    low, high = low - 1.0, high + 1.0
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        positive = excess(middle).mean(axis=0) > 0
        low, high = np.where(positive, middle, low), np.where(positive, high, middle)
    c = (low + high) / 2
    slope = (_slope(below - c) + _slope(c - above)).mean(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        return float(c.sum()), excess(c) / slope


def _slope(u: np.ndarray) -> np.ndarray:
    return expit(u) * expit(-u)


def _negated(estimate: Estimate) -> Estimate:
    return estimate._replace(value=-estimate.value)
