"""Reverse diffusion Monte Carlo weighs modes that chains do not leave."""

import jax.numpy as jnp
import numpy as np
import pytest
from jax import random

import ppl
import samplers
from compilations import count_compilations
from models.targets.gaussian_mixture import GaussianMixture
from ppl.trial import Contestant
from samplers.diffusion import posterior_means

FAR = GaussianMixture([[-5.0, 0.0], [5.0, 0.0]], 1.0, [0.3, 0.7])  # modes ten sds apart
SHARE, DRAWS = 0.3, 1024


def share_of_left(draws):
    return float(np.mean(np.asarray(draws["x"])[..., 0] < 0))


def sampler(num_draws=128):
    return samplers.ReverseDiffusionMC(samplers.InnerImportance(num_draws), scale=5.0)


@pytest.fixture(scope="module")
def draws():
    return ppl.sample(sampler(), FAR, 0, num_samples=DRAWS // 2, progress=False)


def test_modes_ten_sds_apart_have_their_shares():
    """Estimates of 512 draws; those of 128 have the share 0.35, as far off as the tolerance."""
    draws = ppl.sample(sampler(512), FAR, 0, num_samples=DRAWS, progress=False)
    assert abs(share_of_left(draws) - SHARE) < 0.05
    x = np.asarray(draws["x"])[0]
    for mode in np.asarray(FAR.means):
        # A few draws in a hundred end away from both: the estimates have a long tail.
        near = np.linalg.norm(x - mode, axis=1) < 4
        np.testing.assert_allclose(x[near].std(axis=0), 1, atol=0.12)
    assert np.mean(np.linalg.norm(np.abs(x) - [5, 0], axis=1) < 4) > 0.98


@pytest.mark.parametrize(
    "kernel",
    [samplers.ULA(0.2), pytest.param(samplers.MALA(), marks=pytest.mark.slow)],
    ids=["ULA", "MALA"],
)
def test_chains_with_as_many_evaluations_do_not(draws, kernel):
    """64 chains; they stay on the side where they start, and half of them start on each."""
    steps = max(draws.num_evaluations) // 64
    chains = ppl.sample(
        kernel, FAR, 0, num_samples=steps // 50, thin=50, num_chains=64, num_warmup=500,
        progress=False,
    )  # fmt: skip
    assert max(chains.num_evaluations) >= max(draws.num_evaluations) * 0.95
    assert abs(share_of_left(chains) - SHARE) > 0.1


def test_weights_that_forget_half_of_the_density_are_caught(monkeypatch):
    weighed = posterior_means.weighed
    monkeypatch.setattr(posterior_means, "weighed", lambda f, x: weighed(lambda x: f(x) / 2, x))
    share = share_of_left(ppl.sample(sampler(129), FAR, 0, num_samples=256, progress=False))
    assert abs(share - SHARE) > 0.05


@pytest.mark.slow
@pytest.mark.parametrize(
    "mean",
    [
        samplers.InnerImportance(512),
        samplers.InnerLangevin(128, step_size=0.3),
        samplers.InnerRecursive(samplers.InnerImportance(128)),
    ],
    ids=["importance", "langevin", "recursive"],
)
def test_every_estimate_finds_the_shares_of_four_modes(mean):
    """Corners of a square, at shares 1 to 4."""
    corners = [[-5.0, -5.0], [-5.0, 5.0], [5.0, -5.0], [5.0, 5.0]]
    target = GaussianMixture(corners, 1.0, [1, 2, 3, 4])
    rdmc = samplers.ReverseDiffusionMC(mean, scale=5.0)
    x = np.asarray(ppl.sample(rdmc, target, 0, num_samples=2048, progress=False)["x"])[0]
    found = np.bincount(np.asarray(target.component(jnp.asarray(x))), minlength=4) / 2048
    np.testing.assert_allclose(found, [0.1, 0.2, 0.3, 0.4], atol=0.05)


def test_a_gaussian_comes_out_as_it_is_and_new_scales_compile_nothing():
    """A pytree, off center; scale, time and data are arguments."""
    shape = {"a": jnp.zeros(()), "b": jnp.zeros(2)}
    density = lambda p, m: -0.5 * (p["a"] - m) ** 2 - 0.5 * jnp.sum(p["b"] ** 2)
    rdmc = lambda scale: samplers.ReverseDiffusionMC(
        samplers.InnerImportance(64), scale, num_steps=20, num_first=4
    )
    ppl.sample(
        rdmc(1.0), ppl.from_log_density(density, shape, 0.5), num_samples=256, progress=False
    )
    with count_compilations() as count:
        target = ppl.from_log_density(density, shape, 1.0)
        draws = ppl.sample(rdmc(1.5), target, num_samples=256, progress=False)
    assert count.compiled == []
    assert np.mean(draws["a"]) == pytest.approx(1.0, abs=4.9 / 16)
    assert np.std(draws["b"]) == pytest.approx(1.0, abs=0.2)
    assert draws.num_evaluations == (256 * 24 * 64, 0)


def test_bad_input_is_refused():
    flat = ppl.from_log_density(lambda x: jnp.sum(x) * 0.0, jnp.zeros(2, jnp.int32))
    with pytest.raises(ppl.TargetError, match="InnerLangevin follows gradients"):
        ppl.sample(samplers.ReverseDiffusionMC(samplers.InnerLangevin()), flat, progress=False)
    with pytest.raises(ValueError, match=r"smallest must be below the noise.*2\.53.* got 3"):
        ppl.sample(samplers.ReverseDiffusionMC(smallest=3.0), FAR, progress=False)
    with pytest.raises(ValueError, match="num_draws must be an integer, at least 1; got 0"):
        samplers.InnerImportance(0)


def test_a_comparison_counts_what_a_draw_costs_on_its_target():
    """The cost is that of the table, which is written for the target."""
    small = samplers.ReverseDiffusionMC(samplers.InnerImportance(2), num_steps=2, num_first=0)
    trial = Contestant(small, FAR, ppl.evaluations(2 * 256 * 4), 1).run(random.key(0))
    assert trial.failure == ""
    assert trial.evaluations == 2 * 256 * 4
