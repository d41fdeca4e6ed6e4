"""ExactDraws are draws of the target, and never prior draws of a model with data."""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
import scipy.stats

import ppl
from agreement import dkw_limit
from chains import NUM_CHECKS
from samplers.direct import ExactDraws


def test_draws_follow_the_distribution():
    draws = ppl.sample(
        ExactDraws(), ppl.from_distribution(dist.Gamma(2.0, 3.0)), num_samples=3000, progress=False
    )
    distance = scipy.stats.kstest(np.ravel(draws["x"]), scipy.stats.gamma(2.0, scale=1 / 3).cdf)
    assert distance.statistic < dkw_limit(NUM_CHECKS, 3000)
    assert draws.log_weights is None
    assert draws.log_evidence is None


def test_a_model_with_data_is_refused():
    def model(y):
        x = numpyro.sample("x", dist.Normal(0.0, 1.0))
        numpyro.sample("y", dist.Normal(x, 1.0), obs=y)

    with pytest.raises(ppl.TargetError, match=r"sample\(\) draws from the prior"):
        ppl.sample(ExactDraws(), ppl.from_numpyro(model, jnp.asarray(1.0)), progress=False)


def test_a_target_that_cannot_be_drawn_from_is_refused():
    target = ppl.from_log_density(lambda x: -(x**2), jnp.zeros(()))
    with pytest.raises(ppl.TargetError, match="ExactDraws needs 'sample'"):
        ppl.sample(ExactDraws(), target, progress=False)
