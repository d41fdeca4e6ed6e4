"""Every proximal map minimizes what it says: against optimality conditions and other solvers."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
from jax import random

import ppl
import samplers
from samplers.langevin import proximal_maps
from samplers.langevin.proximal_maps import (
    L1,
    Box,
    GroupL2,
    NuclearNorm,
    Quadratic,
    Simplex,
    TotalVariation1D,
    TotalVariation2D,
    image_gradient,
    image_gradient_adjoint,
)

pytestmark = pytest.mark.usefixtures("x64", "unoptimized")

STEP = 0.7
CASES = {
    "l1": (L1(1.3), (6,)),
    "l1 of many strengths": (L1(np.array([0.1, 1.0, 2.0])), (4, 3)),
    "groups": (GroupL2(1.1), (4, 3)),
    "one group": (GroupL2(1.1, axis=None), (2, 3)),
    "box": (Box(-0.5, np.array([0.2, 1.0, 0.1])), (2, 3)),
    "half line": (Box(lower=0.0), (5,)),
    "simplex": (Simplex(2.0), (5,)),
    "simplices": (Simplex(), (3, 4)),
    "nuclear norm": (NuclearNorm(0.8), (4, 3)),
    "quadratic": (Quadratic(np.array([0.5, 3.0]), 1.5), (3, 2)),
    "total variation": (TotalVariation1D(0.6), (30,)),
    "total variation of an image": (TotalVariation2D(0.6, 1e-6, 20_000), (6, 7)),
}
# Of a map that has two cases the second is slow's.
SECOND = {"l1 of many strengths", "one group", "half line", "simplices"}
NAMES = [pytest.param(n, marks=pytest.mark.slow) if n in SECOND else n for n in CASES]


def made(name: str, seed: int = 0, scale: float = 1.5):
    regularizer, shape = CASES[name]
    return regularizer, scale * random.normal(random.key(seed), shape)


@pytest.mark.parametrize("name", NAMES)
def test_no_point_nearby_or_between_has_a_lower_objective(name):
    """The objective is strongly convex: f(y) >= f(prox) + |y - prox|^2 / (2 step) for every y."""
    regularizer, x = made(name)
    prox, value = eqx.filter_jit(regularizer), eqx.filter_vmap(eqx.filter_jit(regularizer.value))
    best = prox(x, STEP)
    feasible = prox(3 * random.normal(random.key(1), x.shape), STEP)
    between = [feasible + t * (best - feasible) for t in (0.0, 0.5, 0.9, 0.99, 0.999)]
    # Points nearby, brought back where a constraint is.
    noise = random.normal(random.key(2), (10, *x.shape))
    nearby = [prox(best + s * e, 1e-12) for s in (1e-3, 0.1) for e in noise]
    others = jnp.stack(between + nearby)

    def squares(difference):
        return jnp.sum(difference.reshape(len(difference), -1) ** 2, axis=1) / (2 * STEP)

    (lowest,) = value(best[None]) + squares((best - x)[None])
    assert np.isfinite(lowest)
    objectives = value(others) + squares(others - x)
    assert (objectives >= lowest + squares(others - best) - 1e-9).all()


@pytest.mark.parametrize("name", NAMES)
def test_a_map_is_firmly_nonexpansive_and_its_envelope_has_the_gradient_it_should(name):
    regularizer, x = made(name)
    y = made(name, seed=3)[1]
    prox, value = eqx.filter_jit(regularizer), eqx.filter_jit(regularizer.value)
    u, v = prox(x, STEP), prox(y, STEP)
    assert jnp.sum((u - v) ** 2) <= jnp.vdot(u - v, x - y) + 1e-8

    def envelope(x):
        nearest = prox(x, STEP)
        return value(nearest) + jnp.sum((x - nearest) ** 2) / (2 * STEP)

    direction = y / jnp.linalg.norm(y)
    slope = (envelope(x + 1e-4 * direction) - envelope(x - 1e-4 * direction)) / 2e-4
    np.testing.assert_allclose(slope, jnp.vdot((x - u) / STEP, direction), atol=2e-3)


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("l1", lambda x, t: L1(1.3)(x, t / 2)),
        ("groups", lambda x, t: L1(1.1)(x, t)),
        ("simplex", lambda x, t: jnp.maximum(x, 0) * 2 / jnp.sum(jnp.maximum(x, 0))),
        ("total variation", lambda x, t: TotalVariation1D(0.6)(x, 1.1 * t)),
    ],
)
def test_a_wrong_map_is_caught(name, wrong):
    regularizer, x = made(name)

    def objective(y):
        return regularizer.value(y) + jnp.sum((y - x) ** 2) / (2 * STEP)

    assert objective(wrong(x, STEP)) > objective(regularizer(x, STEP)) + 1e-4


def test_soft_threshold_is_the_formula():
    np.testing.assert_allclose(L1(2.0)(jnp.array([3.0, -0.5, -4.0]), 0.5), [2.0, 0.0, -3.0])


@pytest.mark.parametrize("seed", range(3))
def test_the_simplex_is_the_one_of_a_bisection(seed):
    x = 2 * random.normal(random.key(seed), (8,))
    theta = scipy.optimize.brentq(lambda t: np.maximum(x - t, 0).sum() - 1, -10, 10)
    np.testing.assert_allclose(Simplex()(x, STEP), np.maximum(x - theta, 0), atol=1e-10)


@pytest.mark.parametrize("shape", [(1,), (2,), (200,)])
@pytest.mark.parametrize("strength", [1e-3, 0.3, 3.0, 100.0])
def test_total_variation_of_a_vector_fulfils_its_optimality_condition(shape, strength):
    """The dual variable z, y - x = D'z, lies in the tube and at its wall where x jumps."""
    key = random.key(shape[0])
    y = jnp.cumsum(random.normal(key, shape)) + jnp.where(jnp.arange(shape[0]) % 7 > 3, 2.0, 0.0)
    x = TotalVariation1D(1.0)(y, strength)
    z = np.cumsum(x - y)
    assert abs(z[-1]) < 1e-9
    z, jumps = z[:-1], np.diff(x)
    assert (np.abs(z) <= strength + 1e-9).all()
    at_jumps = np.abs(jumps) > 1e-9
    np.testing.assert_allclose(z[at_jumps], strength * np.sign(jumps[at_jumps]), atol=1e-9)


def test_total_variation_of_many_vectors_at_once_is_that_of_each():
    y = random.normal(random.key(0), (5, 20))
    prox = jax.jit(lambda row: TotalVariation1D()(row, 0.4))
    np.testing.assert_allclose(jax.jit(jax.vmap(prox))(y), [prox(row) for row in y], atol=1e-12)


def test_total_variation_of_an_image_of_one_column_is_that_of_a_vector():
    y = jnp.cumsum(random.normal(random.key(0), (25,)))
    image = TotalVariation2D(1.0, 1e-7, 100_000)(y[:, None], 0.5)[:, 0]
    np.testing.assert_allclose(image, TotalVariation1D()(y, 0.5), atol=1e-5)


def test_the_gradient_of_an_image_and_its_adjoint():
    x, p = random.normal(random.key(0), (5, 6)), random.normal(random.key(1), (2, 5, 6))
    inside = jnp.vdot(p, image_gradient(x))
    np.testing.assert_allclose(inside, jnp.vdot(image_gradient_adjoint(p), x), rtol=1e-12)


@pytest.mark.parametrize("tolerance", [0.1, 0.01])
@pytest.mark.parametrize("step", [1e-4, 0.1])
def test_total_variation_of_an_image_keeps_its_tolerance(tolerance, step):
    x = jnp.sqrt(step) * 3 * random.normal(random.key(0), (16, 16)) + jnp.eye(16)
    strength = 1 / np.sqrt(step)
    exact = TotalVariation2D(strength, 1e-7, 100_000)(x, step)
    solved = TotalVariation2D(strength, tolerance)(x, step)
    error = np.sqrt(np.mean((solved - exact) ** 2))
    assert error < tolerance * np.sqrt(step)
    assert error > 0  # it stopped because it could, not because it was done
    given_up = TotalVariation2D(strength, 1e-7, max_iterations=5)(x, step)
    assert np.sqrt(np.mean((given_up - exact) ** 2)) > error


@pytest.mark.parametrize("name", NAMES)
def test_values_have_finite_gradients_at_zero(name):
    regularizer, x = made(name)
    assert np.isfinite(jax.grad(regularizer.value)(x)).all()
    zero = jnp.zeros_like(x)
    if not isinstance(regularizer, NuclearNorm):
        assert np.isfinite(jax.grad(regularizer.value)(zero)).all()


def test_constraints_are_zero_inside_and_infinite_outside():
    assert Box(0.0, 1.0).value(jnp.array([0.0, 1.0])) == 0
    assert Box(0.0, 1.0).value(jnp.array([0.0, 1.1])) == np.inf
    assert Simplex().value(jnp.array([0.3, 0.7])) == 0
    assert Simplex().value(jnp.array([0.3, 0.6])) == np.inf
    assert Simplex().value(jnp.array([-0.3, 1.3])) == np.inf


@pytest.mark.parametrize("name", NAMES)
def test_numbers_are_leaves_and_precision_is_kept(name, compilations):
    regularizer, x = made(name)
    x = x.astype(np.float32)
    prox = jax.jit(lambda regularizer, x, t: (regularizer.value(x), regularizer(x, t)))
    value, moved = prox(regularizer, x, jnp.float32(STEP))
    assert value.dtype == moved.dtype == np.float32
    if isinstance(regularizer, GroupL2 | NuclearNorm | TotalVariation1D | TotalVariation2D):
        with jax.enable_x64(True):
            stronger = jax.tree.map(lambda leaf: 2 * leaf, regularizer)
        with compilations() as count:
            other, _ = prox(stronger, x, jnp.float32(2 * STEP))
            jax.block_until_ready(other)
        assert count.compiled == []
        assert other > value


# Bad input ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: L1(-1.0), "strength must be a positive number"),
        (lambda: L1(float("nan")), "strength must be a positive number"),
        (lambda: Quadratic(1.0, float("inf")), "center must be a number"),
        (lambda: Box(1.0, 0.0), "lower must be below upper"),
        (lambda: Box("a"), "lower must be a number"),
        (lambda: TotalVariation2D(max_iterations=0), "max_iterations must be an integer"),
    ],
)
def test_bad_numbers_are_refused_by_name(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("regularizer", "shape", "message"),
    [
        (TotalVariation1D(), (3, 3), r"TotalVariation1D is a function of a vector.*\(3, 3\)"),
        (TotalVariation2D(), (3,), r"TotalVariation2D is a function of a matrix"),
        (NuclearNorm(), (3,), r"NuclearNorm is a function of a matrix"),
    ],
)
def test_an_array_of_the_wrong_rank_is_refused_when_the_target_is_made(regularizer, shape, message):
    smooth = ppl.from_log_density(lambda x: -0.5 * jnp.sum(x**2), jnp.zeros(shape))
    with pytest.raises(ppl.TargetError, match=message):
        ppl.composite(smooth, regularizer)


def test_all_maps_are_found_by_name():
    for name in ("L1", "GroupL2", "Box", "Simplex", "NuclearNorm", "Quadratic"):
        assert getattr(samplers, name) is getattr(proximal_maps, name)
    assert samplers.TotalVariation1D is TotalVariation1D
    assert samplers.TotalVariation2D is TotalVariation2D
