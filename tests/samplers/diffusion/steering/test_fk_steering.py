"""FK steering draws the tilted law whatever its potentials, and its broken twins do not."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
import scipy.special
from jax import random

import ppl
import samplers as s
import two_modes
from agreement import t_limit
from samplers.diffusion.steering.chain import PlainModel
from samplers.diffusion.steering.potentials import Difference

pytestmark = pytest.mark.usefixtures("unoptimized")

RUNS = 32
LIMIT = t_limit(60, RUNS - 1)
# The linear betas of DDPM, stretched so that 100 steps end in noise.
PATH = s.VPLinear(beta_min=0.01, beta_max=12.0)


def steering(num_particles=200, num_steps=20, **options):
    options = {"solver": s.ExactReverse(), "schedule": s.TimeUniform(), **options}
    return s.FKSteering(num_particles=num_particles, num_steps=num_steps, **options)


def scores(name, threshold, n=1000, *, drops=False, num_steps=30, **options):
    target = two_modes.tilted(name, PATH)
    model = steering(num_steps=num_steps, **options).resolve(target).on_levels(target)
    found = two_modes.runs(random.key(0), model, n, RUNS, threshold, drops=jnp.asarray(drops))
    return np.abs(two_modes.scores(found, two_modes.TILTS[name][2]))


# The four targets -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "threshold",
    [pytest.param(0.5, id="adaptive"), pytest.param(1.0, id="always", marks=pytest.mark.slow)],
)
@pytest.mark.parametrize("name", two_modes.TILTS)
def test_draws_and_evidence_are_those_of_the_tilted_law(name, threshold):
    assert np.all(scores(name, threshold, every=5) < LIMIT)


def test_dropping_the_weights_of_those_that_are_not_resampled_is_caught():
    """As published code does; the same program, with the weights, passes above."""
    assert np.max(scores("reward", 0.5, every=5, drops=True)) > 2 * LIMIT


@pytest.mark.slow
def test_a_solver_of_first_order_shows_in_the_evidence_and_one_of_second_does_not():
    """With 25 steps of DDPM Z is 9 percent too high."""
    options = {"n": 2000, "num_steps": 25, "schedule": s.EDMSchedule()}
    assert scores("reward", 0.5, solver=s.DDPM(), **options)[3] > 2 * LIMIT
    assert np.all(scores("reward", 0.5, solver=s.DPMSolverPP(tau=1.0), **options) < LIMIT)


@pytest.mark.slow
@pytest.mark.parametrize("potential", ["max", "sum"])
def test_so_they_are_with_potentials_that_take_it_back_at_the_end(potential):
    found = scores("reward", 0.9, every=10, potential=potential)
    assert found[3] < LIMIT
    # Ratios of few heavy weights are biased, the mean weight is not.
    assert np.all(found < LIMIT) or potential == "sum"


def test_a_single_particle_is_a_draw_of_the_prior_by_the_same_moves():
    target = two_modes.tilted("reward", PATH)
    model = steering(1, 3).resolve(target).on_levels(target)
    plain = PlainModel(model.chain)

    @jax.jit
    def ends(key):
        def end(model):
            particles, _ = model.start(key, 1)
            step = lambda particles, row: (model.advance(key, particles, row)[0], None)
            return jax.lax.scan(step, particles, model.chain.steps)[0].denoised

        return end(model), end(plain)

    np.testing.assert_array_equal(*ends(random.key(0)))


# As a sampler -----------------------------------------------------------------------------------


def pieces(x, at, below, slope):
    """One function for all the rewards below, so that they share a program."""
    return jnp.where(x[0] < at, below, slope * two_modes.near_one(x))


def piecewise(at, below, slope=1.0):
    return ppl.tilt(two_modes.prior(), pieces, *map(jnp.asarray, (at, below, slope)))


def sample(target, num_chains=2):
    sampler = steering(every=4, between=(0.2, 0.7))
    return ppl.sample(sampler, target, num_chains=num_chains, progress=False)


@pytest.mark.slow
def test_potentials_act_where_they_are_told_and_at_the_end(compilations):
    draws = sample(piecewise(0.0, 0.0))
    changed = np.any(np.abs(np.diff(draws.history["ess"], axis=1, prepend=200.0)) > 0.01, axis=0)
    # The steps after 4, 8, 12 and 20 of them.
    assert set(np.nonzero(changed)[0]) <= {3, 7, 11, 19}
    assert changed[-1]
    assert draws.num_evaluations == (2 * 200 * 21, 2 * 200 * 21)
    assert draws["x"].shape == (2, 200, 1)
    assert draws.log_evidence.std_error > 0
    another = piecewise(1.0, 0.5)
    with compilations() as count:
        sample(another)
    assert count.compiled == []


@pytest.mark.slow
def test_a_reward_that_is_nan_for_some_weighs_nothing_and_is_told():
    draws = sample(piecewise(0.0, jnp.nan))
    weights = scipy.special.softmax(draws.log_weights[0])
    assert weights @ (np.asarray(draws["x"])[0, :, 0] < 0) == 0
    assert any("NaN or infinite at the worst step" in note for note in draws.run.notes)


def test_a_reward_that_is_impossible_for_all_says_so():
    with pytest.raises(ppl.TargetError, match=r"no particle has any weight\. The reward is -inf"):
        sample(piecewise(50.0, -jnp.inf))


# Refusals ---------------------------------------------------------------------------------------


class Doubled(Difference):
    """Pays twice."""

    def __call__(self, memory, reward, is_last):
        return 2 * (reward - memory), reward


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"potential": Doubled()}, r"the potentials of Doubled do not multiply to the reward: for"),
        ({"solver": s.DPMSolverPP()}, r"adds no noise, so that copies of a particle of FKSteering"),
        ({"solver": s.DDPM(), "num_steps": 1}, r"^DDPM needs at least 2 steps"),
    ],
)
def test_what_cannot_work_is_refused_before_the_run(options, message):
    with pytest.raises(ValueError, match=message):
        ppl.sample(steering(**options), two_modes.tilted(), progress=False)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"potential": "min"}, r"^potential must be one of \['difference', 'max', 'sum'\], or a"),
        ({"between": (0.5, 0.2)}, r"^between must be two shares of the steps"),
        ({"resampling": "lucky"}, r"^the resampling scheme must be one of"),
    ],
)
def test_a_bad_option_is_refused_at_once(options, message):
    with pytest.raises(ValueError, match=message):
        s.FKSteering(**options)


def normal():
    return ppl.from_distribution(dist.Normal(jnp.zeros(1), 1.0).to_event(1))


def not_a_number(x):
    return jnp.log(-1.0 - jnp.sum(x**2))


@pytest.mark.parametrize(
    ("prior", "reward", "solver", "message"),
    [
        (normal, two_modes.near_one, s.DDPM(), r"needs 'denoise': .*DistributionEnergy.* denoiser"),
        (two_modes.prior, not_a_number, s.DDPM(), r"FKSteering: the reward is nan at a finite pos"),
        (two_modes.prior, lambda x: x, s.DDPM(), r"must return a scalar log-density; got shape"),
        (s.digits_prior, lambda x: jnp.sum(x), s.ExactReverse(), r"chain of a samplers\.MixtureD"),
    ],
)
def test_a_target_that_does_not_fit_is_refused(prior, reward, solver, message):
    with pytest.raises(ppl.TargetError, match=message):
        ppl.sample(s.FKSteering(solver=solver), ppl.tilt(prior(), reward), progress=False)
