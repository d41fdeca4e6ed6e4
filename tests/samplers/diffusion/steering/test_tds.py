"""TDS: proposals along a gradient, with weights that make up for them, whatever the twist."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from jax import random

import gaussian_inverse
import ppl
import samplers as s
import two_modes
from agreement import t_limit
from samplers.diffusion.chain import at
from samplers.diffusion.steering.chain import log_normal
from samplers.diffusion.steering.tds import TDSModel, Twisted

pytestmark = pytest.mark.usefixtures("unoptimized")

RUNS = 32
LIMIT = t_limit(60, RUNS - 1)
PATH = s.VPLinear(beta_min=0.01, beta_max=12.0)


def tds(**options):
    # The exact moves are wider than a Gaussian of their own variance would be.
    options = {"solver": s.ExactReverse(), "schedule": s.TimeUniform(), "inflation": 1.3} | options
    return s.TDS(num_particles=1000, num_steps=30, **options)


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


@pytest.mark.slow  # as what weighs by another proposal, below
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


# The step along the gradient --------------------------------------------------------------------

# Three directions in which the prior varies by 25, and sharp data: a whole step is up to 4.5 times
# as long as that to the top of the twist.
VARIANCES, NOISE = np.array([25.0, 25.0, 25.0, 1.0]), 0.1
SEEN = np.array([0.05, 0.5, 0.5, 0.5])


def steep():
    """Prior and data by coordinates, a model that has few steps, and the law of its draws."""
    prior = gaussian_inverse.prior(mean=np.zeros(len(VARIANCES)), covariance=np.diag(VARIANCES))
    target = ppl.posterior(prior, ppl.LinearGaussian(jnp.eye(len(SEEN)), jnp.asarray(SEEN), NOISE))
    model = s.TDS(solver=s.DDPM(), num_steps=10).resolve(target).on_levels(target)
    rows = jax.tree.map(lambda x: np.asarray(x[:, 0], np.float64), model.chain.plan.rows)
    variances = rows.level.sigma[0] ** 2
    for i, sigma in enumerate(rows.level.sigma):
        share = VARIANCES / (VARIANCES + sigma**2)
        variances = (rows.A[i] + rows.B[i] * share) ** 2 * variances + rows.S[i] ** 2
    variances = variances[0]  # of the chain's draws
    log_z = scipy.stats.norm.logpdf(SEEN, 0, np.sqrt(variances + NOISE**2)).sum()
    share = variances / (variances + NOISE**2)
    mean, variance = (share * SEEN)[0], share[0] * NOISE**2
    left = scipy.stats.norm.cdf(0, mean, np.sqrt(variance))
    return model, two_modes.Truth(mean, variance, left, log_z)


class Steps(TDSModel):
    """Goes a whole step where ``whole`` is 1, and weighs as if it did where ``said`` is."""

    whole: float
    said: float

    def shift(self, before, step):
        return self.between(before, step, self.whole)

    def between(self, before, step, share):
        whole = self.scale * self.chain.gain(step) * before.carry.shift
        return (1 - share) * super().shift(before, step) + share * whole

    def move(self, rng_key, before, step):
        state, carry, log_ratio = super().move(rng_key, before, step)
        mean, sd = self.chain.mean(before, step).x, self.chain.sd(step)
        gone, said = (
            log_normal(state.x, mean + self.between(before, step, share), sd)
            for share in (self.whole, self.said)
        )
        return state, carry, log_ratio + jnp.where(step.is_last, 0, gone - said)


def test_a_steep_likelihood_has_its_evidence_where_whole_steps_overshoot():
    model, truth = steep()
    with_steps = lambda whole, said: Steps(
        model.chain, model.rule, model.scale, model.inflation, jnp.asarray(whole), jnp.asarray(said)
    )
    found = two_modes.runs(random.key(0), with_steps(0.0, 0.0), 1000, RUNS)
    assert np.all(np.abs(two_modes.scores(found, truth)) < LIMIT)
    assert np.abs(np.median(found.log_z) - truth.log_z) < 1
    # What overshoots, and what weighs by another proposal than it drew from.
    for twin in (with_steps(1.0, 1.0), with_steps(0.0, 1.0)):
        found = two_modes.runs(random.key(0), twin, 1000, RUNS)
        assert np.abs(np.median(found.log_z) - truth.log_z) > 10


def test_the_step_ends_at_the_top_of_the_parabola_along_the_gradient():
    model, _ = steep()
    step = at(model.steps, 3)
    particles, _ = model.start(random.key(0), 5)
    particles = model.arrived(particles.state, particles.carry, at(model.steps, 2))
    kappa = np.float64(step.start.kappa)
    slopes = VARIANCES / (VARIANCES + kappa**2)  # of the denoised value
    precision = 1 / (NOISE**2 + kappa**2 / (1 + kappa**2))
    gradient = precision * slopes * (SEEN - slopes * np.asarray(particles.x, np.float64))
    curvature = np.sum(precision * (slopes * gradient) ** 2, 1) / np.sum(gradient**2, 1)
    h = float(model.chain.gain(step)) * kappa**2
    assert np.all(h * curvature > 2)
    expected = h * gradient / (1 + h * curvature)[:, None]
    np.testing.assert_allclose(model.shift(particles, step), expected, rtol=1e-3)


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


def test_the_shift_is_the_score_of_the_twist_in_units_of_the_denoised_value():
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
