"""HMC leaves its targets invariant; trajectories have the length asked for."""

from functools import cache, partial
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from blackjax.mcmc import hmc as blackjax_hmc
from jax import random

import ppl
from agreement import Reference, disagreements
from chains import agrees, banana, gaussian, run, scores
from samplers.mcmc import hmc
from samplers.mcmc.hmc import HMC
from samplers.mcmc.metrics import Dense, Diagonal, Identity, LowRank

# Compiling takes longer than running here.
pytestmark = pytest.mark.usefixtures("unoptimized")

COVARIANCE = np.array([[1.0, 1.4, 0.35], [1.4, 4.0, 0.7], [0.35, 0.7, 0.25]])
FACTOR = np.linalg.cholesky(COVARIANCE) @ np.linalg.qr(np.arange(9.0).reshape(3, 3) + np.eye(3))[0]
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


@cache
def correlated():
    return gaussian([1.0, 2.0, 0.5], 0.7)


@pytest.mark.parametrize(
    "metric", ["identity", "dense", *(pytest.param(n, marks=pytest.mark.slow) for n in REST)]
)
def test_hmc_leaves_a_correlated_gaussian_invariant(metric):
    assert agrees(scores(HMC(step_size=0.6, metric=METRICS[metric], num_steps=3), correlated()))


def test_hmc_leaves_a_gaussian_invariant_in_double_precision(x64):
    known = gaussian([1.0, 2.0, 0.5], 0.7)
    assert known.target.template.dtype == jnp.float64
    assert agrees(scores(HMC(step_size=0.9, metric=Dense(FACTOR)), known))


def test_hmc_leaves_a_nested_banana_invariant():
    assert agrees(scores(HMC(step_size=0.3), banana()))


def test_accepting_everything_is_caught(monkeypatch):
    def always(rng_key, log_p_accept, current, proposed):
        return proposed, (jnp.bool_(True), jnp.float32(1), None)

    proposal = partial(blackjax_hmc.hmc_proposal, sample_proposal=always)
    build = partial(blackjax_hmc.build_kernel, build_proposal=proposal)
    broken = SimpleNamespace(build_kernel=build, HMCState=blackjax_hmc.HMCState)
    monkeypatch.setattr(hmc, "hmc", broken)
    kernel = HMC(step_size=0.6, metric=METRICS["identity"], num_steps=3)
    assert not agrees(scores(kernel, correlated(), variant="always"))


def test_a_factor_that_is_not_transposed_is_caught(monkeypatch):
    """Right in law, as every volume-preserving reversible map with this test; useless in speed."""
    kernel = HMC(step_size=0.6, metric=METRICS["dense"], num_steps=3).resolve(correlated().target)
    start = correlated().sample(random.key(0), 256)
    _, right = run(kernel, correlated().target, random.key(1), start, 200)
    monkeypatch.setattr(Dense, "scale_transposed", lambda metric, g: metric.factor @ g)
    _, wrong = run(kernel, correlated().target, random.key(1), start, 200, "not transposed")
    assert np.mean(right.acceptance_rate) > 0.9
    assert np.mean(wrong.acceptance_rate) < 0.7


def test_a_metric_that_makes_the_target_round_is_as_good_as_a_round_target():
    """In z, x = A z, the chain is the one of the identity on the standard normal."""
    round_ = ppl.from_log_density(lambda z: -0.5 * jnp.sum(z**2), jnp.zeros(3))
    start = jnp.ones((2, 3))
    z, _ = run(HMC(step_size=0.5, metric=Identity()), round_, random.key(0), start, 100)
    kernel = HMC(step_size=0.5, metric=Dense(FACTOR)).resolve(correlated().target)
    x, _ = run(kernel, correlated().target, random.key(0), start @ FACTOR.T, 100)
    np.testing.assert_allclose(x, z @ FACTOR.T, atol=2e-3)


# The whole run ----------------------------------------------------------------------------------

SIZES = {"num_samples": 1000, "num_chains": 4, "num_warmup": 300, "progress": False}


WALL = -1.5  # in standard deviations; below it there is no density


def log_density(x, scale):
    inside = -0.5 * ((x[0] / scale) ** 2 + x[1] ** 2)
    return jnp.where(x[0] > WALL * scale, inside, jnp.nan)


def target(scale):
    return ppl.from_log_density(log_density, jnp.zeros(2), scale)


@pytest.fixture(scope="module")
def draws():
    return ppl.sample(HMC(), target(3.0), rng_key=0, **SIZES)


def test_draws_are_those_of_a_density_that_is_nan_beyond_a_wall(draws):
    assert np.all(draws["x"][..., 0] > 3 * WALL)
    law = scipy.stats.truncnorm(WALL, np.inf, scale=3)
    quantiles = {p: float(law.ppf(p)) for p in (0.05, 0.5, 0.95)}
    truth = {"x0": Reference(law.mean(), law.std(), quantiles), "x1": Reference(0.0, 1.0)}
    values = {"x0": draws["x"][..., 0], "x1": draws["x"][..., 1]}
    assert disagreements(values, truth, num_checks=200) == []
    rejected = ~draws.stats["is_accepted"]
    assert draws.stats["diverging"].any()
    assert np.all(rejected[draws.stats["diverging"]])
    assert np.all(np.isfinite(draws.stats["energy"]))


def test_energy_is_that_of_the_state_that_was_chosen(draws):
    """Two momenta, hence a kinetic energy of 1 on average; a rejected end would show more."""
    kinetic = draws.stats["energy"] + draws.stats["lp"]
    assert np.all(kinetic > -1e-4)
    accepted = draws.stats["is_accepted"]
    assert np.mean(kinetic[accepted]) < 1.3


def test_trajectories_last_as_long_as_asked_and_every_step_is_counted(draws):
    step_size, steps = draws.stats["step_size"], draws.stats["n_steps"]
    np.testing.assert_allclose(steps * step_size, np.pi / 2, rtol=1e-5)
    assert np.all(step_size <= draws.sampler.step_size)
    assert draws.run.evaluations["sample"] == [steps.sum(), steps.sum()]


def test_a_new_length_and_new_data_compile_nothing(draws, compilations):
    with compilations() as count:
        again = ppl.sample(HMC(trajectory_length=3.0), target(0.5), rng_key=1, **SIZES)
    assert count.compilations == 0
    assert again.stats["n_steps"].mean() > draws.stats["n_steps"].mean()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"step_size": 0.0}, r"step_size must be a positive number; got 0\.0"),
        ({"num_steps": 0}, "num_steps must be an integer, at least 1; got 0"),
        ({"trajectory_length": -1.0}, "trajectory_length must be a positive number"),
        ({"metric": "dense"}, r"metric must be an object such as Diagonal\(\).*got 'dense'"),
    ],
)
def test_refusals_say_what_was_got(options, message):
    with pytest.raises(ValueError, match=message):
        HMC(**options)
