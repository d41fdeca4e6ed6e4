"""Each splitting has the stationary law that was derived; the test makes the law the target's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import random

import ppl
import samplers
from agreement import t_limit, t_scores
from chains import NUM_CHECKS, agrees, banana, gaussian, run, scores
from models.targets.ill_conditioned import IllConditionedGaussian
from samplers.langevin import underdamped
from samplers.langevin.underdamped import UnderdampedLangevin, refreshed
from samplers.mcmc.metrics import Dense, Identity

pytestmark = pytest.mark.usefixtures("unoptimized")

H, SD, NUM_CHAINS = 0.8, 0.7, 256
RATIO = H**2 / (4 * SD**2)
VARIANCES = {"BAOAB": (SD**2, 1 - RATIO), "OBABO": (SD**2 / (1 - RATIO), 1.0)}
LIMIT = t_limit(NUM_CHECKS, NUM_CHAINS - 1)
GAUSSIAN = ppl.from_log_density(
    lambda x, sd: -0.5 * jnp.sum((x / sd) ** 2), jnp.zeros(4), np.asarray(SD)
)


def kernel(step_size=H, splitting="BAOAB", metropolis=True, metric=None, damping=1.0):
    return UnderdampedLangevin(step_size, metric or Identity(), damping, splitting, metropolis)


def unadjusted_scores(splitting: str, truth: tuple, seed: int = 0) -> np.ndarray:
    """Scores of the variances of position and momentum, from draws of the law itself."""
    key_start, key_momentum, key_run = random.split(random.key(seed), 3)
    variance_x, variance_p = VARIANCES[splitting]
    chain = kernel(splitting=splitting, metropolis=False).resolve(GAUSSIAN)
    starts = variance_x**0.5 * random.normal(key_start, (NUM_CHAINS, 4))
    momenta = variance_p**0.5 * random.normal(key_momentum, (NUM_CHAINS, 4))

    @jax.jit
    def squares(states):
        def one(states, t):
            keys = random.split(random.fold_in(key_run, t), NUM_CHAINS)
            states, _ = jax.vmap(chain.step, (0, None, 0))(keys, GAUSSIAN, states)
            return states, (states.position**2, states.momentum**2)

        return jax.lax.scan(one, states, jnp.arange(200))[1]

    states = jax.vmap(chain.init, (None, None, 0))(random.key(0), GAUSSIAN, starts)
    found = squares(states._replace(momentum=momenta))
    means = np.stack([np.mean(np.asarray(x, np.float64), axis=(0, 2)) for x in found], axis=1)
    return np.abs(t_scores(means, truth))


@pytest.mark.parametrize("splitting", ["BAOAB", "OBABO"])
def test_the_stationary_variances_are_those_derived(splitting):
    other = "OBABO" if splitting == "BAOAB" else "BAOAB"
    assert (unadjusted_scores(splitting, VARIANCES[splitting]) < LIMIT).all()
    assert (unadjusted_scores(splitting, VARIANCES[other]) > LIMIT).all()


@pytest.mark.parametrize("splitting", ["BAOAB", "OBABO"])
def test_the_derivation_holds_as_a_lyapunov_equation(splitting):
    """``S = F S F' + noise``, with F and noise of one step on a Gaussian written as matrices."""
    k, c = 1 / SD**2, {"BAOAB": np.exp(-H), "OBABO": np.exp(-H / 2)}[splitting]
    counts = {letter: splitting.count(letter) for letter in "ABO"}
    maps = {
        "A": np.array([[1, H / counts["A"]], [0, 1]]),
        "B": np.array([[1, 0], [-k * H / counts["B"], 1]]),
        "O": np.diag([1, c]),
    }
    step, noise = np.eye(2), np.zeros((2, 2))
    for letter in splitting:
        step, noise = maps[letter] @ step, maps[letter] @ noise @ maps[letter].T
        noise += (letter == "O") * np.diag([0, 1 - c**2])
    flat = np.linalg.solve(np.eye(4) - np.kron(step, step), noise.ravel())
    np.testing.assert_allclose(flat.reshape(2, 2), np.diag(VARIANCES[splitting]), atol=1e-12)


@pytest.mark.parametrize("splitting", ["BAOAB", "OBABO"])
def test_with_the_test_a_correlated_gaussian_is_left_invariant(splitting):
    known = gaussian([1.0, 0.6], 0.5)
    assert agrees(scores(kernel(0.7, splitting), known))
    factor = np.linalg.cholesky([[1.0, 0.2], [0.2, 0.5]])
    assert agrees(scores(kernel(0.9, splitting, metric=Dense(factor)), known))


@pytest.mark.parametrize("splitting", ["BAOAB", "OBABO"])
def test_with_the_test_the_banana_is_left_invariant(splitting):
    assert agrees(scores(kernel(0.35, splitting, damping=0.3), banana()))


def test_without_the_test_the_banana_is_not(monkeypatch):
    assert not agrees(scores(kernel(0.5, metropolis=False), banana()))


def never_turned(rng_key, log_ratio, proposed, current):
    forgiving = current._replace(momentum=-current.momentum)
    return ORIGINAL(rng_key, log_ratio, proposed, forgiving)


def half_the_work(rng_key, log_ratio, proposed, current):
    return ORIGINAL(rng_key, log_ratio / 2, proposed, current)


def with_the_heat(rng_key, log_ratio, proposed, current):
    return ORIGINAL(
        rng_key, underdamped.energy(current) - underdamped.energy(proposed), proposed, current
    )


ORIGINAL = underdamped.accept


@pytest.mark.parametrize("wrong", [never_turned, half_the_work, with_the_heat])
def test_a_wrong_test_is_caught(monkeypatch, wrong):
    known, chain = gaussian([1.0, 0.6], 0.5), kernel(1.0, damping=0.3)
    assert agrees(scores(chain, known))
    monkeypatch.setattr(underdamped, "accept", wrong)
    assert not agrees(scores(chain, known, variant=wrong.__name__))


def test_noise_of_the_wrong_size_is_caught(monkeypatch):
    def hotter(rng_key, momentum, time):
        return refreshed(rng_key, momentum, time) * 1.05

    monkeypatch.setattr(underdamped, "refreshed", hotter)
    assert not (unadjusted_scores("BAOAB", VARIANCES["BAOAB"]) < LIMIT).all()


def test_the_claim_is_that_of_the_instance():
    assert UnderdampedLangevin.exactness == UnderdampedLangevin().exactness == "exact"
    assert UnderdampedLangevin(metropolis=False).exactness == "biased"


def test_warm_up_comes_near_the_acceptance_it_is_asked_for_and_runs_say_what_they_claim():
    target = gaussian([1.0, 10.0, 0.1]).target
    draws = ppl.sample(
        samplers.UnderdampedLangevin(metropolis=False), target, rng_key=0, num_samples=500,
        progress=False,
    )  # fmt: skip
    assert draws.run.exactness == "biased"
    # In three dimensions the rate falls from one to nothing within little: near, not at, 0.9.
    assert 0.8 < np.mean(draws.stats["acceptance_rate"]) < 0.99
    assert draws.stats["is_accepted"].all()
    np.testing.assert_allclose(draws["x"].std((0, 1)), [1.0, 10.0, 0.1], rtol=0.25)


@pytest.mark.parametrize("dimension", [3, 30])
def test_warm_up_tests_its_steps_and_then_stops_testing(dimension):
    """From jittered starts, sds from 0.1 to 10: chains far out, whose steps would explode."""
    sds = np.geomspace(0.1, 10, dimension)
    target = gaussian(sds).target
    chain = samplers.UnderdampedLangevin(metropolis=False)
    for key in range(2):
        draws = ppl.sample(chain, target, rng_key=key, num_samples=500, progress=False)
        assert not draws.sampler.metropolis
        assert not draws.sampler.tuning
        assert draws.stats["is_accepted"].all()
        assert 0.87 < np.mean(draws.stats["acceptance_rate"]) < 0.97
        assert draws.sampler.step_size > 0.35
        assert draws.summary()["ess_bulk"].min() > 200
        np.testing.assert_allclose(draws["x"].std((0, 1)), sds, rtol=0.2)


def roundness(chain, num_chains=4):
    """Condition number of a rotated Gaussian, 10^4 before warm-up, under the metric after it."""
    target = IllConditionedGaussian(40, 1e4)
    sizes = {"num_samples": 1, "num_chains": num_chains, "progress": False}
    tuned = ppl.sample(chain, target, rng_key=0, **sizes).sampler
    factor = jax.vmap(tuned.metric.scale, 1, 1)(jnp.eye(40))
    return float(np.linalg.cond((target.rotation.T @ factor) / target.sds[:, None]) ** 2)


def test_warm_up_makes_an_ill_conditioned_target_round(monkeypatch):
    """Also where momenta are kept for long; unless warm-up keeps them as long."""
    chain = samplers.UnderdampedLangevin(damping=0.1)
    assert roundness(chain) < 2
    monkeypatch.setattr(underdamped, "WARM_UP_DAMPING", 0.0)
    # Another number of chains: else the program compiled before would run.
    assert roundness(chain, 5) > 20


def test_without_the_test_an_explosion_stops_at_the_last_finite_position():
    target = ppl.from_log_density(lambda x: -jnp.sum(x**4), jnp.zeros(2))
    chain = kernel(3.0, metropolis=False).resolve(target)
    positions, infos = run(chain, target, random.key(0), jnp.ones((4, 2)), 50)
    assert np.isfinite(positions).all()
    assert bool(infos.diverging.any(0).all())


@pytest.mark.parametrize(
    ("option", "value"), [("splitting", "BABO"), ("splitting", 3), ("metropolis", "yes")]
)
def test_bad_options_are_refused_by_name(option, value):
    with pytest.raises(ValueError, match=rf"^{option} must be .*; got"):
        UnderdampedLangevin(**{option: value})
