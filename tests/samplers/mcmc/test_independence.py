"""Independence Metropolis-Hastings : its rate, its start, its refusals."""

import jax.numpy as jnp
import numpy as np
import pytest

import ppl
import samplers
from gaussian_proposal import GaussianProposal
from samplers.mcmc.independence import IndependenceMetropolis

pytestmark = pytest.mark.usefixtures("unoptimized")
TARGET = ppl.from_log_density(lambda x: -0.5 * jnp.vdot(x, x), jnp.zeros(1))


def test_the_acceptance_rate_of_a_wide_proposal_is_the_known_one():
    """The mass of min(p(x) q(y), q(x) p(y)), by quadrature."""
    s = 2.0
    x = np.linspace(-9, 9, 2001)
    p, q = np.exp(-(x**2) / 2), np.exp(-(x**2) / (2 * s**2)) / s
    p, q = p / p.sum(), q / q.sum()
    expected = np.minimum(np.outer(p, q), np.outer(q, p)).sum()
    draws = ppl.sample(
        IndependenceMetropolis(GaussianProposal(s)), TARGET, num_chains=200, num_samples=50,
        num_warmup=20, progress=False,
    )  # fmt: skip
    rate = draws.stats["acceptance_rate"].mean(1)
    assert abs(rate.mean() - expected) < 4.9 * rate.std() / 200**0.5
    assert abs(draws["x"].var() - 1) < 0.1


def test_a_proposal_that_cannot_tell_a_weight_starts_with_none():
    class Mute(GaussianProposal):
        def draw(self, rng_key, target, n):
            x, _ = super().draw(rng_key, target, n)
            return x, GaussianProposal.log_weights(self, rng_key, target, x)

        def log_weights(self, rng_key, target, positions):
            return None

    draws = ppl.sample(
        IndependenceMetropolis(Mute()), TARGET, num_chains=5, num_samples=1, num_warmup=0,
        progress=False,
    )  # fmt: skip
    assert (draws.stats["acceptance_rate"] == 1).all()


def test_unweighted_and_foreign_proposals_are_refused():
    normal = ppl.from_distribution(numpyro_normal())
    with pytest.raises(ppl.TargetError, match="by ExactDraws cannot be exact: ExactDraws draws"):
        ppl.sample(IndependenceMetropolis(samplers.ExactDraws()), normal, progress=False)
    with pytest.raises(ppl.TargetError, match="by ExactDraws needs 'sample'"):
        ppl.sample(IndependenceMetropolis(samplers.ExactDraws()), TARGET, progress=False)
    trained = ppl.sample(samplers.GaussianVI(num_updates=1), TARGET, progress=False).sampler
    wide = ppl.from_log_density(lambda x: -0.5 * jnp.vdot(x, x), jnp.zeros(3))
    with pytest.raises(ppl.TargetError, match="by GaussianVI (proposes|was trained on another)"):
        ppl.sample(IndependenceMetropolis(trained), wide, progress=False)


def test_what_is_not_trained_is_refused():
    with pytest.raises(TypeError, match="Train one, draws = ppl.sample"):
        IndependenceMetropolis(samplers.GaussianVI())


def numpyro_normal():
    import numpyro.distributions as dist

    return dist.Normal(0.0, 1.0)
