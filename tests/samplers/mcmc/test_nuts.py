"""NUTS leaves its targets invariant, with every metric; its warm-up finds scale and shape."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from arviz_stats.base import array_stats
from jax import random

import ppl
from agreement import Reference, disagreements
from chains import agrees, banana, gaussian, run, scores
from samplers.mcmc import nuts
from samplers.mcmc.metrics import Dense, Diagonal, Identity, LowRank
from samplers.mcmc.nuts import NUTS

COVARIANCE = np.array([[1.0, 1.4, 0.35], [1.4, 4.0, 0.7], [0.35, 0.7, 0.25]])
FACTOR = np.linalg.cholesky(COVARIANCE) @ np.linalg.qr(np.arange(9.0).reshape(3, 3) + np.eye(3))[0]


@cache
def correlated():
    return gaussian([1.0, 2.0, 0.5], 0.7)


# Compiling takes longer than running here.
pytestmark = pytest.mark.usefixtures("unoptimized")

# Invariance -------------------------------------------------------------------------------------

METRICS = {
    "identity": Identity(),
    "diagonal": Diagonal([1.0, 2.0, 0.5]),
    "dense": Dense(FACTOR),
    "low rank": LowRank(
        rank=1,
        scales=np.array([1.0, 2.0, 0.5]),
        directions=np.full((3, 1), 3**-0.5),
        stretches=np.array([1.5]),
    ),
}
REST = ("diagonal", "low rank")  # their factors: test_metrics.py


@pytest.mark.parametrize(
    "metric", ["identity", "dense", *(pytest.param(n, marks=pytest.mark.slow) for n in REST)]
)
def test_nuts_leaves_a_correlated_gaussian_invariant(metric):
    kernel = NUTS(step_size=0.5, metric=METRICS[metric], max_tree_depth=4)
    assert agrees(scores(kernel, correlated(), num_steps=50))


def test_nuts_leaves_a_gaussian_invariant_in_double_precision(x64):
    known = gaussian([1.0, 2.0, 0.5], 0.7)
    kernel = NUTS(step_size=0.7, metric=Dense(FACTOR), max_tree_depth=4)
    found = scores(kernel, known, num_steps=50)
    assert known.target.template.dtype == jnp.float64
    assert agrees(found)


def test_nuts_leaves_a_nested_banana_invariant():
    assert agrees(scores(NUTS(step_size=0.3, max_tree_depth=5), banana(), num_steps=50))


def test_momenta_of_the_wrong_temperature_are_caught(monkeypatch):
    monkeypatch.setattr(nuts, "kinetic_energy", lambda p, position=None: 0.6 * p @ p)
    kernel = NUTS(step_size=0.5, metric=METRICS["dense"], max_tree_depth=4)
    assert not agrees(scores(kernel, correlated(), num_steps=50, variant="hot"))


def test_a_factor_that_is_not_transposed_is_caught(monkeypatch):
    """The kick then is no gradient in z: volume is conserved, energy is not. The tree weighs its
    states by energy, so the law stays right; what is lost is the speed."""
    kernel = NUTS(step_size=0.5, metric=METRICS["dense"], max_tree_depth=4)
    kernel, start = kernel.resolve(correlated().target), correlated().sample(random.key(0), 256)
    _, right = run(kernel, correlated().target, random.key(1), start, 50)
    monkeypatch.setattr(Dense, "scale_transposed", lambda metric, g: metric.factor @ g)
    _, wrong = run(kernel, correlated().target, random.key(1), start, 50, "not transposed")
    assert np.mean(right.acceptance_rate) > 0.9
    assert np.mean(wrong.acceptance_rate) < 0.7


# The whole run ----------------------------------------------------------------------------------


def log_density(p, precision):
    x = jnp.concatenate([p["a"][None], p["b"]])
    return -0.5 * x @ precision @ x


SIZES = {"num_samples": 1000, "num_chains": 4, "num_warmup": 300, "progress": False}


def target(covariance=COVARIANCE):
    template = {"a": jnp.zeros(()), "b": jnp.zeros(2)}
    return ppl.from_log_density(log_density, template, np.linalg.inv(covariance))


@pytest.fixture(scope="module")
def draws():
    return ppl.sample(NUTS(), target(), rng_key=0, **SIZES)


def test_draws_are_those_of_the_target(draws):
    quantiles = {0.05: -1.6448536, 0.5: 0.0, 0.95: 1.6448536}
    sds = np.sqrt(np.diag(COVARIANCE))
    values = {"a": draws["a"], "b0": draws["b"][..., 0], "b1": draws["b"][..., 1]}
    references = {
        name: Reference(0.0, sd, {p: q * sd for p, q in quantiles.items()})
        for name, sd in zip(values, sds, strict=True)
    }
    assert disagreements(values, references, num_checks=200) == []


def test_warm_up_finds_the_covariance_and_the_acceptance_asked_for(draws):
    factor = np.asarray(draws.sampler.metric.factor, np.float64)
    np.testing.assert_allclose(factor @ factor.T, COVARIANCE, rtol=0.05, atol=0.01)
    assert abs(np.mean(draws.stats["acceptance_rate"]) - 0.8) < 0.08


def test_stats_bear_the_names_arviz_looks_for_and_count_gradients(draws):
    expected = {
        "acceptance_rate", "diverging", "energy", "tree_depth", "n_steps", "step_size",
        "reached_max_treedepth", "lp",
    }  # fmt: skip
    assert expected <= set(draws.stats)
    assert all(draws.stats[name].shape == (4, 1000) for name in expected)
    steps = draws.stats["n_steps"]
    assert draws.run.evaluations["sample"] == [steps.sum(), steps.sum()]
    assert np.all(steps <= 2.0 ** draws.stats["tree_depth"] - 1)
    assert np.all(steps >= 2.0 ** (draws.stats["tree_depth"] - 1))
    # H = potential + kinetic energy; three momenta, hence 3/2 on average, whatever the metric.
    kinetic = draws.stats["energy"] + draws.stats["lp"]
    assert abs(kinetic.mean() - 1.5) < 0.1


def test_new_data_and_a_new_step_size_compile_nothing(draws, compilations):
    with compilations() as count:
        ppl.sample(NUTS(step_size=0.3), target(2 * COVARIANCE), rng_key=1, **SIZES)
    assert count.compilations == 0


@pytest.mark.parametrize("step_size", [1e-6, 1e6, 1e30])
def test_any_first_step_size_is_corrected(draws, step_size):
    again = ppl.sample(NUTS(step_size=step_size), target(), rng_key=2, **SIZES)
    assert np.all(np.isfinite(again["b"]))
    np.testing.assert_allclose(again.sampler.step_size, draws.sampler.step_size, rtol=0.3)


@pytest.mark.parametrize("scale", [1e-4, 1e4])
def test_any_scale_is_found(draws, scale):
    again = ppl.sample(NUTS(), target(scale**2 * COVARIANCE), rng_key=3, **SIZES)
    np.testing.assert_allclose(np.std(again["a"]), scale, rtol=0.1)
    assert np.mean(again.stats["n_steps"]) < 2 * np.mean(draws.stats["n_steps"])


@pytest.mark.parametrize("num_warmup", [1, 5, 20, 50])
def test_a_short_warm_up_does_what_it_can(draws, num_warmup):
    again = ppl.sample(NUTS(), target(), rng_key=4, **(SIZES | {"num_warmup": num_warmup}))
    assert np.all(np.isfinite(again["b"]))
    assert array_stats.rhat(again["a"]) < 1.05


def test_without_warm_up_the_users_values_stay():
    kernel = NUTS(step_size=0.25, metric=Diagonal([1.0, 2.0, 0.5]), max_tree_depth=3)
    again = ppl.sample(kernel, target(), rng_key=5, **(SIZES | {"num_warmup": 0}))
    np.testing.assert_array_equal(again.sampler.step_size, np.float32(0.25))
    np.testing.assert_array_equal(again.sampler.metric.scales, np.float32([1.0, 2.0, 0.5]))
    np.testing.assert_array_equal(again.stats["step_size"], np.float32(0.25))
    # At this step size some trees stop because they may not grow on, and say so.
    stopped = again.stats["reached_max_treedepth"]
    assert 0 < stopped.mean() < 1
    assert np.all(again.stats["n_steps"][stopped] == 7)


def test_a_window_with_fewer_draws_than_dimensions_does_not_stick():
    """Sixty dimensions, one chain, forty steps of warm-up."""
    scales = np.logspace(-1, 1, 60)
    wide = ppl.from_log_density(lambda x, s: -0.5 * jnp.sum((x / s) ** 2), jnp.zeros(60), scales)
    again = ppl.sample(NUTS(), wide, 0, 200, 1, 40, progress=False)
    assert np.mean(again.stats["acceptance_rate"]) > 0.5
    moved = np.abs(np.diff(again["x"][0], axis=0)) / scales
    assert np.all(moved.mean(axis=0) > 0.1)


def test_where_the_density_is_nan_or_infinite_there_are_no_draws():
    """Half of space is no density at all; the law of the other half is a half-normal."""

    def half(x):
        nowhere = jnp.where(x[1] > 0, jnp.nan, jnp.inf)
        return jnp.where(x[0] > 0, -0.5 * jnp.sum(x**2), nowhere)

    known = ppl.from_log_density(half, jnp.zeros(2))
    sizes = SIZES | {"num_samples": 4000}
    again = ppl.sample(NUTS(max_tree_depth=5), known, rng_key=6, **sizes)
    assert np.all(again["x"][..., 0] > 0)
    assert again.stats["diverging"].any()
    assert np.all(np.isfinite(again.stats["energy"]))
    truth = {"x0": Reference(np.sqrt(2 / np.pi), np.sqrt(1 - 2 / np.pi)), "x1": Reference(0.0, 1.0)}
    values = {"x0": again["x"][..., 0], "x1": again["x"][..., 1]}
    assert disagreements(values, truth, num_checks=200) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"step_size": -1.0}, r"step_size must be a positive number; got -1\.0"),
        ({"target_acceptance": 1.0}, "target_acceptance must be a number between 0 and 1"),
        ({"max_tree_depth": 0}, "max_tree_depth must be an integer, at least 1; got 0"),
        ({"metric": "dense"}, r"metric must be an object such as Diagonal\(\).*got 'dense'"),
    ],
)
def test_refusals_say_what_was_got(options, message):
    with pytest.raises(ValueError, match=message):
        NUTS(**options)


def test_a_metric_of_another_dimension_is_refused_before_compilation():
    with pytest.raises(ValueError, match=r"must have shape \(3,\) for this target; got \(2,\)"):
        ppl.sample(NUTS(metric=Diagonal([1.0, 2.0])), target())


# The figure of the issue ------------------------------------------------------------------------


@pytest.mark.slow
def test_a_rotated_gaussian_of_condition_1e4_is_sampled_as_a_round_one():
    rng = np.random.default_rng(0)
    rotation = np.linalg.qr(rng.normal(size=(100, 100)))[0]
    variances = np.logspace(-4, 0, 100)
    precision = (rotation / variances) @ rotation.T
    hard = ppl.from_log_density(lambda x, p: -0.5 * x @ (p @ x), jnp.zeros(100), precision)
    again = ppl.sample(NUTS(), hard, rng_key=0, progress=False)
    x = np.asarray(again["x"], np.float64)
    ess = min(float(array_stats.ess(x[..., i])) for i in range(100))
    assert 1000 * ess / again.run.evaluations["sample"][1] > 101  # BlackJAX dense: 84 to 101
    assert 1000 * ess / again.num_evaluations[1] > 40  # nutpie low rank: 15
    assert np.all(np.abs(x.mean((0, 1)) @ rotation) / np.sqrt(variances) < 0.1)
    assert jax.tree.leaves(hard.template)[0].dtype == jnp.float32
