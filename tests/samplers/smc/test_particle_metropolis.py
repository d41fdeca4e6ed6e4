"""Particle Metropolis and particle Gibbs, against a grid of Kalman likelihoods."""

from functools import cache

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from jax import random

import ppl
import samplers
from agreement import Reference, disagreements
from kalman import Linear, kalman
from ppl.energy import TargetError
from samplers.smc import feynman_kac as fk
from samplers.smc import particle_metropolis
from samplers.smc.conditional import ConditionalSMC
from samplers.smc.particle_metropolis import ParticleMetropolis
from samplers.smc.state_space import Filtering

pytestmark = pytest.mark.usefixtures("unoptimized")

NOISE = 0.6
Y = np.array([0.4, 1.3, 0.2, 0.9, -0.6, -0.2, 0.1, 0.8, 1.4, 1.1])


def prior():
    numpyro.sample("a", dist.Normal(0.5, 0.5))
    numpyro.sample("s", dist.LogNormal(-0.7, 0.5))


def model(parameters, y):
    return ppl.StateSpaceModel(
        lambda p: dist.Normal(0.0, 1.0),
        lambda t, x, p: dist.Normal(p["a"] * x, p["s"]),
        lambda t, x, p: dist.Normal(x, NOISE),
        y,
        parameters,
    )


TARGET = ppl.StateSpacePosterior(prior, model, Y)


@cache
def truth():
    """Means and sds of the parameters and of three states, on a grid of parameters."""
    one = np.eye(1)
    cells, log_weights, rows = [], [], []
    for a in np.linspace(-1.6, 2.6, 22):
        for log_s in np.linspace(-3.0, 1.4, 23):
            linear = Linear(np.zeros(1), one, a * one, np.exp(2 * log_s) * one, one, NOISE**2 * one)
            found = kalman(linear, Y[:, None])
            log_prior = -0.5 * ((a - 0.5) / 0.5) ** 2 - 0.5 * ((log_s + 0.7) / 0.5) ** 2
            log_weights.append(log_prior + found.log_likelihood)
            mean, cov = found.mean[[0, 5, 9], 0], found.cov[[0, 5, 9], 0, 0]
            cells.append([a, log_s, *mean])
            rows.append([a**2, log_s**2, *(mean**2 + cov)])
    weights = np.exp(np.array(log_weights) - max(log_weights))
    weights /= weights.sum()
    means = weights @ np.array(cells)
    sds = np.sqrt(weights @ np.array(rows) - means**2)
    names = ("a", "log s", "x0", "x5", "x9")
    return {n: Reference(m, s) for n, m, s in zip(names, means, sds, strict=True)}


def beyond(kernel, *, num_chains=4, num_samples=4000, ess=300):
    draws = ppl.sample(
        kernel, TARGET, num_chains=num_chains, num_samples=num_samples, num_warmup=500,
        progress=False,
    )  # fmt: skip
    values = {"a": draws["a"], "log s": np.log(draws["s"])}
    values |= {f"x{t}": draws["x"][..., t] for t in (0, 5, 9)}
    return disagreements(values, truth(), r_hat=1.02, ess=ess, num_checks=100), draws


@pytest.fixture(scope="module")
def metropolis():
    return beyond(ParticleMetropolis(num_particles=30))


def test_parameters_and_path_are_those_of_the_grid(metropolis):
    found, _ = metropolis
    assert found == []


def test_warm_up_learns_the_covariance_of_the_parameters(metropolis):
    _, draws = metropolis
    assert draws.stats["is_accepted"].mean() == pytest.approx(0.15, abs=0.05)
    factor = np.asarray(draws.sampler.metric.factor, float)
    a, log_s = draws["a"].ravel(), np.log(draws["s"]).ravel()
    expected = np.cov(a, log_s)
    assert np.abs(factor @ factor.T / np.sqrt(np.outer(*[np.diag(expected)] * 2))).max() < 2.5
    np.testing.assert_array_less(0.4, np.diag(factor @ factor.T) / np.diag(expected))


@pytest.mark.slow
def test_the_estimate_is_kept_between_acceptances(metropolis):
    _, draws = metropolis
    stays = ~draws.stats["is_accepted"][:, 1:]
    estimates = draws.stats["log_likelihood"]
    np.testing.assert_array_equal(estimates[:, 1:][stays], estimates[:, :-1][stays])
    assert (draws["x"][:, 1:][stays] == draws["x"][:, :-1][stays]).all()


def test_without_the_prior_of_the_parameters_it_is_caught(monkeypatch):
    right = particle_metropolis.accept

    def without(rng_key, log_ratio, proposed, current):
        return right(rng_key, log_ratio - proposed.log_prior + current.log_prior, proposed, current)

    monkeypatch.setattr(particle_metropolis, "accept", without)
    # Another number of chains: else the program compiled before would run.
    found, _ = beyond(ParticleMetropolis(num_particles=30), num_chains=5, num_samples=1000, ess=20)
    assert any("z of the" in line for line in found)


@pytest.mark.slow  # 60 seconds
def test_an_estimate_that_is_made_anew_at_every_step_is_caught(monkeypatch):
    right = ParticleMetropolis.step

    def refreshed(self, rng_key, target, state):
        model, _ = target.state_space(state.position)
        filtering = Filtering(model)
        key = random.fold_in(rng_key, 1)
        run = fk.run(key, filtering, filtering.rows, self.num_particles, fk.Resampler())
        return right(self, rng_key, target, state._replace(log_likelihood=run.log_evidence))

    assert beyond(ParticleMetropolis(num_particles=5), num_samples=20_000)[0] == []
    monkeypatch.setattr(ParticleMetropolis, "step", refreshed)
    found, _ = beyond(ParticleMetropolis(num_particles=5), num_chains=6)
    assert any("z of the" in line for line in found)


@pytest.mark.slow
def test_particle_gibbs_finds_the_same():
    kernel = samplers.Gibbs({"parameters": samplers.RandomWalk(), "path": ConditionalSMC(10)})
    found, draws = beyond(kernel, num_samples=8000, ess=200)
    assert found == []
    assert draws.stats["block_acceptance"][..., 1].mean() > 0.7


@pytest.mark.slow
def test_a_simulator_will_do():
    """The same model, whose transitions can only be drawn."""

    def blind(parameters, y):
        return ppl.StateSpaceModel(
            lambda p: dist.Normal(0.0, 1.0),
            lambda t, x, p: lambda key: p["a"] * x + p["s"] * random.normal(key),
            lambda t, x, p: dist.Normal(x, NOISE),
            y,
            parameters,
        )

    target = ppl.StateSpacePosterior(prior, blind, Y)
    assert "log_density" not in target.offers
    kernel = ParticleMetropolis(num_particles=30)
    draws = ppl.sample(kernel, target, num_samples=2000, num_warmup=500, progress=False)
    values = {"a": draws["a"], "log s": np.log(draws["s"])}
    known = {name: truth()[name] for name in values}
    assert disagreements(values, known, r_hat=1.03, ess=100, num_checks=100) == []


def test_a_likelihood_that_is_nan_is_a_rejection_and_particles_that_die_are_counted():
    def deadly(parameters, y):
        return ppl.StateSpaceModel(
            lambda p: dist.Normal(0.0, 1.0),
            lambda t, x, p: dist.Normal(x, 1.0),
            lambda t, x, p: lambda y: jnp.where((x < 0) | (p > 0.5), jnp.nan, -((x - y) ** 2)),
            y,
            parameters,
        )

    target = ppl.StateSpacePosterior(dist.Normal(0.0, 1.0), deadly, np.array([0.5, 1.0]))
    start = {"parameters": jnp.zeros(()), "path": jnp.array([0.5, 1.0])}
    kernel = ParticleMetropolis(num_particles=20)
    draws = ppl.sample(kernel, target, num_samples=200, num_warmup=50, init=start, progress=False)
    assert (draws["parameters"] <= 0.5).all()
    assert (draws["x"] >= 0).all()
    assert draws.stats["num_illegal"].max() == 40
    assert np.isfinite(draws.stats["log_likelihood"]).all()


def test_what_has_no_parameters_is_refused():
    with pytest.raises(TargetError, match=r"moves parameters that have a prior.*StateSpaceModel"):
        ppl.sample(ParticleMetropolis(), TARGET.at({"a": 0.5, "s": 1.0}))
    with pytest.raises(ValueError, match="num_particles must be an integer, at least 2; got 1"):
        ParticleMetropolis(num_particles=1)
