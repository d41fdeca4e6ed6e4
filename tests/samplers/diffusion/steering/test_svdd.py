"""SVDD is biased by 1 / M with the soft value; nested, with weights, it is not, for any value."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import random

import ppl
import samplers as s
import two_modes
from agreement import t_limit, t_scores

pytestmark = pytest.mark.usefixtures("unoptimized")

RUNS = 32
LIMIT = t_limit(60, RUNS - 1)
PATH = s.VPLinear(beta_min=0.01, beta_max=12.0)
TRUTH = two_modes.TILTS["reward"][2]


class SoftValue:
    """Log E[exp(r(x_0)) | y] for r = -(x - 1)^2 / 2, in closed form."""

    def __call__(self, y, sigma):
        log_shares, means, variances = two_modes.prior().denoiser.given(y, sigma)
        square = jnp.sum((means - 1) ** 2, axis=1)
        return jax.nn.logsumexp(
            log_shares - jnp.log1p(variances) / 2 - square / (2 * (1 + variances))
        )


SOFT = SoftValue()


def found(sampler, n=300, num_runs=RUNS):
    target = two_modes.tilted("reward", PATH)
    model = sampler.resolve(target).on_levels(target)
    return two_modes.runs(random.key(0), model, n, num_runs)


def make(kind, num_candidates, num_steps=20, **options):
    return kind(
        num_candidates=num_candidates, num_steps=num_steps, solver=s.ExactReverse(),
        schedule=s.TimeUniform(), **options,
    )  # fmt: skip


# SVDD -------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_with_one_candidate_it_is_the_prior():
    prior = two_modes.truth(two_modes.G1)
    assert np.all(np.abs(two_modes.scores(found(make(s.SVDD, 1)), prior)[:3]) < LIMIT)


@pytest.mark.slow
def test_its_error_falls_as_one_over_the_number_of_candidates():
    errors = {}
    for m in (5, 20):
        summary = found(make(s.SVDD, m, 100, value=SOFT), n=1000)
        columns = np.stack([np.asarray(x, np.float64) for x in summary[:3]], axis=1)
        errors[m] = columns - np.asarray(TRUTH[:3])
        assert np.max(np.abs(t_scores(columns, TRUTH[:3]))) > LIMIT
    # M times the error is the same, in each of the three; but for what is of second order.
    ratio = errors[20].mean(0) / errors[5].mean(0)
    noise = errors[20].std(0, ddof=1) / np.sqrt(RUNS) / np.abs(errors[5].mean(0))
    assert np.all(np.abs(ratio - 0.25) < LIMIT * noise + 0.05), (ratio, noise)


# Nested -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value", [None, pytest.param(SOFT, marks=pytest.mark.slow)], ids=["denoised", "soft"]
)
def test_nested_it_is_the_tilted_law_and_z_is_unbiased(value):
    nested = make(s.NestedSVDD, 3, value=value)
    assert np.all(np.abs(two_modes.scores(found(nested), TRUTH)) < LIMIT)


def test_without_the_weights_it_is_not():
    assert np.max(np.abs(two_modes.scores(found(make(s.SVDD, 3)), TRUTH)[:3])) > LIMIT


@pytest.mark.slow
def test_a_run_counts_all_candidates_and_a_biased_one_has_no_weights():
    target = two_modes.tilted("reward", PATH)
    sampler = make(s.SVDD, 4, 5, num_particles=8)
    draws = ppl.sample(sampler, target, progress=False)
    assert draws.num_evaluations == (8 * 4 * 6, 8 * 4 * 6)
    assert draws.log_weights is None
    assert draws.log_evidence is None


def test_a_solver_without_noise_is_refused():
    with pytest.raises(
        ValueError, match=r"adds no noise, so that copies of a particle of SVDD nev"
    ):
        ppl.sample(s.SVDD(solver=s.DDIM()), two_modes.tilted("reward"), progress=False)
