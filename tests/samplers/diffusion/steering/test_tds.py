"""TDS: proposals along a gradient, with weights that make up for them, whatever the twist."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import random

import ppl
import samplers as s
import two_modes
from agreement import t_limit
from samplers.diffusion.steering.tds import TDSModel, Twisted

RUNS = 32
LIMIT = t_limit(60, RUNS - 1)
PATH = s.VPLinear(beta_min=0.01, beta_max=12.0)


def tds(**options):
    # The exact moves are wider than a Gaussian of their own variance would be.
    options = {"solver": s.ExactReverse(), "schedule": s.TimeUniform(), "inflation": 1.3} | options
    return s.TDS(num_particles=1000, num_steps=50, **options)


def scores(target, truth, *, broken=False, **options):
    model = tds(**options).resolve(target).on_levels(target)
    if broken:
        model = Unweighted(model.chain, model.rule, model.scale, model.inflation)
    found = two_modes.runs(random.key(0), model, 1000, RUNS)
    return np.abs(two_modes.scores(found, truth))


class Unweighted(TDSModel):
    """Forgets that the moves are not the chain's."""

    def move(self, rng_key, before, step):
        return *super().move(rng_key, before, step)[:2], 0.0


# The law ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("softening", [pytest.param(0.0, marks=pytest.mark.slow), 1.0])
def test_draws_and_evidence_are_those_of_the_tilted_law(softening):
    target, truth = two_modes.tilted("reward", PATH), two_modes.TILTS["reward"][2]
    assert np.all(scores(target, truth, softening=softening) < LIMIT)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["annealed", "product", "guided"])
def test_so_they_are_for_rewards_with_several_modes(name):
    target, truth = two_modes.tilted(name, PATH), two_modes.TILTS[name][2]
    assert np.all(scores(target, truth, inflation=1.5) < LIMIT)


def test_without_the_ratio_of_the_moves_they_are_not():
    target, truth = two_modes.tilted("reward", PATH), two_modes.TILTS["reward"][2]
    assert np.max(scores(target, truth, broken=True)) > 2 * LIMIT


@pytest.mark.slow
def test_a_linear_gaussian_likelihood_has_its_evidence():
    likelihood = ppl.LinearGaussian(jnp.eye(1), jnp.ones(1), 1.0)
    target = ppl.posterior(two_modes.prior(path=PATH), likelihood)
    truth = two_modes.TILTS["reward"][2]
    normalized = truth._replace(log_z=truth.log_z - np.log(2 * np.pi) / 2)
    assert np.all(scores(target, normalized) < LIMIT)


# The twist --------------------------------------------------------------------------------------


def test_softening_adds_to_the_noise_of_an_observation():
    prior = two_modes.prior(path=PATH)
    likelihood = ppl.LinearGaussian(jnp.eye(1), jnp.ones(1), 0.5)
    rule = Twisted(ppl.posterior(prior, likelihood), jnp.asarray(2.0))
    kappa, x = jnp.asarray(3.0), jnp.asarray([0.3])
    variance = 0.5**2 + 2.0 * 9 / 10
    expected = -(0.7**2) / (2 * variance) - np.log(2 * np.pi * variance) / 2
    np.testing.assert_allclose(rule.log_psi(x, kappa), expected, rtol=1e-5)
    rule = Twisted(ppl.tilt(prior, two_modes.near_one), jnp.asarray(2.0))
    np.testing.assert_allclose(rule.log_psi(x, kappa), -(0.7**2) / 2 / (1 + 1.8), rtol=1e-5)
    rule = Twisted(rule.target, jnp.asarray(2.0), lambda x, sigma: x[0] * sigma)
    np.testing.assert_allclose(rule.log_psi(x, kappa), 0.9, rtol=1e-5)


def test_the_shift_is_the_score_of_the_twist_in_units_of_the_denoised_value(unoptimized):
    prior = two_modes.prior(path=PATH)
    rule = Twisted(ppl.tilt(prior, two_modes.near_one), jnp.asarray(0.0))
    level = jax.tree.map(jnp.asarray, PATH.level(0.4))
    row = SimpleNamespace(level=level)
    log_psi = lambda x: two_modes.near_one(prior.denoised(x, level))
    x = jnp.asarray([0.2])
    denoised, twist = rule(prior.denoised, x, row, rule.init(x))
    np.testing.assert_allclose(denoised, prior.denoised(x, level), rtol=1e-6)
    slope = (log_psi(x + 1e-2) - log_psi(x - 1e-2)) / 2e-2
    expected = level.sigma**2 / level.alpha * slope
    np.testing.assert_allclose(twist.shift[0], expected, rtol=1e-2)


# Refusals ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("solver", "message"),
    [
        (
            s.DPMSolverPP(),
            r"^TDS weighs moves by their density: DPMSolverPP\(.* adds no noise; tak",
        ),
        (s.Heun(churn=5.0), r"^TDS weighs moves by their density: a step of Heun.* is no Gaussian"),
        (s.SASolver(), r"^TDS weighs moves by their density: SASolver.* adds no noise in step \d"),
    ],
    ids=["deterministic", "two stages", "noise in a window"],
)
def test_a_solver_whose_moves_have_no_density_is_refused(solver, message):
    target = two_modes.tilted("reward")
    with pytest.raises(ValueError, match=message):
        ppl.sample(s.TDS(solver=solver), target, progress=False)


@pytest.mark.parametrize("sampler", [s.TDS(), s.Guidance()], ids=["TDS", "Guidance"])
def test_a_reward_without_a_gradient_is_refused(sampler):
    target = ppl.tilt(two_modes.prior(), lambda x: jnp.sum(jnp.where(x > 0, 1.0, 0.0)))
    with pytest.raises(ppl.TargetError, match=r"follows the gradient of the reward, which is zero"):
        ppl.sample(sampler, target, progress=False)
