"""Losses are what they say, their minimum is the posterior mean, and a network comes near it."""

from functools import partial
from types import SimpleNamespace

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import random

import ppl
import samplers
import toy_mixture
from ppl.diagnostics.energy_distance import energy_test
from samplers.diffusion import losses
from samplers.diffusion.training import DenoisingDiffusion

pytestmark = pytest.mark.usefixtures("unoptimized")

KINDS = {
    "noise": (samplers.PredictsNoise, samplers.VPLinear()),
    "denoised": (samplers.PredictsDenoised, samplers.VPCosine()),
    "v": (samplers.PredictsV, samplers.VPCosine()),
    "velocity": (samplers.PredictsVelocity, samplers.StraightFlow()),
}
WEIGHTS = {
    "noise": losses.noise_weight,
    "denoised": losses.denoised_weight,
    "v": losses.v_weight,
    "velocity": losses.velocity_weight,
}
small = partial(samplers.MLP, width=8, depth=1)


def data(n=500, seed=0):
    return ppl.from_samples(jnp.asarray(toy_mixture.sample(np.random.default_rng(seed), n), float))


def awake(denoiser):
    return jax.tree.map(lambda w: w + 0.1 if eqx.is_array(w) else w, denoiser)


def batch_of(sampler, target):
    sampler = sampler.resolve(target)
    state = sampler.init(random.key(0), target)
    return sampler, awake(state.denoiser), sampler.batch(random.key(1), target, state.sd), state.sd


# Losses ---------------------------------------------------------------------------------------


def target_of(kind, level, x0, eps):
    """What a network of this kind is trained to return, from the literature."""
    alpha, sigma, alpha_rate, sigma_rate = (value[:, None] for value in level[1:])
    return {
        "noise": eps,
        "denoised": x0,
        "v": alpha * eps - sigma * x0,
        "velocity": alpha_rate * x0 + sigma_rate * eps,
    }[kind]


COSTLY = [pytest.param(kind, marks=pytest.mark.slow) for kind in ("denoised", "velocity")]  # 5 s


@pytest.mark.parametrize("kind", ["noise", "v", *COSTLY])
def test_the_loss_is_least_squares_of_what_the_network_predicts(kind, x64):
    """Value and gradient, with the kind's own weight and with that weight given."""
    predicts, path = KINDS[kind]
    sampler, denoiser, (x0, t, noise, _), sd = batch_of(
        DenoisingDiffusion(small, path, predicts, times=samplers.UniformTime(), num_rows=64), data()
    )
    eps, level = noise[:64], path.level(t)

    def direct(denoiser, sign=1.0):
        x = level.alpha[:, None] * x0 + level.sigma[:, None] * eps
        wanted = target_of(kind, level, x0, sign * eps)
        return jnp.mean((jax.vmap(denoiser.fn)(x, t) - wanted) ** 2)

    right = eqx.filter_jit(eqx.filter_value_and_grad(direct))(denoiser)
    given = eqx.tree_at(lambda s: s.weight, sampler, WEIGHTS[kind], is_leaf=lambda x: x is None)
    for trained in (sampler, given):
        ours = eqx.filter_jit(eqx.filter_value_and_grad(trained.loss))(
            denoiser, x0, t, noise, None, sd
        )
        jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-7, atol=1e-9), ours, right)
    if kind != "denoised":
        assert abs(direct(denoiser, -1.0) - ours[0]) > 0.01  # a sign of v is seen
    other = {**WEIGHTS, "v": losses.noise_weight, "noise": losses.denoised_weight}[kind]
    if other is not WEIGHTS[kind]:
        wrong = eqx.tree_at(lambda s: s.weight, sampler, other, is_leaf=lambda x: x is None)
        assert abs(wrong.loss(denoiser, x0, t, noise, None, sd) / ours[0] - 1) > 0.01


@pytest.mark.slow
def test_the_preconditioned_loss_asks_the_same_of_the_network_at_every_level(x64):
    """Under EDM's weight it is least squares on F, whose target has variance one."""
    target = data(20_000)
    sampler, denoiser, (x0, t, noise, _), sd = batch_of(
        DenoisingDiffusion(small, num_rows=4096), target
    )
    mean, kappa, eps = denoiser.mean - 0.1, t[:, None], noise[:4096]
    denoiser = eqx.tree_at(lambda d: (d.mean, d.sd), denoiser, (mean, sd))
    norm = jnp.sqrt(kappa**2 + sd**2)
    y = x0 + kappa * eps - mean
    wanted = (x0 - mean - sd**2 / norm**2 * y) * norm / (kappa * sd)
    out = jax.vmap(denoiser.network)(y / norm, jnp.log(t / sd) / 4)
    ours = sampler.loss(denoiser, x0, t, noise, None, sd)
    np.testing.assert_allclose(ours, jnp.mean((out - wanted) ** 2), rtol=1e-8)
    low = kappa[:, 0] < jnp.median(kappa)
    np.testing.assert_allclose(np.mean(wanted[low] ** 2), 1, atol=0.1)
    np.testing.assert_allclose(np.mean(wanted[~low] ** 2), 1, atol=0.1)


def test_perturbed_input_has_the_known_minimum(x64):
    """On Gaussian data the minimum is linear in x, with a slope that the hidden noise lowers."""
    target = ppl.from_samples(2.0 * random.normal(random.key(7), (100_000, 1)))
    s2, k2, gamma = float(jnp.var(target.rows)), 9.0, 0.5
    at = SimpleNamespace(draw=lambda key, n, path, sd: jnp.full(n, 3.0))
    sampler = DenoisingDiffusion(
        small, predicts=samplers.PredictsDenoised, num_rows=4096, perturbation=gamma
    ).resolve(target)
    sampler = eqx.tree_at(lambda s: s.times, sampler, at)

    @jax.jit
    def slopes(key, a):
        x0, t, noise, _ = sampler.batch(key, target, jnp.array(2.0))
        loss = lambda a: sampler.loss(
            samplers.PredictsDenoised(lambda x, t: a * x), x0, t, noise, None, jnp.array(2.0)
        )
        return jax.grad(loss)(a)

    def score(a):
        found = jax.lax.map(lambda key: slopes(key, a), random.split(random.key(1), 64))
        return float(jnp.mean(found) / (jnp.std(found) / 8))

    assert abs(score((s2 + k2 * gamma**2) / (s2 + k2 * (1 + gamma**2)))) < 4
    assert abs(score(s2 / (s2 + k2))) > 8  # as if the hidden noise were not there
    assert abs(score(s2 / (s2 + k2 * (1 + gamma**2)))) > 8  # as if it were told of


# Training -------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_average_is_the_weighed_sum_of_all_networks():
    target = data()
    sampler = DenoisingDiffusion(small, num_rows=16, ema_decay=0.3, learning_rate=0.1)
    sampler = sampler.resolve(target)
    state, seen = sampler.init(random.key(0), target), []
    step = eqx.filter_jit(sampler.step)
    seen.append(state.denoiser)
    for k in range(6):
        state, info = step(random.key(k), target, state)
        seen.append(state.denoiser)
        assert not info.diverging
    keep = [min(0.3, (1 + k) / (10 + k)) for k in range(6)]
    shares = [np.prod(keep)] + [(1 - b) * np.prod(keep[k + 1 :]) for k, b in enumerate(keep)]
    np.testing.assert_allclose(sum(shares), 1)
    arrays = [jax.tree.leaves(eqx.filter(d, eqx.is_inexact_array)) for d in seen]
    for average, *each in zip(
        jax.tree.leaves(eqx.filter(state.average, eqx.is_inexact_array)), *arrays, strict=True
    ):
        expected = sum(a * np.asarray(w, float) for a, w in zip(shares, each, strict=True))
        np.testing.assert_allclose(average, expected, rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(state.average.mean, state.denoiser.mean)


@eqx.filter_jit
def train(sampler, target, rng_key):
    state = sampler.init(rng_key, target)
    arrays, rest = eqx.partition(state, eqx.is_array)

    def step(arrays, t):
        state, info = sampler.step(random.fold_in(rng_key, t), target, eqx.combine(arrays, rest))
        return eqx.filter(state, eqx.is_array), info.loss

    arrays, losses = jax.lax.scan(step, arrays, jnp.arange(sampler.num_updates))
    return eqx.combine(arrays, rest), losses


def excess(denoise, kappa, n=4000):
    """E|D - D*|^2 / E|x_0 - D*|^2 at a level: what a denoiser has not learned."""
    rng = np.random.default_rng(5)
    x0 = toy_mixture.sample(rng, n)
    y = x0 + kappa * rng.normal(size=x0.shape)
    exact = toy_mixture.denoise_many(y, kappa)
    found = jax.jit(jax.vmap(lambda y: denoise(y, kappa)))(jnp.asarray(y, jnp.float32))
    return np.sum((found - exact) ** 2) / np.sum((x0 - exact) ** 2)


SLOW = [pytest.param(kind, marks=pytest.mark.slow) for kind in ("velocity", "noise", "v")]  # 6 s


@pytest.mark.parametrize("kind", ["preconditioned", *SLOW])
def test_the_trained_denoiser_comes_near_the_exact_one(kind):
    """Within 5 % of the least error that there is, at levels from a tenth to thrice the spread."""
    options = {}
    if kind != "preconditioned":
        predicts, path = KINDS[kind]
        options = {"path": path, "predicts": predicts, "times": samplers.UniformTime()}
    network = partial(samplers.MLP, width=64, depth=2)
    target = data(20_000)
    sampler = DenoisingDiffusion(network, num_updates=1500, **options).resolve(target)
    state, losses = train(sampler, target, random.key(0))
    prior = sampler.prior(state)
    found = {kappa: float(excess(prior.denoise, kappa)) for kappa in (0.1, 0.3, 1.0, 3.0)}
    assert max(found.values()) < 0.05, found


@pytest.mark.slow
def test_draws_have_the_law_of_the_data_and_the_prior_is_saved(tmp_path, compilations):
    network = partial(samplers.MLP, width=64, depth=2)
    solver = samplers.DiffusionSampler(samplers.DPMSolverPP(order=2), num_steps=15)
    sampler = DenoisingDiffusion(network, num_updates=1500, solver=solver)
    target = data(20_000)
    draws = ppl.sample(sampler, target, num_samples=1000, progress=False)
    exact = toy_mixture.sample(np.random.default_rng(9), 1000)
    assert energy_test(draws["x"][0], exact)[1] > 0.01
    assert energy_test(draws["x"][0] + 0.2, exact)[1] < 0.01
    assert draws.num_evaluations == (0, 1500 * 256 + 1024 * 15)
    assert draws.history["loss"][0, -100:].mean() < draws.history["loss"][0, :100].mean()

    draws.sampler.save(tmp_path / "prior.eqx")
    like = sampler.untrained(target)
    again = ppl.load_sampler(tmp_path / "prior.eqx", like)
    y = jnp.array([0.3, -0.2])
    found = draws.sampler.prior.denoise(y, 0.5)
    np.testing.assert_array_equal(again.prior.denoise(y, 0.5), found)
    assert np.abs(like.prior.denoise(y, 0.5) - found).max() > 0.01
    same = ppl.sample(again, target, rng_key=1, num_samples=4, progress=False)
    posterior = ppl.posterior(again.prior, lambda x: -jnp.sum(x**2))
    assert "denoise" in posterior.offers
    with compilations() as count:  # new data, and a new learning rate
        other = DenoisingDiffusion(network, num_updates=1500, solver=solver, learning_rate=1e-3)
        ppl.sample(other, data(20_000, seed=1), num_samples=4, progress=False)
        more = ppl.sample(again, target, rng_key=1, num_samples=4, progress=False)
    assert set(count.compiled) <= {"jit(one)"}  # the prior's look at its denoiser, not training
    np.testing.assert_array_equal(more["x"], same["x"])


@pytest.mark.slow
def test_positions_may_be_trees_and_labels_become_conditions():
    """Two classes far apart: the condition names one, without it both appear by their shares."""
    labels = (np.arange(400) % 4 == 0).astype(int)
    noise = np.random.default_rng(0).normal(size=(400, 3)).astype(np.float32)
    rows = {"a": 3.0 * labels + 0.2 * noise[:, 0], "b": 0.2 * noise[:, 1:] - labels[:, None]}
    rows = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), rows)
    sampler = DenoisingDiffusion(
        partial(samplers.MLP, width=32, depth=1), num_updates=1200, num_rows=128, labels=labels,
        solver=samplers.DiffusionSampler(num_steps=12),
    )  # fmt: skip
    draws = ppl.sample(sampler, ppl.from_samples(rows), num_samples=400, progress=False)
    assert draws["b"].shape == (1, 400, 2)
    assert abs(np.mean(draws["a"] > 1.5) - 0.25) < 4.9 * np.sqrt(0.25 * 0.75 / 400)
    prior = draws.sampler.prior
    for label, center in ((0, 0.0), (1, 3.0)):
        found = prior.given(label).sample(random.key(1), 200)
        assert np.mean(np.abs(found["a"] - center) < 1) > 0.97
        np.testing.assert_allclose(np.mean(found["b"]), -label, atol=0.1)


# Refusals -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "rows", "message"),
    [
        ({}, np.arange(10), "must be floating; rows of these are"),
        ({"labels": np.arange(9)}, np.ones(10), r"labels are one class a row, .* got \(9,\)"),
        ({"labels": np.arange(10) - 1}, np.ones(10), "from -1 on for 10 rows"),
        (
            {"network": lambda key, shape: samplers.MLP(key, shape, out_shape=(3,))},
            np.ones((10, 2)),
            "the denoiser failed on|must return what it is given",
        ),
        (
            {"network": lambda key, shape: samplers.MLP(key, (5,))},
            np.ones((10, 2)),
            r"takes one point of shape \(5,\); got \(2,\)",
        ),
    ],
)
def test_what_does_not_fit_is_refused_before_compilation(options, rows, message):
    sampler = DenoisingDiffusion(**{"network": small, **options})
    with pytest.raises(ppl.TargetError, match=message):
        ppl.sample(sampler, ppl.from_samples(rows), progress=False)


@pytest.mark.slow
def test_a_loss_that_is_not_finite_updates_nothing():
    target = ppl.from_samples(jnp.full((50, 2), jnp.nan))
    sampler = DenoisingDiffusion(small, num_rows=16).resolve(target)
    state = sampler.init(random.key(0), target)
    after, info = eqx.filter_jit(sampler.step)(random.key(1), target, state)
    assert info.diverging
    assert after.updates == 0
    np.testing.assert_array_equal(
        after.average.network.first.weight, state.denoiser.network.first.weight
    )
