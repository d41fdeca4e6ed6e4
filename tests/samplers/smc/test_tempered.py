"""Tempered SMC: an unbiased Z where all is frozen, modes that keep their share, errors in words."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from scipy.stats import norm

import posteriordb
import ppl
from agreement import t_limit, t_scores
from ppl.sampler import DirectSampler
from samplers.direct import ExactDraws
from samplers.langevin.mala import MALA
from samplers.mcmc.hmc import HMC
from samplers.mcmc.metrics import Diagonal
from samplers.mcmc.random_walk import RandomWalk
from samplers.smc import along_path, moves
from samplers.smc import feynman_kac as fk
from samplers.smc.path import increments
from samplers.smc.tempered import TemperedSMC

pytestmark = pytest.mark.usefixtures("unoptimized")

NUM_CHECKS = 60


# A kernel that learns nothing compiles in half the time.
PLAIN = {"move": RandomWalk(step_size=0.5), "num_moves": 1, "tune": False}


def run(sampler, target, num_chains=1, rng_key=0):
    return ppl.sample(sampler, target, rng_key, num_chains=num_chains, progress=False)


# The conjugate Gaussian, frozen -------------------------------------------------------------------

CENTER, NOISE, DIMENSION, NUM_RUNS = 3.0, 0.1, 8, 64
LOG_Z = DIMENSION * (0.5 * np.log(NOISE / (1 + NOISE)) - CENTER**2 / (2 * (1 + NOISE)))
GAUSSIAN = ppl.posterior(
    dist.Normal(jnp.zeros(DIMENSION), 1.0).to_event(1),
    lambda x, center: -jnp.sum((x - center) ** 2) / (2 * NOISE),
    CENTER,
)


def frozen(resampling="stratified"):
    return TemperedSMC(
        num_particles=200,
        move=HMC(step_size=0.25, num_steps=4),
        schedule=(np.arange(1, 41) / 40) ** 4,
        num_moves=1,
        tune=False,
        resampling=resampling,
    )


def score(draws):
    runs = np.asarray(draws.history["log_evidence"][:, -1], float)
    assert runs.std() < 0.5
    return abs(t_scores(np.exp(runs - LOG_Z), 1.0))


LIMIT = t_limit(NUM_CHECKS, NUM_RUNS - 1)


# A metric learnt from few particles -------------------------------------------------------------

ROTATION = np.linalg.qr(np.random.default_rng(0).normal(size=(24, 24)))[0].astype(np.float32)
SCALES = np.linspace(0.5, 3, 24, dtype=np.float32)


def skewed(y):
    return 10 * (y - np.exp(y) + 1)


def skewed_log_z():
    """Of the prior N(0, I), which no rotation changes, coordinate by coordinate."""
    y = np.linspace(-10, 10, 20_001)[:, None]
    return np.sum(np.log(np.sum(np.exp(skewed(SCALES * y)) * norm.pdf(y), axis=0) * 1e-3))


SKEWED = ppl.posterior(
    dist.Normal(jnp.zeros(24), 1.0).to_event(1),
    lambda x, axes: jnp.sum(10 * (axes @ x - jnp.exp(axes @ x) + 1)),
    SCALES[:, None] * ROTATION,
)


def tuned_score(num_particles):
    """Of 32 runs; the number of particles is one that no other test has compiled."""
    draws = run(TemperedSMC(num_particles=num_particles), SKEWED, 32, 3)
    runs = np.asarray(draws.history["log_evidence"][:, -1], float)
    assert runs.std() < 0.5
    return t_scores(runs + runs.var() / 2, skewed_log_z())


@pytest.mark.slow  # 12 seconds each
def test_tuning_to_few_particles_does_not_move_the_evidence():
    assert abs(tuned_score(256)) < t_limit(NUM_CHECKS, 31)


@pytest.mark.slow
def test_a_kernel_tuned_to_the_particles_it_moves_is_caught(monkeypatch):
    def to_its_own(arrays, rest, *seen, scalars_only=False):
        return jax.vmap(lambda a, *own: moves.retuned(eqx.combine(a, rest), *own))(arrays, *seen)

    monkeypatch.setattr(moves, "crossed", to_its_own)
    assert abs(tuned_score(258)) > t_limit(NUM_CHECKS, 31)


@pytest.mark.slow  # 30 seconds
def test_learnt_temperatures_that_keep_nine_tenths_leave_the_mean_of_z_where_it_is():
    """In 24 dimensions; where they keep a half it is 0.95 of Z, moves being exact."""
    target = ppl.posterior(
        dist.Normal(jnp.zeros(24), 1.0).to_event(1),
        lambda x, center: -jnp.sum((x - center) ** 2) / (2 * NOISE),
        CENTER,
    )
    draws = run(TemperedSMC(512, HMC(metric=Diagonal(), target_acceptance=0.9)), target, 150)
    last = [one[np.isfinite(one)][-1] for one in draws.history["log_evidence"].astype(float)]
    ratios = np.exp(np.array(last) - LOG_Z * 24 / DIMENSION)
    assert ratios.std() < 0.2
    assert abs(t_scores(ratios, 1.0)) < t_limit(NUM_CHECKS, 149)


@pytest.fixture(scope="module")
def gaussian():
    return run(frozen(), GAUSSIAN, NUM_RUNS)


def test_with_all_frozen_the_evidence_is_unbiased(gaussian):
    assert score(gaussian) < LIMIT
    estimate = gaussian.log_evidence
    assert abs(estimate.value - LOG_Z) < 4.9 * estimate.std_error


def test_a_given_schedule_is_followed_and_evaluations_are_counted(gaussian):
    history = gaussian.history
    np.testing.assert_allclose(
        history["inverse_temperature"][3], (np.arange(1, 41) / 40) ** 4, rtol=1e-5
    )
    # Prior draws and, at each temperature, 4 gradients: those of the last one tell the next start.
    spent = NUM_RUNS * 200 * (1 + 40 * 4)
    assert tuple(gaussian.num_evaluations) == (spent, spent)


def test_the_particles_are_draws_of_the_posterior(gaussian):
    weights = np.exp(ppl.weights.normalize(np.asarray(gaussian.log_weights, float)))[..., None]
    means = (weights * gaussian["x"]).sum(axis=1)
    squares = (weights * (gaussian["x"] - CENTER / (1 + NOISE)) ** 2).sum(axis=1)
    assert np.abs(t_scores(means, CENTER / (1 + NOISE))).max() < LIMIT
    assert np.abs(t_scores(squares, NOISE / (1 + NOISE))).max() < LIMIT


def test_weights_that_are_lost_at_resampling_are_caught(monkeypatch):
    right = fk.resample

    def lost(*args, **kwargs):
        after, *rest = right(*args, **kwargs)
        return after._replace(log_evidence=args[1].log_evidence), *rest

    monkeypatch.setattr(fk, "resample", lost)
    found = run(frozen("ssp"), GAUSSIAN, NUM_RUNS)  # a scheme that no other test has compiled
    assert abs(np.median(found.history["log_evidence"][:, -1]) - LOG_Z) > 5


@pytest.mark.slow
def test_one_run_says_its_error():
    estimate = run(TemperedSMC(num_particles=1000), GAUSSIAN).log_evidence
    assert 0.02 < estimate.std_error < 0.3
    assert abs(estimate.value - LOG_Z) < 4.9 * estimate.std_error


# Modes --------------------------------------------------------------------------------------------

MIXTURE_DIMENSION = 10


def log_ratio(x):
    """Log of 0.3 N(-2.5, 0.7^2 I) + 0.7 N(2.5, 0.7^2 I) over N(0, 3^2 I)."""
    near = jax.scipy.stats.norm.logpdf(x, 2.5, 0.7).sum() + jnp.log(0.7)
    far = jax.scipy.stats.norm.logpdf(x, -2.5, 0.7).sum() + jnp.log(0.3)
    return jnp.logaddexp(near, far) - jax.scipy.stats.norm.logpdf(x, 0, 3).sum()


WIDE = dist.Normal(jnp.zeros(MIXTURE_DIMENSION), 3.0).to_event(1)
MIXTURE = ppl.posterior(WIDE, log_ratio)


def minor_mass(draws):
    weights = np.exp(ppl.weights.normalize(np.asarray(draws.log_weights, float)))
    return np.sum(weights * (draws["x"].mean(axis=-1) < 0), axis=1)


@pytest.fixture(scope="module")
def mixture():
    return run(TemperedSMC(num_particles=1024), MIXTURE, 40)


@pytest.mark.slow
def test_two_modes_keep_their_share(mixture):
    masses = minor_mass(mixture)
    assert abs(t_scores(masses, 0.3)) < t_limit(NUM_CHECKS, 39)
    assert masses.std() < 0.06
    estimates = np.exp(mixture.history["log_evidence"].astype(float))
    last = [one[np.isfinite(one)][-1] for one in estimates]
    assert abs(mixture.log_evidence.value) < 4.9 * mixture.log_evidence.std_error
    assert np.std(last) < 0.3


@pytest.mark.slow
def test_weights_by_half_of_the_likelihood_are_caught(monkeypatch):
    monkeypatch.setattr(along_path, "increments", lambda step, v: increments(step / 2, v))
    sampler = TemperedSMC(num_particles=1024, resampling="stratified")
    masses = minor_mass(run(sampler, MIXTURE, 40))
    assert abs(t_scores(masses, 0.3)) > t_limit(NUM_CHECKS, 39)


@pytest.mark.slow
def test_moves_are_counted_anew_where_the_temperature_has_fallen_far(mixture):
    b, moves = mixture.history["inverse_temperature"][0], mixture.history["num_moves"][0]
    last = int(np.argmax(b == 1))
    counted, known = b[0], moves[0]
    assert (moves[: last + 1] == 1).sum() > last / 2
    for at, number in zip(b[1 : last + 1], moves[1 : last + 1], strict=True):
        if at >= 4 * counted:
            counted, known = at, number
        assert number <= max(known, 1)


@pytest.mark.slow
def test_the_conditional_rule_carries_weights_over_several_temperatures():
    sampler = TemperedSMC(num_particles=512, rule="cess", resample_below=0.5)
    draws = run(sampler, MIXTURE)
    resampled = draws.history["resampled"][0]
    assert 1 <= resampled.sum() < len(resampled) / 2
    assert abs(draws.log_evidence.value) < 4.9 * draws.log_evidence.std_error


@pytest.mark.slow
def test_4096_particles_find_the_minor_mode_within_two_hundredths():
    """The figure of the issue: 20 seeds."""
    draws = run(TemperedSMC(), MIXTURE, 20)
    masses = minor_mass(draws)
    assert masses.std(ddof=1) < 0.02
    assert abs(masses.mean() - 0.3) < 4 * masses.std(ddof=1) / np.sqrt(20)
    assert abs(draws.log_evidence.value) < 4 * draws.log_evidence.std_error


# Starts -------------------------------------------------------------------------------------------


def shifted(x, center):
    return -0.5 * jnp.sum((x - center) ** 2)


@pytest.mark.parametrize("move", [RandomWalk(0.7), pytest.param(MALA(), marks=pytest.mark.slow)])
def test_a_plain_density_starts_from_a_reference_and_any_kernel_moves_it(move):
    target = ppl.from_log_density(shifted, jnp.zeros(2), 1.5)
    reference = dist.Normal(jnp.zeros(2), 3.0).to_event(1)
    draws = run(TemperedSMC(1000, move=move, reference=reference), target)
    truth = np.log(2 * np.pi)
    assert abs(draws.log_evidence.value - truth) < 4.9 * draws.log_evidence.std_error
    estimate = ppl.weights.mean(draws["x"][0], draws.log_weights[0])
    np.testing.assert_allclose(estimate, 1.5, atol=0.2)


@pytest.fixture(scope="module")
def learnt():
    return run(TemperedSMC(num_particles=64), ppl.posterior(WIDE, shifted, 1.0))


def test_temperatures_fall_by_a_share_of_the_effective_sample_size(learnt):
    b, ess = learnt.history["inverse_temperature"][0], learnt.history["ess"][0]
    last = int(np.argmax(b == 1))
    assert (np.diff(b[: last + 1]) > 0).all()
    np.testing.assert_allclose(ess[:last], 0.9 * 64, rtol=0.01)
    assert learnt.history["resampled"][0][:last].all()


def test_new_data_compile_nothing(learnt, compilations):
    with compilations() as count:
        run(TemperedSMC(num_particles=64), ppl.posterior(WIDE, shifted, -2.0))
    assert not [name for name in count.compiled if "chunk" in name or "population" in name]


@pytest.mark.slow
def test_eight_schools_agree_with_the_reference_draws():
    module, data, reference = posteriordb.load("eight_schools-eight_schools_noncentered")
    draws = run(TemperedSMC(num_particles=1000), ppl.from_numpyro(module.model, **data), 40)
    weights = np.exp(ppl.weights.normalize(np.asarray(draws.log_weights, float)))
    scores = []
    for name, known in reference.items():
        x = posteriordb.parameter(draws.values, name)
        # The reference has an error of its own, of 10,000 draws.
        means = (weights * x).sum(axis=1)
        error = np.sqrt(means.var(ddof=1) / 40 + known["sd"] ** 2 / 10_000)
        scores.append((means.mean() - known["mean"]) / error)
    assert np.abs(scores).max() < 4.9


# Bad input ----------------------------------------------------------------------------------------


def counts(y):
    rate = numpyro.sample("rate", dist.Gamma(2.0, 1.0))
    with numpyro.plate("row", len(y)):
        numpyro.sample("y", dist.Uniform(0.0, rate), obs=y)


def test_observations_that_kill_every_draw_are_named():
    target = ppl.from_numpyro(counts, jnp.array([0.1, -3.0, 0.2, 900.0]))
    message = (
        r"TemperedSMC: none of 100 draws from the prior has a likelihood above 0.*"
        r"killed by y\[1\] \(in 100% of them\), y\[3\] \(in 100% of them\)"
    )
    with pytest.raises(ppl.TargetError, match=message):
        run(TemperedSMC(num_particles=100, **PLAIN), target)


def walled(x, wall, beyond):
    return jnp.where(x > wall, beyond, -0.5 * (x - 0.5) ** 2)


def holed(wall, beyond):
    return ppl.posterior(dist.Normal(0.0, 1.0), walled, wall, beyond)


@pytest.mark.parametrize("value", [-jnp.inf, jnp.nan])
def test_a_likelihood_that_is_never_there_is_an_error(value):
    words = "" if value == -jnp.inf else r" \(2000 are NaN"
    with pytest.raises(ppl.TargetError, match="none of 2000 draws from the prior.*above 0" + words):
        run(TemperedSMC(num_particles=2000, **PLAIN), holed(-np.inf, value))


def test_particles_with_nan_die_are_counted_and_never_copied():
    draws = run(TemperedSMC(num_particles=2000, **PLAIN), holed(1.0, np.nan))
    alive = np.isfinite(draws.log_weights)
    assert (draws["x"][alive] <= 1).all()
    share = jax.scipy.stats.norm.sf(1.0)
    assert abs(draws.history["num_illegal"][0, 0] / 2000 - share) < 5 * np.sqrt(share / 2000)
    assert any("NaN or infinite" in note for note in draws.run.notes)
    # Z = integral up to 1 of N(x; 0, 1) exp(-(x - 1/2)^2 / 2)
    x = np.linspace(-8, 1, 20001)
    truth = np.log(np.trapezoid(np.exp(-0.5 * x**2 - 0.5 * (x - 0.5) ** 2), x) / np.sqrt(2 * np.pi))
    assert abs(draws.log_evidence.value - truth) < 4.9 * draws.log_evidence.std_error


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_particles": 1}, "num_particles must be an integer, at least 2; got 1"),
        ({"schedule": (0.5, 0.2, 1.0)}, "schedule must be inverse temperatures that rise strictly"),
        ({"schedule": (0.1, 0.5)}, "from above 0 to 1; got"),
        ({"move": 3}, "move must be a Markov kernel such as samplers.MALA"),
        ({"resampling": "best"}, "resampling scheme must be one of"),
        ({"rule": "kl"}, "rule must be 'ess' or 'cess'; got 'kl'"),
        ({"reference": "prior"}, "reference must be a NumPyro distribution or a target"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        TemperedSMC(**options)


def test_a_plain_density_without_a_reference_is_told_what_to_write():
    target = ppl.from_log_density(shifted, jnp.zeros(2), 1.5)
    with pytest.raises(ppl.TargetError, match=r"samplers\.TemperedSMC\(reference=numpyro"):
        run(TemperedSMC(), target)


def test_a_prior_that_cannot_be_sampled_is_refused_with_its_site():
    def model(y):
        x = numpyro.sample("x", dist.ImproperUniform(dist.constraints.real, (), ()))
        numpyro.sample("y", dist.Normal(x, 1.0), obs=y)

    with pytest.raises(ppl.TargetError, match="TemperedSMC draws from the prior.*'x'"):
        run(TemperedSMC(), ppl.from_numpyro(model, 1.0))


def test_a_reference_of_another_shape_is_refused():
    target = ppl.from_log_density(shifted, jnp.zeros(2), 1.5)
    with pytest.raises(ppl.TargetError, match="reference does not fit the target"):
        run(TemperedSMC(reference=dist.Normal(jnp.zeros(3), 1.0).to_event(1)), target)


def test_a_move_that_needs_a_gradient_is_refused_where_there_is_none():
    target = ppl.posterior(dist.Poisson(3.0), lambda x: -0.1 * x.astype(float))
    with pytest.raises(ppl.TargetError, match="moves particles by HMC, which needs 'gradient'"):
        run(TemperedSMC(), target)


# From weighted draws ------------------------------------------------------------------------------

SHARES, CENTERS = np.array([0.2, 0.8]), np.array([-4.0, 4.0])


def two_modes(x, shares, width, log_z=0.0):
    """Log-density of a mixture in the plane."""
    squares = jnp.sum((x[None] - CENTERS[:, None]) ** 2, axis=1) / width**2
    return log_z + jax.nn.logsumexp(jnp.log(shares) - 0.5 * squares) - jnp.log(2 * np.pi * width**2)


class Guess(DirectSampler):
    """Draws of both modes alike, 1 wide, that weigh what they should, or, told so, nothing."""

    exactness = "asymptotically exact"
    weighs: jax.Array = eqx.field(converter=jnp.asarray, default=1.0)

    def draw(self, rng_key, target, n):
        key_mode, key_noise = jax.random.split(rng_key)
        centers = jax.random.choice(key_mode, CENTERS, (n, 1))
        x = centers + jax.random.normal(key_noise, (n, 2))
        log_q = jax.vmap(lambda x: two_modes(x, np.array([0.5, 0.5]), 1.0))(x)
        return x, (jax.vmap(target.log_density)(x) - log_q) * self.weighs

    def evaluations(self, n):
        return (n, 0)


def from_guess(width, num_particles, weighs=1.0, log_z=1.3, **options):
    """Scores of Z and of the right mode's share, of 32 runs, and the runs."""
    target = ppl.from_log_density(two_modes, jnp.zeros(2), SHARES, width, log_z)
    sampler = TemperedSMC(
        num_particles, RandomWalk(step_size=0.5), start=Guess(weighs), num_moves=2, tune=False,
        **options,
    )  # fmt: skip
    draws = run(sampler, target, 32)
    shares = jax.nn.softmax(draws.log_weights, axis=1)
    right = np.sum(shares * (draws["x"][..., 0] > 0), axis=1)
    evidences = np.exp(draws.history["log_evidence"][:, -1].astype(float) - 1.3)
    return abs(t_scores(evidences, 1.0)), abs(t_scores(right, 0.8)), draws


FROM_DRAWS = t_limit(NUM_CHECKS, 31)


def test_weighted_draws_are_a_population_that_only_has_to_move():
    evidence, share, draws = from_guess(0.7, 256)
    assert evidence < FROM_DRAWS
    assert share < FROM_DRAWS
    np.testing.assert_array_equal(draws.history["inverse_temperature"], np.ones((32, 1)))
    # The draws, their density on the path and one for each of two moves.
    assert draws.num_evaluations[0] == 32 * 256 * (1 + 1 + 2)


def test_weights_that_a_start_drops_are_caught():
    evidence, share, _ = from_guess(0.7, 256, weighs=0.0)
    assert evidence > FROM_DRAWS
    assert share > FROM_DRAWS


def test_a_start_all_of_whose_draws_die_is_an_error_that_names_it():
    message = r"none of 256 draws of start=Guess\(\.\.\.\) has a weight above 0\. Check that it was"
    with pytest.raises(ppl.TargetError, match=message):
        from_guess(0.7, 256, log_z=-np.inf)


@pytest.mark.slow  # 8 seconds
def test_uneven_weights_begin_higher_up_and_walk_down():
    wide = dist.Normal(jnp.zeros(2), 5.0).to_event(1)
    evidence, share, draws = from_guess(0.1, 256, reference=wide)
    assert evidence < FROM_DRAWS
    assert share < FROM_DRAWS
    temperatures = draws.history["inverse_temperature"]
    assert (temperatures[:, 0] < 1).all()
    assert temperatures.shape[1] < 16


@pytest.mark.slow  # 8 seconds
def test_weights_that_stay_those_of_the_target_are_caught(monkeypatch):
    right, wide = TemperedSMC.begun, dist.Normal(jnp.zeros(2), 5.0).to_event(1)

    def begun(self, x, known, b, log_weights):
        return right(self, x, known, b, log_weights - (b - 1) * known.log_ratio)

    monkeypatch.setattr(TemperedSMC, "begun", begun)
    evidence, *_ = from_guess(0.1, 258, reference=wide)
    assert evidence > FROM_DRAWS


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"start": MALA()}, TypeError, "start must be a sampler of independent draws; got MALA"),
        ({"start": Guess(), "schedule": (0.5, 1.0)}, ValueError, "it takes no schedule="),
        ({"start": ExactDraws()}, ValueError, "TemperedSMC by ExactDraws .*draws without weights"),
    ],
)
def test_a_start_that_cannot_be_one_is_refused(options, error, message):
    with pytest.raises(error, match=message):
        run(TemperedSMC(**options), ppl.from_distribution(dist.Normal(0, 1)))
