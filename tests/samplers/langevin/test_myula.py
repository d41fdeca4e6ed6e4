"""MYULA's law on the Laplace density is known: of its envelope, and of its steps."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import random
from numpyro.distributions import constraints

import ppl
import samplers
from agreement import t_limit, t_scores
from chains import NUM_CHECKS, run
from samplers.langevin import myula
from samplers.langevin.myula import MYULA

pytestmark = pytest.mark.usefixtures("unoptimized")

NUM_CHAINS = 256
LIMIT = t_limit(NUM_CHECKS, NUM_CHAINS - 1)


def laplace(size=20):
    flat = ppl.from_log_density(lambda x: 0.0 * jnp.sum(x), jnp.zeros(size))
    return ppl.composite(flat, samplers.L1(1.0))


def variance(grid, density):
    return np.sum(grid**2 * density) / np.sum(density)


def chain_law(smoothing, h, width=16.0, size=1201):
    """Grid and stationary law of the chain on exp(-|x|): the fixed point of its transition."""
    grid = np.linspace(-width, width, size)
    drift = -np.clip(grid / smoothing, -1, 1)
    moves = np.exp(-((grid[None] - (grid + h * drift)[:, None]) ** 2) / (4 * h))
    moves /= moves.sum(1, keepdims=True)
    system = np.vstack([moves.T - np.eye(size), np.ones(size)])[1:]
    return grid, np.linalg.solve(system, np.eye(size)[-1])


@pytest.mark.parametrize(("smoothing", "known"), [(0.5, 2.07006), (0.1, 2.00321), (0.01, 2.00003)])
@pytest.mark.usefixtures("x64")
def test_the_envelope_of_the_laplace_density_has_the_known_variance(smoothing, known):
    """By quadrature of the gradient that drives the chain."""
    target, grid = laplace(1), np.linspace(-40, 40, 80_001)
    _, gradient = jax.vmap(lambda x: myula.smoothed(target, x, jnp.asarray(smoothing)))(
        jnp.asarray(grid)[:, None]
    )
    slope = np.asarray(gradient)[:, 0]
    log_density = np.cumsum((slope[1:] + slope[:-1]) / 2) * (grid[1] - grid[0])
    density = np.exp(log_density - log_density.max())
    assert variance(grid[1:], density) == pytest.approx(known, abs=1e-5)


def test_the_law_of_the_steps_goes_to_that_of_the_envelope():
    """First order in h: halving it and extrapolating leaves an error of second order."""
    long, short = (variance(*chain_law(0.5, h)) for h in (0.1, 0.05))
    assert abs(2 * short - long - 2.07006) < 0.05 * abs(long - 2.07006)


def score(h=0.2, smoothing=0.5, truth=None, variant="right"):
    grid, law = chain_law(smoothing, h)
    truth = variance(grid, law) if truth is None else truth
    rng = np.random.default_rng(0)
    starts = jnp.asarray(rng.choice(grid, p=law / law.sum(), size=(NUM_CHAINS, 20)), jnp.float32)
    kernel = MYULA(step_size=h, smoothing=smoothing)
    positions, _ = run(kernel, laplace(), random.key(0), starts, 400, variant)
    squares = np.mean(np.asarray(positions, np.float64) ** 2, axis=(0, 2))
    return float(np.abs(t_scores(squares, truth)))


def test_myula_follows_the_law_of_its_steps():
    assert score() < LIMIT


def test_myula_is_biased_and_the_check_can_tell():
    assert score(truth=2.0) > LIMIT


def test_a_pull_of_the_wrong_size_is_caught(monkeypatch):
    right = myula.smoothed
    monkeypatch.setattr(myula, "smoothed", lambda *args: right(*args[:2], 2 * args[2]))
    assert score(variant="wrong pull") > LIMIT


def test_one_step_is_the_formula():
    smooth = ppl.from_log_density(lambda x: -jnp.sum(jnp.cosh(x)), jnp.zeros(2))
    target = ppl.composite(smooth, samplers.L1(2.0))
    kernel, x = MYULA(step_size=0.1), jnp.array([0.7, -3.0])
    state = kernel.init(random.key(1), target, x)
    np.testing.assert_allclose(state.log_density, target.log_density(x))
    new, info = kernel.step(random.key(1), target, state)
    noise = optax.tree.random_like(random.key(1), x)
    prox = np.array([0.0, -2.2])  # smoothing 4 h, threshold 0.8
    expected = x - 0.1 * np.sinh(x) - (x - prox) / 4 + np.sqrt(0.2) * noise
    np.testing.assert_allclose(new.position, expected, rtol=1e-5)
    assert info.num_evaluations.tolist() == [1, 1]


def test_draws_leave_a_constraint_by_little_and_say_so():
    smooth = ppl.from_log_density(lambda x: -0.5 * jnp.sum(x**2), jnp.zeros(3))
    target = ppl.composite(smooth, samplers.Box(lower=0.0))
    draws = ppl.sample(
        MYULA(step_size=0.001), target, rng_key=0, init=jnp.ones(3), num_samples=2000,
        num_warmup=500, progress=False,
    )  # fmt: skip
    assert -8 * 0.004**0.5 < draws["x"].min() < 0
    np.testing.assert_array_equal(np.isneginf(draws.stats["lp"]), (draws["x"] < 0).any(-1))


def test_a_position_of_many_parts_has_a_map_for_each():
    template = {"a": jnp.zeros(3), "b": jnp.zeros((2, 2))}
    smooth = ppl.from_log_density(lambda p: -jnp.sum(p["a"] ** 2) - jnp.sum(p["b"] ** 2), template)
    ones = jax.tree.map(lambda x: x + 1, template)
    target = ppl.composite(smooth, {"a": samplers.L1(0.5), "b": None})
    moved = target.prox(ones, 1.0)
    np.testing.assert_allclose(moved["a"], 0.5)
    np.testing.assert_allclose(moved["b"], 1.0)
    assert target.log_density(ones) == pytest.approx(-8.5)
    assert ppl.composite(smooth, samplers.L1(0.5)).log_density(ones) == pytest.approx(-10.5)


# Bad input ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["MYULA", "ProximalMALA"])
def test_a_missing_proximal_map_is_refused_before_anything_runs(name):
    smooth = ppl.from_log_density(lambda x: -0.5 * jnp.sum(x**2), jnp.zeros(3))
    with pytest.raises(ppl.TargetError, match=rf"{name} needs 'proximal_map'.*ppl\.composite\("):
        ppl.sample(getattr(samplers, name)(step_size=0.1), smooth, progress=False)


def test_what_cannot_be_composed_is_refused():
    smooth = ppl.from_log_density(lambda x: -0.5 * jnp.sum(x**2), jnp.zeros(3))
    positive = ppl.from_log_density(
        lambda x: -jnp.sum(x), jnp.zeros(3), support=constraints.positive
    )
    for first, second, message in [
        (smooth, None, "a proximal map is missing"),
        (smooth, jnp.abs, "a proximal map is missing"),
        (smooth, {"a": samplers.L1()}, "a proximal map is missing"),
        (jnp.sum, samplers.L1(), "smooth must be a target"),
        (positive, samplers.L1(), "has a support"),
    ]:
        with pytest.raises(ppl.TargetError, match=message):
            ppl.composite(first, second)
