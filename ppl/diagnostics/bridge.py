"""Evidence from draws of any chain, by bridge sampling.

    Z = E_q[p h] / E_p[q h],   h = 1 / (s_1 p / Z + s_2 q)                   (eq. 3.2, 4.1 of [1])

for an unnormalized density p with draws, and a normalized q that can be drawn from: here a Gaussian
on the unconstrained space, fitted to half of the draws and bridged to the other half [2], each half
in turn. With u = log p - log q the best Z = exp(c) solves

    s_2 mean_q sigma(u - c - m) = s_1 mean_p sigma(c + m - u),   m = log(s_2 / s_1)

where s_1 : s_2 are the sizes of the samples, of chains their effective size. The error is that of
the solution to first order, the relative mean squared error of [3], with the effective size of the
very terms that are averaged.

Consistent for any target that the chains have explored; q need not be near p, but the error grows
with the distance, and a Gaussian between two modes is far from both. What no chain has visited is
missing from the evidence, and nothing tells.

References
----------
.. [1] X.-L. Meng, W. H. Wong, "Simulating ratios of normalizing constants via a simple identity: a
   theoretical exploration", Statistica Sinica 6, 1996.
.. [2] Q. F. Gronau, A. Sarafoglou, D. Matzke et al., "A tutorial on bridge sampling", J. Math.
   Psychol. 81, 2017, arXiv:1703.05984. Equations 15 and 16.
.. [3] S. Fruehwirth-Schnatter, "Estimating marginal likelihoods for mixture and Markov switching
   models using bridge sampling techniques", Econometrics Journal 7, 2004,
   doi:10.1111/j.1368-423X.2004.00125.x. Section 3.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from scipy.special import expit

from ppl import weights
from ppl.diagnostics.rhat_ess import MIN_DRAWS, ess_mean, rhat
from ppl.draws import Draws, host_generator
from ppl.energy import TargetError
from ppl.precision import full_precision
from ppl.template import dimension
from ppl.weights import Estimate

BISECTIONS = 100
DRAWS_PER_PARAMETER = 8  # of which half fit the Gaussian: four for each of its axes and its mean
MIXED = 1.1  # R-hat from which on chains are not draws of one density

type Chains = Float[np.ndarray, "chain draw d"]


@full_precision
def bridge_evidence(draws: Draws, rng_key: Any = 0) -> Estimate:
    """Log-evidence of the target of some draws, with its standard error.

    Parameters
    ----------
    draws
        Of chains, or independent; of a target with a density.
    rng_key
        For the draws of the Gaussian, of which there are as many as draws.

    Returns
    -------
    Estimate

    Raises
    ------
    TargetError
        If the target is not there, has no density or is discrete.
    ValueError
        If the draws are weighted, copies of each other, too few, or of chains that disagree.
    """
    _check(draws)
    from ppl.standing import flat, log_densities

    x = flat(draws.positions)
    chains, number, d = x.shape
    _check_mixed(x)
    log_p = weights.clean(log_densities(draws.target, x))
    half, generator = number // 2, host_generator(rng_key)
    parts = (slice(None, half), slice(number - half, None))
    found = []
    for fit, other in (parts, parts[::-1]):
        mean, factor = _gaussian(x[:, fit])
        noise = generator.standard_normal((chains, half, d))
        proposed = mean + noise @ factor.T
        log_q = _log_gaussian(mean, factor, x[:, other])
        above = log_p[:, other] - log_q
        below = weights.clean(log_densities(draws.target, proposed))
        below = (below - _log_gaussian(mean, factor, proposed)).ravel()
        found.append(bridge(below, above))
    values, errors = np.array(found).T
    # The halves are as good as independent: each is bridged with Gaussian draws of its own.
    error = float(np.sqrt(np.sum(errors**2)) / 2)
    return Estimate(float(values.mean()), error if math.isfinite(error) else None)


def bridge(
    below: Float[np.ndarray, " n"], above: Float[np.ndarray, "chain draw"]
) -> tuple[float, float]:
    """Log of the ratio of normalizers of p and q, and its error.

    Parameters
    ----------
    below, above
        ``log p - log q`` of independent draws of q and of chains of p.
    """
    size = _effective(above)
    s_1 = size / (size + len(below))
    s_2, m = 1 - s_1, math.log(len(below) / size)

    def excess(c: float) -> float:
        return s_2 * expit(below - c - m).mean() - s_1 * expit(c + m - above).mean()

    known = np.concatenate([below[np.isfinite(below)], above[np.isfinite(above)]])
    low, high = float(known.min()) - abs(m) - 1, float(known.max()) + abs(m) + 1
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if excess(middle) > 0 else (low, middle)
    c = (low + high) / 2
    of_q, of_p = expit(below - c - m), expit(c + m - above)
    slope = s_2 * (of_q * (1 - of_q)).mean() + s_1 * (of_p * (1 - of_p)).mean()
    noise = s_2**2 * of_q.var(ddof=1) / len(below)
    noise += s_1**2 * of_p.var(ddof=1) / _effective(of_p)
    with np.errstate(divide="ignore"):
        return c, float(np.sqrt(noise) / slope)


def _effective(series: Float[np.ndarray, "chain draw"]) -> float:
    """Effective number of draws; all of them where there is nothing to tell."""
    finite = np.where(np.isfinite(series), series, np.nanmin(series[np.isfinite(series)]))
    size = float(ess_mean(finite[..., None])[0])
    return min(size, float(series.size)) if math.isfinite(size) else float(series.size)


def _gaussian(x: Chains) -> tuple[np.ndarray, np.ndarray]:
    """Mean and Cholesky factor of the covariance of draws."""
    rows = x.reshape(-1, x.shape[2])
    try:
        return rows.mean(axis=0), np.linalg.cholesky(np.atleast_2d(np.cov(rows, rowvar=False)))
    except np.linalg.LinAlgError as error:
        raise ValueError(
            "bridge sampling fits a Gaussian to the draws, and these do not move in every "
            "direction; draw longer, or look at draws.summary() for what is stuck"
        ) from error


def _log_gaussian(mean: np.ndarray, factor: np.ndarray, x: Chains) -> np.ndarray:
    from scipy.linalg import solve_triangular

    z = solve_triangular(factor, (x - mean).reshape(-1, len(mean)).T, lower=True)
    log_scale = np.log(np.diag(factor)).sum() + 0.5 * len(mean) * math.log(2 * math.pi)
    return (-0.5 * (z**2).sum(axis=0) - log_scale).reshape(x.shape[:2])


def _check_mixed(x: Chains) -> None:
    worst = float(np.nanmax(rhat(x), initial=0.0))
    if worst > MIXED:
        raise ValueError(
            f"the chains disagree (R-hat {worst:.3g}, wanted: below {MIXED}), and draws of no one "
            "density have no evidence. Draw longer; where there are several modes, use "
            "samplers.ParallelTempering() or TemperedSMC(), which give the evidence themselves"
        )


def _check(draws: Draws) -> None:
    target = draws.target
    if target is None:
        raise TargetError(
            "bridge sampling evaluates the density of the target, and draws from a file do not "
            "hold it; write draws.attach(target)"
        )
    if "log_density" not in target.offers:
        raise TargetError(f"bridge sampling needs a density: {target.refuse('log_density')}")
    if not all(jnp.issubdtype(x.dtype, jnp.floating) for x in jax.tree.leaves(target.template)):
        raise TargetError(
            "bridge sampling fits a Gaussian to the draws, and part of a position is discrete; "
            "sum discrete sites out (ppl.from_numpyro does so where it can)"
        )
    if draws.log_weights is not None:
        raise ValueError(
            "these draws are weighted: what their sampler knows of the evidence is in "
            "draws.log_evidence. Bridge sampling takes draws of chains, such as NUTS's"
        )
    if draws.run.kind == "resampled":
        raise ValueError(
            "these draws are copies of others (draws.resample); give bridge sampling the originals"
        )
    least = DRAWS_PER_PARAMETER * (dimension(target.template) + 1)
    size, number = draws.num_chains * draws.num_samples, draws.num_samples
    if size < least or number < 2 * MIN_DRAWS:
        raise ValueError(
            f"bridge sampling of {dimension(target.template)} parameters needs {least} draws, "
            f"{2 * MIN_DRAWS} at least in each chain; got {draws.num_chains} x {number}"
        )
