"""Log-Gaussian Cox process: counts on a grid of cells, d = 1,600, on synthetic counts.

    f ~ Normal(mu, K),   K_ij = 1.91 exp(-|i - j| rate / side),   mu = log(126) - 1.91 / 2
    y_i | f ~ Poisson(exp(f_i) / side^2)
    log likelihood = sum_i y_i f_i - exp(f_i) / side^2

In whitened coordinates positions are z, f = mu + chol(K) z, whose prior is N(0, I): log Z is the
same, and what the counts do not tell of has unit scale.

``|i - j|`` is the distance of cells in units of a cell, ``rate`` is 33: the correlation is 1 / e at
40 / 33 cells. The log-likelihood leaves out the constants of the Poisson law, so that log Z is that
of the sum above, as in the papers.

The papers' data are 126 pine saplings of a Finnish forest. Ours are **synthetic**: drawn from the
process itself with a fixed seed and kept in a file. No figure on them compares with a published
one.

References
----------
.. [1] Møller, Syversveen and Waagepetersen, "Log Gaussian Cox processes", Scand. J. Stat. 25, 1998,
   doi:10.1111/1467-9469.00115. Section 8.
.. [2] Arbel, Matthews and Doucet, "Annealed flow transport Monte Carlo", ICML 2021,
   arXiv:2102.07501. These constants.
"""

import math
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from numpyro import distributions as dist

import ppl
from ppl.algebra import Posterior

VARIANCE, EXPECTED, RATE = 1.91, 126.0, 33.0
MEAN = math.log(EXPECTED) - VARIANCE / 2


def synthetic_counts() -> np.ndarray:
    """Return the synthetic counts, (40, 40)."""
    return np.loadtxt(Path(__file__).parent / "data" / "log_gaussian_cox_synthetic.txt", dtype=int)


def covariance(side: int) -> np.ndarray:
    """Covariance K of the log-intensities of ``side`` by ``side`` cells, row by row."""
    cells = np.stack(np.meshgrid(*[np.arange(side)] * 2, indexing="ij"), -1).reshape(-1, 2)
    distances = np.linalg.norm(cells[:, None] - cells[None], axis=-1)
    return VARIANCE * np.exp(-distances * RATE / side)


def log_likelihood(f: Any, counts: Any) -> Any:
    """Poisson log-likelihood of the counts, up to a constant."""
    return jnp.sum(counts * f - jnp.exp(f) / f.size)


def intensities(z: Any, factor: Any) -> Any:
    """Log-intensities f of whitened positions, ``factor`` the Cholesky factor of K."""
    return MEAN + z @ factor.T


def log_likelihood_of_whitened(z: Any, factor: Any, counts: Any) -> Any:
    """That of the log-intensities."""
    return log_likelihood(intensities(z, factor), counts)


def log_gaussian_cox(counts: Any = None, *, whitened: bool = False) -> Posterior:
    """Posterior of the log-intensities f, one a cell, (side^2,); its prior is normalized.

    Parameters
    ----------
    counts
        Number of points in each cell of a square grid; None: the synthetic ones.
    whitened
        Whether positions are z in place of f; `intensities` makes the latter of them.

    Raises
    ------
    ValueError
        For counts that are no square table of numbers of points.
    """
    counts = np.asarray(synthetic_counts() if counts is None else counts)
    if counts.ndim != 2 or counts.shape[0] != counts.shape[1] or not np.all(counts >= 0):
        raise ValueError(f"counts are a square table of numbers of points; got {counts!r}")
    factor = np.linalg.cholesky(covariance(len(counts)))
    data = jnp.asarray(counts.ravel(), float)
    if whitened:
        standard = dist.Normal(0, 1).expand((counts.size,)).to_event()
        return ppl.posterior(standard, log_likelihood_of_whitened, jnp.asarray(factor, float), data)
    prior = dist.MultivariateNormal(
        jnp.full(counts.size, MEAN, float), scale_tril=jnp.asarray(factor, float)
    )
    return ppl.posterior(prior, log_likelihood, data)
