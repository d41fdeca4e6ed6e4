"""Pathfinder is exact on Gaussians, covers several modes, and its weights mend the rest."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from blackjax.optimizers.lbfgs import bfgs_sample, lbfgs_inverse_hessian_factors
from jax import random

import ppl
import samplers
from ppl import weights
from ppl.energy import TargetError
from samplers.variational import pathfinder
from samplers.variational.pathfinder import LowRankGaussian, gaussian, push

pytestmark = pytest.mark.usefixtures("unoptimized")


def fit(sampler, target, **sizes):
    return ppl.sample(sampler, target, progress=False, **sizes)


def quadratic(p, mean, precision):
    x = jnp.concatenate([p["a"][None], p["b"]])
    return -0.5 * (x - mean) @ precision @ (x - mean)


TEMPLATE = {"a": jnp.zeros(()), "b": jnp.zeros(2)}
COVARIANCE = np.array([[1, 0.6, 0.2], [0.6, 2, -0.3], [0.2, -0.3, 0.5]])
MEAN = np.array([0.5, -1.0, 2.0])
GAUSSIAN = ppl.from_log_density(quadratic, TEMPLATE, MEAN, np.linalg.inv(COVARIANCE))
LOG_Z = 0.5 * np.linalg.slogdet(2 * np.pi * COVARIANCE)[1]


def test_a_gaussian_is_met_and_its_evidence_is_right():
    draws = fit(samplers.Pathfinder(), GAUSSIAN, num_samples=4000)
    evidence = draws.log_evidence
    assert abs(evidence.value - LOG_Z) < max(5 * evidence.std_error, 1e-3)
    assert evidence.std_error < 0.02
    assert weights.pareto_khat(draws.log_weights.ravel()) < 0.7
    share = np.exp(draws.pooled_log_weights()).ravel()
    x = np.concatenate([draws["a"][..., None], draws["b"]], axis=-1).reshape(-1, 3)
    mean = share @ x
    np.testing.assert_allclose(mean, MEAN, atol=0.12)
    np.testing.assert_allclose((share[:, None] * (x - mean)).T @ (x - mean), COVARIANCE, atol=0.25)
    assert draws.num_evaluations[1] < 1000
    assert draws.run.notes == []


def two_modes(x):
    """0.8 N(0, 1) far on one side, 0.2 N(0, 1/4) on the other: Z = 1."""
    left = jnp.log(0.8) - 0.5 * jnp.sum((x + 4) ** 2) - jnp.log(2 * jnp.pi)
    right = jnp.log(0.2) - 2 * jnp.sum((x - 4) ** 2) - jnp.log(jnp.pi / 2)
    return jnp.logaddexp(left, right)


@pytest.mark.slow
def test_paths_to_two_modes_give_both_with_their_weights():
    target = ppl.from_log_density(two_modes, jnp.zeros(2))
    draws = fit(samplers.Pathfinder(num_paths=16), target, num_samples=20_000)
    share = np.exp(draws.pooled_log_weights())
    assert np.sum(share * (draws["x"][..., 0] > 0)) == pytest.approx(0.2, abs=0.02)
    evidence = draws.log_evidence
    assert abs(evidence.value) < max(5 * evidence.std_error, 1e-3)
    assert evidence.std_error < 0.05


@pytest.mark.slow
def test_weights_of_single_paths_would_count_modes_twice(monkeypatch):
    """With each draw weighed by half of all Gaussians, the evidence is off: it is seen."""
    right = LowRankGaussian.log_density
    monkeypatch.setattr(LowRankGaussian, "log_density", lambda law, x: right(law, x) - jnp.log(2.0))
    draws = fit(samplers.Pathfinder(num_paths=7), GAUSSIAN, num_samples=4000)
    assert draws.log_evidence.value - LOG_Z > 0.5


def inverse_hessian(law):
    rank = law.factor.shape[0]
    middle = law.basis @ (law.factor @ law.factor.T - np.eye(rank)) @ law.basis.T
    return np.asarray(law.scales[:, None] * (np.eye(len(law.mean)) + middle) * law.scales)


def pairs_of(rng, d, number, precision):
    pairs = jnp.zeros((10, d)), jnp.zeros((10, d)), jnp.ones(d)
    steps = rng.normal(size=(number, d))
    for s in steps:
        pairs = push(pairs, jnp.asarray(s, jnp.float32), jnp.asarray(precision @ s, jnp.float32))
    return pairs, steps


@pytest.mark.parametrize(("d", "number"), [(1, 3), (5, 2), (5, 10), (30, 14)])
def test_the_gaussian_keeps_the_secant_equation_and_makes_newtons_step(d, number):
    """``S z = s`` holds for the newest pair, whatever came before."""
    rng = np.random.default_rng(0)
    precision = np.diag(np.linspace(0.5, 3, d))
    pairs, steps = pairs_of(rng, d, number, precision)
    position, gradient = rng.normal(size=(2, d)).astype(np.float32)
    law = gaussian(jnp.asarray(position), jnp.asarray(gradient), *pairs)
    estimate = inverse_hessian(law)
    s = steps[-1]
    np.testing.assert_allclose(estimate @ precision @ s, s, atol=2e-3)
    np.testing.assert_allclose(law.mean, position - estimate @ gradient, atol=2e-3)
    assert np.linalg.eigvalsh(estimate).min() > 0


def test_the_gaussian_is_blackjaxs():
    """Same factors: same densities. Its gradient is that of the log-density."""
    rng = np.random.default_rng(1)
    (steps, changes, diagonal), _ = pairs_of(rng, 4, 10, np.diag([1.0, 2.0, 3.0, 0.5]))
    position, gradient = rng.normal(size=(2, 4)).astype(np.float32)
    law = gaussian(jnp.asarray(position), jnp.asarray(gradient), steps, changes, diagonal)
    beta, gamma = lbfgs_inverse_hessian_factors(steps.T, changes.T, diagonal)
    key = random.key(3)
    x, log_q = bfgs_sample(key, 6, position, -gradient, diagonal, beta, gamma)
    np.testing.assert_allclose(jax.vmap(law.log_density)(x), log_q, atol=1e-3)


def test_draws_have_the_law_they_are_scored_by():
    rng = np.random.default_rng(2)
    pairs, _ = pairs_of(rng, 3, 4, np.diag([1.0, 2.0, 3.0]))
    law = gaussian(jnp.zeros(3), jnp.ones(3), *pairs)
    covariance = inverse_hessian(law)
    noise = jnp.asarray(rng.normal(size=3), jnp.float32)
    x = np.asarray(law.move(noise) - law.mean)
    np.testing.assert_allclose(x @ np.linalg.solve(covariance, x), noise @ noise, rtol=1e-3)
    expected = -0.5 * (noise @ noise) - 0.5 * np.linalg.slogdet(2 * np.pi * covariance)[1]
    np.testing.assert_allclose(law.log_density(law.move(noise)), expected, rtol=1e-4)


def test_a_pair_that_curves_the_wrong_way_is_left_out():
    pairs = jnp.zeros((10, 2)), jnp.zeros((10, 2)), jnp.ones(2)
    same = push(pairs, jnp.ones(2), -jnp.ones(2))
    assert all(np.array_equal(a, b) for a, b in zip(same, pairs, strict=True))


def half(x, edge):
    """No gradient, so no curvature, on the left."""
    return jnp.where(x > edge, -0.5 * (x - 4) ** 2, jnp.where(x < edge - 0.5, -jnp.inf, -8.0))


def with_edge(edge):
    return fit(
        samplers.Pathfinder(max_iterations=30), ppl.from_log_density(half, jnp.zeros(()), edge)
    )


def test_paths_that_find_nothing_are_counted_and_the_rest_makes_the_mixture():
    assert np.isfinite(with_edge(0.0).log_evidence.value)


def test_no_path_at_all_is_refused_with_a_way_out():
    with pytest.raises(TargetError, match=r"none of 8 paths found a Gaussian"):
        with_edge(9.0)


def test_new_data_compile_nothing(compilations):
    sampler = samplers.Pathfinder()
    fit(sampler, GAUSSIAN)
    other = ppl.from_log_density(quadratic, TEMPLATE, MEAN + 1, np.linalg.inv(COVARIANCE) * 2)
    with compilations() as count:
        fit(sampler, other)
    assert count.compiled == []


def test_a_path_remembers_the_best_gaussian_and_stops_at_the_end():
    sampler = samplers.Pathfinder(num_paths=3)

    @eqx.filter_jit
    def follow(target):
        def step(state, t):
            return sampler.step(random.fold_in(random.key(0), t), target, state)

        return jax.lax.scan(step, sampler.init(random.key(1), target), jnp.arange(40))

    state, infos = follow(GAUSSIAN)
    assert bool(sampler.done(state))
    assert np.all(np.diff(infos.elbo) >= 0)
    assert infos.num_evaluations[-1].sum() == 0
    assert infos.elbo[-1] == pytest.approx(LOG_Z, abs=0.05)
    assert pathfinder.MEMORY == 10
