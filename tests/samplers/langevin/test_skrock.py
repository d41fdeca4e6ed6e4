"""SK-ROCK's law on a Gaussian is known in closed form, and so is how long its steps may be."""

import jax.numpy as jnp
import numpy as np
import pytest
from jax import random

import ppl
import samplers
from agreement import t_limit, t_scores
from chains import NUM_CHECKS, run
from samplers.langevin import skrock
from samplers.langevin.skrock import SKROCK, coefficients, longest_step

pytestmark = pytest.mark.usefixtures("unoptimized")

NUM_CHAINS, ETA = 128, 0.05
PRECISIONS = np.array([0.2, 1.0, 5.0, 30.0])
GAUSSIAN = ppl.from_log_density(
    lambda x, k: -0.5 * jnp.sum(k * x**2), jnp.zeros(20), np.repeat(PRECISIONS, 5)
)


def factors(a, stages):
    """A and B of the module's docstring, by Chebyshev's polynomials as (hyperbolic) cosines."""
    arg = np.arccosh(1 + ETA / stages**2)
    t, u = np.cosh(stages * arg), np.sinh(stages * arg) / np.sinh(arg)
    w_1 = t / (stages * u)
    angle = np.arccos(1 + ETA / stages**2 - w_1 * np.asarray(a, complex))
    first = np.cos(stages * angle).real / t
    second = (np.sin(stages * angle) / np.sin(angle)).real / u * (1 - w_1 * a / 2)
    return first, second


def variances(h, stages, precisions=PRECISIONS):
    first, second = factors(h * precisions, stages)
    return 2 * h * second**2 / (1 - first**2)


def score(h, stages, truth, variant="right"):
    starts = np.repeat(variances(h, stages), 5) ** 0.5 * random.normal(
        random.key(0), (NUM_CHAINS, 20)
    )
    kernel = SKROCK(step_size=h, num_stages=stages)
    positions, _ = run(kernel, GAUSSIAN, random.key(1), starts, 300, variant)
    squares = np.mean(np.asarray(positions, np.float64) ** 2, axis=0)
    return np.abs(t_scores(squares.reshape(NUM_CHAINS, 4, 5).mean(-1), truth))


LIMIT = t_limit(NUM_CHECKS, NUM_CHAINS - 1)


@pytest.mark.parametrize(("h", "stages"), [(0.1, 4), (1.5, 10)])
def test_the_stationary_variances_are_the_known_ones(h, stages):
    assert (score(h, stages, variances(h, stages)) < LIMIT).all()


def test_skrock_is_biased_and_the_check_can_tell():
    assert (score(1.5, 10, 1 / PRECISIONS) > LIMIT)[1:].all()


def test_a_stage_with_the_wrong_coefficient_is_caught(monkeypatch):
    def wrong(num_stages):
        mu, nu, kappa = coefficients(num_stages)
        return mu, np.concatenate([nu[:1] / 2, nu[1:]]), kappa

    monkeypatch.setattr(skrock, "coefficients", wrong)
    found = score(1.5, 10, variances(1.5, 10), "wrong")
    assert not (found < LIMIT).all()


@pytest.mark.parametrize("stages", [2, 3, 5, 10, 15])
def test_a_step_is_stable_to_the_length_that_is_said_and_not_much_beyond(stages):
    longest = longest_step(stages)
    first, _ = factors(np.linspace(1e-3, longest, 20_001), stages)
    assert (np.abs(first) < 1).all()
    beyond, _ = factors(np.linspace(longest, 1.25 * longest + 5, 4001), stages)
    assert (np.abs(beyond) > 1).any()


@pytest.mark.parametrize("stages", [3, 10])
def test_the_bias_of_the_variance_is_of_first_order(stages):
    h = 2.0 ** -np.arange(6, 10)
    bias = np.abs(np.array([variances(each, stages, np.ones(1))[0] for each in h]) - 1)
    slopes = np.diff(np.log(bias)) / np.diff(np.log(h))
    np.testing.assert_allclose(slopes, 1, atol=0.1)


@pytest.mark.parametrize("stages", [2, 3, 10])
def test_the_stages_are_consistent(stages):
    """Without noise, constants stay and the time that passes is h."""
    mu, nu, kappa = coefficients(stages)
    before, now = 0.0, mu[0]
    for j in range(1, stages):
        assert nu[j] + kappa[j] == pytest.approx(1)
        before, now = now, mu[j] + nu[j] * now + kappa[j] * before
    assert now == pytest.approx(1)


def test_a_target_with_a_proximal_map_is_smoothed():
    """On a quadratic g the envelope is a quadratic of strength k / (1 + k lam)."""
    smooth = ppl.from_log_density(lambda x: 0.0 * jnp.sum(x), jnp.zeros(20))
    target = ppl.composite(smooth, samplers.Quadratic(4.0))
    other = ppl.from_log_density(lambda x: -0.5 * 2.0 * jnp.sum(x**2), jnp.zeros(20))
    kernel = SKROCK(step_size=0.5, smoothing=0.25, num_stages=5)
    starts = random.normal(random.key(0), (3, 20))
    found, infos = run(kernel, target, random.key(1), starts, 20)
    expected, _ = run(kernel, other, random.key(1), starts, 20)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert infos.num_evaluations[0, 0].tolist() == [6, 6]


def test_steps_that_explode_are_not_taken():
    target = ppl.from_log_density(lambda x: -jnp.sum(x**4), jnp.zeros(2))
    positions, infos = run(SKROCK(step_size=30.0), target, random.key(0), jnp.ones((4, 2)), 50)
    assert np.isfinite(positions).all()
    assert bool(infos.diverging[-1].all())


def test_one_stage_is_refused():
    with pytest.raises(ValueError, match="num_stages must be an integer, at least 2; got 1"):
        SKROCK(step_size=0.1, num_stages=1)
