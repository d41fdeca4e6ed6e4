"""Mirror Langevin: its law is known where the map is quadratic, a barrier, or one-dimensional."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import random

import ppl
import samplers
from agreement import t_limit, t_scores
from chains import NUM_CHECKS, run
from samplers.langevin import mirror_maps
from samplers.langevin.mirror import MirrorLangevin
from samplers.langevin.mirror_maps import MirrorMap
from samplers.langevin.ula import ULA

NUM_CHAINS, H = 256, 0.05
LIMIT = t_limit(NUM_CHECKS, NUM_CHAINS - 1)


def test_with_the_quadratic_map_it_is_ula_step_by_step():
    target = ppl.from_log_density(
        lambda p: -jnp.sum(jnp.cosh(p["a"])) - p["b"] ** 4, {"a": jnp.zeros(2), "b": jnp.zeros(())}
    )
    starts = {"a": jnp.ones((3, 2)), "b": jnp.zeros(3)}
    mirror = MirrorLangevin(samplers.Euclidean(), step_size=0.1)
    ours, _ = run(mirror, target, random.key(0), starts, 100)
    theirs, _ = run(ULA(step_size=0.1), target, random.key(0), starts, 100)
    for part in ours:
        np.testing.assert_allclose(ours[part], theirs[part], rtol=1e-5, atol=1e-6)


# A barrier on a Gamma density -----------------------------------------------------------------

SHAPE, DIMENSION, BARRIER_H = 10.0, 16, 0.02
A = SHAPE - 1
SQUARE = (2 / A - BARRIER_H) / (2 * (A - 1) - BARRIER_H * A**2)
GAMMA = ppl.from_log_density(
    lambda x, shape: jnp.sum((shape - 1) * jnp.log(x) - x), jnp.zeros(DIMENSION), np.asarray(SHAPE)
)


def barrier_scores(variant="right"):
    """Scores of ``1 / x`` and its square against the law of the steps, and of no bias."""
    starts = random.gamma(random.key(0), SHAPE, (NUM_CHAINS, DIMENSION))
    kernel = MirrorLangevin(samplers.LogBarrier(), step_size=BARRIER_H)
    positions, _ = run(kernel, GAMMA, random.key(1), starts, 1200, variant)
    v = 1 / np.asarray(positions, np.float64)[100:]
    means = np.stack([v, v**2, v**2], axis=-1).mean(axis=(0, 2))
    return np.abs(t_scores(means, [1 / A, SQUARE, 1 / (A * (A - 1))]))


def test_a_barrier_on_a_gamma_density_has_the_known_bias():
    assert (barrier_scores()[:2] < LIMIT).all()


def test_it_is_biased_and_the_check_can_tell():
    assert barrier_scores()[2] > LIMIT


def test_noise_that_is_not_stretched_by_the_root_of_the_hessian_is_caught(monkeypatch):
    right = mirror_maps.root
    monkeypatch.setattr(mirror_maps, "root", lambda h, v: 1.1 * right(h, v))
    assert not (barrier_scores("louder")[:2] < LIMIT).all()


# A hyperbolic map on a Laplace density --------------------------------------------------------

SCALE = 0.5
LAPLACE = ppl.from_log_density(lambda x: -jnp.sum(jnp.abs(x)), jnp.zeros(8))


def chain_law(h, size=1200, widest=18.0):
    """Grid, uniform in the image, and the stationary law of the chain on it.

    Computed with the map's own gradient and Hessian: the fixed point of its transition.
    """
    mirror = samplers.Hyperbolic(SCALE)
    with jax.enable_x64(True):
        end = float(mirror.gradient(jnp.asarray(widest)))
        image = np.linspace(-end, end, size)
        grid = np.asarray(mirror.inverse(jnp.asarray(image)))
        heat = np.asarray(mirror.hessian(jnp.asarray(grid)))
    mean = image - h * np.sign(grid)
    moves = np.exp(-((image[None] - mean[:, None]) ** 2) / (4 * h * heat[:, None]))
    moves /= moves.sum(1, keepdims=True)
    system = np.vstack([moves.T - np.eye(size), np.ones(size)])[1:]
    return grid, np.linalg.solve(system, np.eye(size)[-1])


def hyperbolic_scores(variant="right"):
    """Scores of ``|x|`` and ``x^2`` against the law of the steps, and of ``x^2`` without bias."""
    grid, law = chain_law(H)
    rng = np.random.default_rng(0)
    starts = jnp.asarray(rng.choice(grid, p=law / law.sum(), size=(NUM_CHAINS, 8)), jnp.float32)
    kernel = MirrorLangevin(samplers.Hyperbolic(SCALE), step_size=H)
    positions, _ = run(kernel, LAPLACE, random.key(0), starts, 1500, variant)
    x = np.abs(np.asarray(positions, np.float64))
    means = np.stack([x, x**2, x**2], axis=-1).mean(axis=(0, 2))
    return np.abs(t_scores(means, [np.abs(grid) @ law, grid**2 @ law, 2.0]))


def test_a_hyperbolic_map_on_the_laplace_density_follows_the_law_of_its_steps():
    assert (hyperbolic_scores()[:2] < LIMIT).all()


def test_a_hessian_at_the_wrong_end_is_caught(monkeypatch):
    right = mirror_maps.hessian
    monkeypatch.setattr(
        mirror_maps, "hessian", lambda maps, x: right(maps, jax.tree.map(lambda x: 0.7 * x, x))
    )
    assert not (hyperbolic_scores("wrong hessian")[:2] < LIMIT).all()


def test_its_bias_is_of_first_order():
    steps = np.array([0.2, 0.1, 0.05])
    bias = [np.abs(grid) @ law - 1 for grid, law in map(chain_law, steps)]
    slopes = np.diff(np.log(np.abs(bias))) / np.diff(np.log(steps))
    np.testing.assert_allclose(slopes, 1, atol=0.2)


# Maps of one's own, walls, refusals -----------------------------------------------------------


class Precision(MirrorMap):
    """``phi(x) = x' Q x / 2``."""

    matrix: jax.Array

    def gradient(self, x):
        return self.matrix @ x

    def inverse(self, y):
        return jnp.linalg.solve(self.matrix, y)

    def hessian(self, x):
        return self.matrix


def test_a_map_of_ones_own_with_a_matrix_for_hessian_makes_a_gaussian_round():
    """With Q its precision, the covariance is ``Q^-1 / (1 - h / 2)``."""
    precision, h = np.array([[4.0, 1.0], [1.0, 0.5]]), 0.4
    target = ppl.from_log_density(lambda x, q: -0.5 * x @ q @ x, jnp.zeros(2), precision)
    covariance = np.linalg.inv(precision) / (1 - h / 2)
    starts = random.normal(random.key(0), (NUM_CHAINS, 2)) @ np.linalg.cholesky(covariance).T
    kernel = MirrorLangevin(Precision(jnp.asarray(precision, jnp.float32)), step_size=h)
    x = np.asarray(run(kernel, target, random.key(1), starts, 200)[0], np.float64)
    products = x[..., :, None] * x[..., None, :]
    assert (np.abs(t_scores(products.mean(0), covariance)) < LIMIT).all()


def test_draws_stay_inside_a_box_and_are_nearly_uniform_there():
    flat = ppl.from_log_density(lambda x: 0.0 * jnp.sum(x), jnp.zeros(3))
    kernel = MirrorLangevin(samplers.BoxBarrier(-3.0, np.array([3.0, 5.0, 9.0])), step_size=0.05)
    draws = ppl.sample(
        kernel, flat, rng_key=0, num_chains=64, num_samples=1000, num_warmup=100, progress=False
    )
    x = (draws["x"] + 3) / np.array([6.0, 8.0, 12.0])
    assert ((x > 0) & (x < 1)).all()
    np.testing.assert_allclose(x.mean((0, 1)), 0.5, atol=0.04)
    np.testing.assert_allclose(x.var((0, 1)) * 12, 1, atol=0.1)
    assert not draws.stats["diverging"].any()


def test_a_step_out_of_the_image_is_a_divergence_that_is_not_taken():
    starts = jnp.full((64, DIMENSION), SHAPE)
    kernel = MirrorLangevin(samplers.LogBarrier(), step_size=0.09)
    positions, infos = run(kernel, GAMMA, random.key(0), starts, 100)
    assert infos.diverging.any()
    assert (np.asarray(positions) > 0).all()
    stayed = np.asarray(positions)[1:][np.asarray(infos.diverging)[1:]]
    np.testing.assert_array_equal(stayed, np.asarray(positions)[:-1][infos.diverging[1:]])


def test_it_has_no_map_and_no_step_size_of_its_own():
    with pytest.raises(TypeError, match="mirror"):
        MirrorLangevin(step_size=0.1)  # pyright: ignore[reportCallIssue]
    with pytest.raises(TypeError, match="step_size"):
        MirrorLangevin(samplers.Euclidean())  # pyright: ignore[reportCallIssue]
