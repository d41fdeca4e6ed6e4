"""MEADS leaves targets invariant, reads its parameters off the chains, and asks for many."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import random

import ppl
import samplers
from agreement import Reference, disagreements
from chains import agrees, banana, gaussian, run, scores
from posteriordb import LIMIT, largest, load, z_scores
from samplers.mcmc import meads
from samplers.mcmc.meads import largest_eigenvalue, slice_test

pytestmark = pytest.mark.usefixtures("unoptimized")


def kernel(step_size, damping=1.0):
    return samplers.MEADS(metric=samplers.Identity(), step_size=step_size, damping=damping)


def test_meads_leaves_a_gaussian_and_a_banana_invariant():
    assert agrees(scores(kernel(0.6), gaussian([1.0, 0.6], 0.5)))
    assert agrees(scores(kernel(0.25), banana()))


def test_a_momentum_that_is_not_turned_around_is_caught(monkeypatch):
    """Without the flip at a rejection the chain is not reversible in the extended space."""

    def unflipped(level, log_ratio, current, proposed):
        chosen, info = slice_test(level, log_ratio, current, proposed)
        momentum = jnp.where(info[0], chosen.momentum, -chosen.momentum)
        return chosen._replace(momentum=momentum), info

    monkeypatch.setattr(meads, "slice_test", unflipped)
    assert not agrees(scores(kernel(0.9, 0.2), gaussian([1.0, 0.6], 0.5), variant="no flip"))


def test_the_slice_is_uniform_and_survives_a_ratio_that_underflows():
    level, current, proposed = jnp.asarray(0.5), jnp.zeros(2), jnp.ones(2)
    chosen, (is_accepted, rate, after) = slice_test(level, jnp.asarray(-1e4), current, proposed)
    assert not is_accepted
    assert rate == 0
    assert after == 0.5
    np.testing.assert_array_equal(chosen, current)
    chosen, (is_accepted, rate, after) = slice_test(level, jnp.log(0.8), current, proposed)
    assert is_accepted
    assert after == pytest.approx(0.625)
    known = gaussian([1.0, 0.6], 0.5)
    target = known.target
    states = jax.vmap(kernel(0.8).resolve(target).init, (0, None, 0))(
        random.split(random.key(0), 500), target, known.sample(random.key(1), 500)
    )
    assert abs(float(states.slice.mean())) < 4.9 / np.sqrt(3 * 500)


def test_rejections_come_in_clusters():
    """The slice variable persists, so that acceptance is correlated from step to step."""
    known = gaussian([1.0, 0.6], 0.5)
    chain = kernel(1.0, 0.3).resolve(known.target)
    _, info = run(chain, known.target, random.key(0), known.sample(random.key(1), 256), 300)
    taken = np.asarray(info.is_accepted, float)
    assert 0.3 < taken.mean() < 0.99
    together = np.mean(taken[1:] * taken[:-1]) - taken.mean() ** 2
    assert together > 5 * taken.var() / np.sqrt(taken.size)


def test_the_largest_eigenvalue_is_estimated_without_bias():
    scales = np.array([3.0, 1.0, 1.0])
    rows = scales * np.random.default_rng(0).normal(size=(400, 3))
    truth = np.sum(scales**4) / np.sum(scales**2)
    assert float(largest_eigenvalue(jnp.asarray(rows))) == pytest.approx(truth, rel=0.15)
    half = rows[:8]  # few rows: the naive ratio would be far too large
    estimates = [float(largest_eigenvalue(jnp.asarray(rows[i : i + 8]))) for i in range(0, 400, 8)]
    assert np.mean(estimates) < 1.3 * truth
    assert len(half) == 8


SCALES = np.array([1.0, 0.01, 100.0, 1.0, 5.0])
MEAN = np.array([0.5, 0.0, 30.0, -1.0, 2.0])
TARGET = ppl.from_log_density(
    lambda x, m, s: -0.5 * jnp.sum(((x - m) / s) ** 2), jnp.zeros(5), MEAN, SCALES
)


@pytest.fixture(scope="module")
def draws():
    return ppl.sample(samplers.MEADS(), TARGET, num_warmup=600, num_samples=500, progress=False)


@pytest.mark.slow
def test_warm_up_reads_the_parameters_off_a_round_target_and_the_draws_are_right(draws):
    """Where the metric has made the target round all eigenvalues are one."""
    assert draws.num_chains == 128
    assert float(draws.sampler.step_size) == pytest.approx(0.5, rel=0.15)
    assert float(draws.sampler.damping) == pytest.approx(1.0, rel=0.2)
    values = {f"x{i}": draws["x"][..., i] for i in range(5)}
    truth = {f"x{i}": Reference(MEAN[i], SCALES[i], {0.5: MEAN[i]}) for i in range(5)}
    assert disagreements(values, truth, r_hat=1.03) == []
    assert "standing" not in draws.stats


def test_a_draw_costs_one_gradient(draws):
    assert draws.run.evaluations["sample"] == [128 * 500, 128 * 500]


def test_new_data_compile_nothing(draws, compilations):
    other = ppl.from_log_density(TARGET.fn, jnp.zeros(5), MEAN + 1, SCALES * 2)
    with compilations() as count:
        ppl.sample(samplers.MEADS(), other, num_warmup=600, num_samples=500, progress=False)
    assert count.compiled == []


def test_few_chains_are_refused_with_what_to_write():
    with pytest.raises(ValueError, match=r"at least; got num_chains=4\. Write num_chains=128"):
        ppl.sample(samplers.MEADS(), TARGET, num_chains=4)


@pytest.mark.slow
def test_eight_schools_agrees_with_its_reference():
    module, data, reference = load("eight_schools-eight_schools_noncentered")
    target = ppl.from_numpyro(module.model, **data)
    draws = ppl.sample(samplers.MEADS(), target, progress=False)
    z, name, check = largest(z_scores(draws.values, reference))
    assert z < LIMIT, (name, check)
