"""The reverse chain as moves: those of the solver, with their density; and the exact one."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from jax import random

import samplers as s
import toy_mixture
import two_modes
from agreement import t_limit
from samplers.diffusion.chain import cast
from samplers.diffusion.integrate import integrate
from samplers.diffusion.steering.chain import PlainModel, ReverseChain, plan, why_no_density
from samplers.smc import feynman_kac as fk

pytestmark = pytest.mark.usefixtures("unoptimized")

NEVER = fk.Resampler(0.0)
EDM = s.EDM(t_max=20.0)


def chain(prior, solver, num_steps=6):
    written = plan(prior.path, solver, s.EDMSchedule(), num_steps)
    return ReverseChain(prior, cast(written, float))


def name_of(value):
    """Without the address that a function in a field prints: workers must collect the same."""
    return type(value).__name__


# Moves ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "solver", [s.DDPM(), s.DPMSolverPP(2, tau=1.0), s.Heun(churn=5.0)], ids=name_of
)
def test_without_potentials_it_is_the_solver_to_the_last_digit(solver):
    prior = s.DiffusionPrior(EDM, toy_mixture.denoise, jnp.zeros(2))
    model = PlainModel(chain(prior, solver))
    table = solver.table(EDM, s.EDMSchedule(), 6)
    key_start, key_steps = random.split(random.key(0))

    @eqx.filter_jit
    def both(model, rows):
        particles, _ = model.start(key_start, 5)
        solved = integrate(key_steps, prior.denoised, particles.x, rows)[0].x
        one = lambda particles, step: model.advance(key_steps, particles, step)
        particles, log_g = jax.lax.scan(one, particles, model.chain.steps)
        return solved, particles.denoised, log_g

    solved, stepped, log_g = both(model, table.rows)
    np.testing.assert_allclose(stepped, solved, rtol=2e-5, atol=1e-6)
    assert log_g.shape == (model.chain.plan.num_steps, 5)
    assert not np.any(log_g)


@pytest.mark.slow
@pytest.mark.parametrize("solver", [s.DDPM(), s.DPMSolverPP(2, tau=0.5), s.ERSDE()], ids=name_of)
def test_the_density_of_a_move_is_that_of_its_noise(solver):
    prior = s.DiffusionPrior(EDM, toy_mixture.denoise, jnp.zeros(2))
    model = PlainModel(chain(prior, solver))
    particles, _ = model.start(random.key(0), 200)
    first = model.chain.first
    state, _, _ = model.move(random.key(1), particles, first)
    noise = (state.x - model.chain.mean(particles, first).x) / model.chain.sd(first)
    expected = scipy.stats.norm.logpdf(np.asarray(noise)).sum(1) - 2 * np.log(model.chain.sd(first))
    np.testing.assert_allclose(
        model.chain.log_move(particles, state.x, first), expected, rtol=1e-4, atol=1e-4
    )
    assert np.all(np.abs(noise.mean(0)) < 5 / np.sqrt(200))
    assert np.all(np.abs(noise.var(0) - 1) < 5 * np.sqrt(2 / 200))


def test_the_gain_is_the_slope_of_the_mean_in_the_denoised_values():
    prior = s.DiffusionPrior(EDM, toy_mixture.denoise, jnp.zeros(2))
    model = PlainModel(chain(prior, s.DPMSolverPP(2, tau=1.0)))
    particles, _ = model.start(random.key(0), 3)
    step = jax.tree.map(lambda x: x[2], model.chain.steps)
    history = tuple(value + 1 for value in particles.state.history)
    state = particles.state._replace(history=history)
    moved = particles._replace(denoised=particles.denoised + 1, state=state)
    slope = model.chain.mean(moved, step).x - model.chain.mean(particles, step).x
    np.testing.assert_allclose(slope, model.chain.gain(step), rtol=1e-4)


@pytest.mark.parametrize(
    ("solver", "why"),
    [
        (s.DPMSolverPP(), r"^DPMSolverPP\(.*adds no noise; take one that does"),
        (s.Heun(churn=5.0), r"^a step of Heun.* is no Gaussian"),
        (s.SASolver(), r"^SASolver.* adds no noise in step \d"),
        (s.ERSDE(), None),
        (s.DDIM(eta=0.5), None),
        (s.ExactReverse(), None),
    ],
    ids=name_of,
)
def test_it_says_which_solvers_have_no_density(solver, why):
    got = why_no_density(plan(EDM, solver, s.EDMSchedule(), 8), solver)
    assert (got is None) == (why is None)
    if why is not None:
        pytest.raises(ValueError, _throw, got).match(why)


def _throw(message):
    raise ValueError(message)


# The exact chain --------------------------------------------------------------------------------


def test_the_exact_move_is_bayes_rule():
    """Its density is q(y') N(y; y', kappa^2 - kappa'^2) / q(y), at every pair."""
    denoiser = two_modes.prior().denoiser
    kappa, lower = 1.3, 0.4
    y, after = np.meshgrid(np.linspace(-4, 4, 9), np.linspace(-4, 4, 9))
    pairs = jax.vmap(lambda y, after: denoiser.log_reverse(y[None], kappa, after[None], lower))
    got = pairs(jnp.asarray(y.ravel(), float), jnp.asarray(after.ravel(), float))

    def noised(x, level):
        shares, means, variances = (
            np.array(of["G1"]) for of in (two_modes.SHARES, two_modes.MEANS, two_modes.VARIANCES)
        )
        sds = np.sqrt(variances + level**2)
        return np.log(scipy.stats.norm.pdf(x[:, None], means, sds) @ shares)

    likelihood = scipy.stats.norm.logpdf(y.ravel(), after.ravel(), np.sqrt(kappa**2 - lower**2))
    expected = noised(after.ravel(), lower) + likelihood - noised(y.ravel(), kappa)
    np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("path", [s.VPLinear(), EDM], ids=["VP", "EDM"])
def test_the_exact_chain_has_the_law_of_the_data_in_three_steps_and_a_solver_has_not(path):
    prior = two_modes.prior(path=path)
    truth = two_modes.truth(two_modes.G1)
    n = 20_000

    def scores(solver):
        model = PlainModel(chain(prior, solver, 3))
        run = eqx.filter_jit(fk.run)(random.key(0), model, model.chain.steps, n, NEVER)
        x = np.asarray(run.population.particles.denoised)[:, 0]
        centered = (x - truth.mean) ** 2
        return [
            (values.mean() - expected) / (values.std() / np.sqrt(n))
            for values, expected in zip((x, centered, x < 0), truth[:3], strict=True)
        ]

    limit = t_limit(6, n)
    assert np.all(np.abs(scores(s.ExactReverse())) < limit)
    assert np.max(np.abs(scores(s.DDPM()))) > 2 * limit


def test_draws_of_the_mixture_have_its_moments():
    x = np.asarray(two_modes.prior().denoiser.sample(random.key(0), 20_000))[:, 0]
    truth = two_modes.truth(two_modes.G1)
    assert abs(x.mean() - truth.mean) < 5 * np.sqrt(truth.variance / 20_000)
    assert abs((x < 0).mean() - truth.left) < 5 * np.sqrt(0.25 / 20_000)


def test_a_mixture_that_is_none_is_refused():
    with pytest.raises(ValueError, match=r"^means have the shape \(components, d\); got \(2,\)"):
        s.MixtureDenoiser([0.0, 1.0])
