"""A normal mean with normal data: all that is known of its posterior, and of minibatches of it."""

import numpy as np
import numpyro
import numpyro.distributions as dist

import ppl

NUM_DATA, PRIOR_SD = 50, 2.0
DATA = np.random.default_rng(0).normal(1.0, 1.0, NUM_DATA)
PRECISION = 1 / PRIOR_SD**2 + NUM_DATA
MEAN = DATA.sum() / PRECISION


def model(y, rows_used=None):
    mu = numpyro.sample("mu", dist.Normal(0.0, PRIOR_SD))
    with numpyro.plate("rows", NUM_DATA, subsample_size=rows_used) as i:
        numpyro.sample("y", dist.Normal(mu, 1.0), obs=y[i])


def target(rows_used=None):
    return ppl.from_numpyro(model, DATA.astype(np.float32), rows_used)


def gradient_variance(batch_size: int) -> float:
    """Variance of ``N / n sum (y_i - mu)`` over rows drawn with replacement."""
    return 0.0 if batch_size == NUM_DATA else NUM_DATA**2 / batch_size * DATA.var()
