"""The Schrödinger-Föllmer process: its drift by three estimates, and the law it ends in."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from blackjax.vi import schrodinger_follmer as blackjax
from jax import random

import ppl
import samplers
from agreement import z_limit
from models.targets.gaussian_mixture import GaussianMixture
from samplers.diffusion import schrodinger_follmer
from samplers.diffusion.paths import Level

pytestmark = pytest.mark.usefixtures("unoptimized")

MIXTURE = GaussianMixture([[-0.6, 0.0], [0.8, 0.3]], [0.4, 0.3], [0.3, 0.7])
POINT, KEYS = jnp.array([0.3, -0.1]), 256


def log_g(x):
    return MIXTURE.log_density(x) + jnp.vdot(x, x) / 2


def level(t):
    return Level(jnp.asarray(t), t, jnp.sqrt(t * (1 - t)), 1.0, 0.0)


@eqx.filter_jit
def estimates(mean, t, table):
    """Of D at one point: one for each key."""

    def one(key):
        key_ensemble, key = random.split(key)
        denoise = mean.prepare(key_ensemble, log_g, jnp.zeros(2), table)
        return denoise(key, POINT, level(t))

    return jax.vmap(one)(random.split(random.key(5), KEYS))


def score(mean, t, slack=0.02):
    """Against ``E[x_1 | x_t = x]``, which the mixture knows: that of ``x / t`` with its noise."""
    table = schrodinger_follmer.bridge(20, mean.end)
    found = np.asarray(estimates(mean, jnp.asarray(t), table), np.float64)
    exact = np.asarray(MIXTURE.denoise(POINT / t, np.sqrt((1 - t) / t)))
    error = found.std(axis=0, ddof=1) / np.sqrt(KEYS)
    return (np.maximum(np.abs(found.mean(axis=0) - exact) - slack, 0) / error).max()


MEANS = {
    "stein": samplers.FollmerStein(512),
    "gradient": samplers.FollmerGradient(512),
    "ensemble": samplers.FollmerEnsemble(512, num_rounds=1),
}


@pytest.mark.parametrize("name", MEANS)
def test_every_estimate_is_the_closed_form_so_that_they_agree(name):
    for t in (0.2, 0.7):
        assert score(MEANS[name], t) < z_limit(2 * 2 * 3)


@pytest.mark.parametrize("name", MEANS)
def test_an_estimate_for_the_wrong_reference_is_caught(name, monkeypatch):
    monkeypatch.setitem(globals(), "log_g", lambda x: MIXTURE.log_density(x))
    estimates._cached.clear_cache()
    try:
        assert score(MEANS[name], 0.2) > z_limit(2 * 2 * 3)
    finally:
        estimates._cached.clear_cache()


def test_the_estimate_without_gradients_is_blackjaxs():
    t, key = 0.4, random.key(1)
    state = blackjax.SchrodingerFollmerState(POINT, t)
    _, info = blackjax.step(key, state, MIXTURE.log_density, 0.1, 64)
    key_drift, _ = random.split(key)
    mean = samplers.FollmerStein(64).prepare(key, log_g, POINT, schrodinger_follmer.bridge(1))
    ours = (mean(key_drift, POINT, level(t)) - POINT) / (1 - t)
    np.testing.assert_allclose(ours, info.drift, rtol=1e-4)


def shifted(x, constant):
    return MIXTURE.log_density(x) + constant


RUNS = [
    samplers.FollmerStein(128),
    samplers.FollmerGradient(128),
    samplers.FollmerEnsemble(512, num_rounds=1),
]


@pytest.fixture(scope="module", params=RUNS, ids=MEANS)
def run(request):
    """The mean, and draws of the mixture with two constants added to its log-density."""
    mean = request.param
    sampler = samplers.SchrodingerFollmer(mean, num_steps=30)
    at = lambda constant: ppl.sample(
        sampler, ppl.from_log_density(shifted, jnp.zeros(2), constant), 0, num_samples=1024,
        progress=False,
    )  # fmt: skip
    return mean, at(0.0), at(37.0)


def test_a_constant_in_the_energy_changes_nothing(run):
    _, draws, moved = run
    np.testing.assert_allclose(draws["x"], moved["x"], atol=2e-2)
    assert np.median(np.abs(np.asarray(draws["x"]) - moved["x"])) < 1e-4


def test_the_draws_have_the_shares_and_widths_of_the_mixture(run):
    mean, draws, _ = run
    x = np.asarray(draws["x"])[0]
    exact = np.asarray(MIXTURE.sample(random.key(2), 100_000))
    wide = 0.1 if isinstance(mean, samplers.FollmerEnsemble) else 0.0  # the kernel
    error = exact.std(axis=0) / np.sqrt(len(x))
    assert (np.abs(x.mean(axis=0) - exact.mean(axis=0)) < 0.05 + 4.9 * error).all()
    np.testing.assert_allclose(x.std(axis=0), np.hypot(exact.std(axis=0), wide), rtol=0.15)


def test_evaluations_are_counted(run):
    mean, draws, _ = run
    one = 512 if isinstance(mean, samplers.FollmerEnsemble) else 1024 * 30 * 128
    gradients = one if isinstance(mean, samplers.FollmerGradient) else 0
    assert draws.num_evaluations == (one, gradients)


@pytest.mark.slow
def test_rounds_bring_the_ensemble_to_a_target_far_from_the_reference():
    """Mean 2.5, sd 0.2: of 256 draws of N(0, I), none are near."""
    target = ppl.from_log_density(lambda x: -0.5 * jnp.sum(((x - 2.5) / 0.2) ** 2), jnp.zeros(2))
    errors = []
    for rounds in (1, 6):
        sampler = samplers.SchrodingerFollmer(
            samplers.FollmerEnsemble(256, rounds, 0.2), num_steps=30
        )
        x = np.asarray(ppl.sample(sampler, target, 1, num_samples=1024, progress=False)["x"])
        errors.append(abs(x.mean() - 2.5) + abs(x.std() - np.hypot(0.2, 0.2)))
    assert errors[1] < 0.05 < errors[0]


def test_a_target_without_gradient_is_refused_by_name():
    flat = ppl.from_log_density(lambda x: jnp.sum(x) * 0.0, jnp.zeros(2, jnp.int32))
    sampler = samplers.SchrodingerFollmer(samplers.FollmerGradient())
    with pytest.raises(ppl.TargetError, match="FollmerGradient follows gradients"):
        ppl.sample(sampler, flat, progress=False)
