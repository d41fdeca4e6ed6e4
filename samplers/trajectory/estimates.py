"""What paths tell about log Z and about each other: bounds, estimates, effective sizes.

    forward, w_i           ELBO = mean w <= log Z;   log mean e^w;   ESS = (sum e^w)^2 / sum e^2w
    backward from draws    EUBO = mean w >= log Z;   -log mean e^-w; ESS = 1 / mean e^w / mean e^-w

Backward paths start at exact draws of the target, where there are some (simulated data, synthetic
targets): they see the modes that forward paths do not, so that EUBO - ELBO, the Jeffreys divergence
of both laws of paths, is the best alarm. Both together give log Z with the least variance, by
Bennett's acceptance ratio [1]: the c with

    sum_F sigmoid(w - c - m) = sum_B sigmoid(c - w + m),    m = log(n_F / n_B)

At c = log Z and equal numbers both sides agree whatever the kernels, and no term exceeds 1: a test
of the weights of a sampler that heavy tails do not blunt.

References
----------
.. [1] Bennett, "Efficient estimation of free energy differences from Monte Carlo data", J. Comput.
   Phys. 22, 1976, doi:10.1016/0021-9991(76)90078-4. Equation 12.
.. [2] Blessing et al., "Beyond ELBOs: a large-scale evaluation of variational methods for
   sampling", ICML 2024, arXiv:2406.07423. Forward and reverse measures.
"""

from typing import Any, NamedTuple

import numpy as np
from scipy.optimize import brentq
from scipy.special import expit

from ppl import weights
from ppl.weights import Estimate


class PathEstimates(NamedTuple):
    """In nats; what needs backward paths is None without them.

    Attributes
    ----------
    elbo, eubo
        Lower and upper bounds of log Z, with standard errors.
    log_evidence
        Log mean of e^w, forward.
    log_evidence_both
        From both directions.
    ess
        Of the forward paths, as a share of them.
    forward_ess
        The same from backward paths: modes that are missed count.
    """

    elbo: Estimate
    log_evidence: Estimate
    ess: float
    eubo: Estimate | None = None
    log_evidence_both: Estimate | None = None
    forward_ess: float | None = None


def estimate(forward: Any, backward: Any = None) -> PathEstimates:
    """All of it from log-weights: ``draws.log_weights``, and those of ``sampler.log_weights``.

    Raises
    ------
    ValueError
        For fewer than two paths, or backward weights that are not finite: the sampler's paths
        cannot come from such a draw.
    """
    forward = np.asarray(forward, np.float64).ravel()
    if forward.size < 2:
        raise ValueError(f"estimates need two paths or more; got {forward.size}")
    elbo = Estimate(*_mean(forward))
    value, error = map(float, weights.evidence(forward))
    ess = float(weights.ess(forward)) / forward.size
    if backward is None:
        return PathEstimates(elbo, Estimate(value, error, lower=elbo.value), ess)
    backward = np.asarray(backward, np.float64).ravel()
    if backward.size < 2 or not np.isfinite(backward).all():
        raise ValueError(
            "backward weights are two finite numbers or more; got "
            f"{backward.size}, {np.sum(~np.isfinite(backward))} of them not finite"
        )
    eubo = Estimate(*_mean(backward))
    log_inverse = float(weights.log_mean_exp(-backward))
    log_mean = float(weights.log_mean_exp(backward))
    return PathEstimates(
        elbo,
        Estimate(value, error, elbo.value, eubo.value),
        ess,
        eubo,
        _both(forward, backward),
        float(np.exp(-log_inverse - log_mean)),
    )


def _mean(x: np.ndarray) -> tuple[float, float]:
    return float(x.mean()), float(x.std(ddof=1) / x.size**0.5)


def _both(forward: np.ndarray, backward: np.ndarray) -> Estimate:
    """Bennett's estimate; its error is the delta method's."""
    shift = np.log(forward.size / backward.size)
    up = lambda c: expit(forward - c - shift)
    down = lambda c: expit(c - backward + shift)
    gap = lambda c: np.sum(up(c)) - np.sum(down(c))
    finite = np.concatenate([forward[np.isfinite(forward)], backward])
    low, high = finite.min() - 50 - abs(shift), finite.max() + 50 + abs(shift)
    c: Any = brentq(gap, low, high)
    a, b = up(c), down(c)
    slope = np.sum(a * (1 - a)) + np.sum(b * (1 - b))
    variance = a.size * a.var(ddof=1) + b.size * b.var(ddof=1)
    return Estimate(float(c), float(variance**0.5 / slope))
