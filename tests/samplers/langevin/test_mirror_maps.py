"""Mirror maps: gradients of the functions they name, with the inverses they claim."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import random

import ppl
import samplers
from samplers.langevin import mirror_maps
from samplers.langevin.bregman import envelope_gradient
from samplers.langevin.mirror_maps import MirrorMap

pytestmark = pytest.mark.usefixtures("x64", "unoptimized")

POINTS = np.array([-6.0, -0.3, 1e-3, 0.9, 2.9])


class Tilted(MirrorMap):
    """``phi(x) = x' Q x / 2``: a user's own, whose Hessian is a matrix."""

    matrix: np.ndarray

    def gradient(self, x):
        return (self.matrix @ x.ravel()).reshape(x.shape)

    def inverse(self, y):
        return jnp.linalg.solve(self.matrix, y.ravel()).reshape(y.shape)

    def hessian(self, x):
        return self.matrix


MATRIX = np.array([[2.0, 0.5], [0.5, 1.0]])
MAPS = {
    "euclidean": (samplers.Euclidean(), POINTS, lambda x: x**2 / 2),
    "hyperbolic": (
        samplers.Hyperbolic(0.5),
        POINTS,
        lambda x: x * jnp.arcsinh(2 * x) - jnp.hypot(x, 0.5),
    ),
    "barrier": (samplers.LogBarrier(-7.0), POINTS, lambda x: -jnp.log(x + 7)),
    "box": (
        samplers.BoxBarrier(-7.0, 3.0),
        POINTS,
        lambda x: -jnp.log(x + 7) - jnp.log(3 - x),
    ),
    "tilted": (Tilted(MATRIX), POINTS[:2], lambda x: x @ MATRIX @ x / 2),
}


@pytest.mark.parametrize("name", MAPS)
def test_gradient_and_hessian_are_those_of_the_function(name):
    mirror, x, phi = MAPS[name]
    x = jnp.asarray(x)
    np.testing.assert_allclose(
        mirror.gradient(x), jax.grad(lambda x: jnp.sum(phi(x)))(x), rtol=1e-12, atol=1e-14
    )
    full = jax.jacfwd(mirror.gradient)(x)
    h = mirror.hessian(x)
    np.testing.assert_allclose(h if h.ndim == 2 else jnp.diag(h), full, rtol=1e-9)


@pytest.mark.parametrize("name", MAPS)
def test_the_inverse_is_that_of_the_gradient(name):
    mirror, x, _ = MAPS[name]
    np.testing.assert_allclose(mirror.inverse(mirror.gradient(jnp.asarray(x))), x, rtol=1e-10)


@pytest.mark.parametrize(
    ("mirror", "outside", "border"),
    [
        (samplers.LogBarrier(1.0), [0.9, -3.0], [1.0]),
        (samplers.BoxBarrier(1.0, 2.0), [0.0, 3.0], [1.0, 2.0]),
    ],
)
def test_outside_its_domain_a_gradient_is_no_number(mirror, outside, border):
    assert np.isnan(mirror.gradient(jnp.asarray(outside))).all()
    assert np.isinf(mirror.gradient(jnp.asarray(border))).all()
    assert np.isfinite(mirror.gradient(jnp.asarray([1.5]))).all()


def test_an_image_outside_the_range_has_no_inverse():
    assert np.isnan(samplers.LogBarrier().inverse(jnp.array([0.0, 1.0]))).all()
    far = samplers.BoxBarrier(-1.0, 1.0).inverse(jnp.array([-1e200, 1e200]))
    np.testing.assert_array_equal(far, [-1, 1])


def test_roots_solve_and_determinants_belong_to_one_hessian():
    """Of a position whose parts have a diagonal, a matrix and a number."""
    maps = {"a": samplers.Hyperbolic(0.5), "b": Tilted(MATRIX), "c": samplers.LogBarrier()}
    x = {"a": jnp.array([[1.0, -2.0, 0.1]]), "b": jnp.array([0.3, 0.4]), "c": jnp.array(2.0)}
    v = jax.tree.map(lambda x: random.normal(random.key(0), x.shape), x)
    curvature = mirror_maps.hessian(maps, x)
    once = mirror_maps.root(curvature, v)
    back = mirror_maps.solved(curvature, once)
    for part in x:
        np.testing.assert_allclose(back[part], v[part], rtol=1e-12)
    full = {"a": jnp.diag(curvature["a"].ravel()), "b": MATRIX, "c": curvature["c"][None, None]}
    product = mirror_maps.times(curvature, v)
    for part in x:
        np.testing.assert_allclose(product[part].ravel(), full[part] @ v[part].ravel(), rtol=1e-12)
        squared = mirror_maps.solved(curvature, v)[part]
        inverse = v[part].ravel() @ jnp.linalg.solve(full[part], v[part].ravel())
        np.testing.assert_allclose(jnp.sum(squared**2), inverse, rtol=1e-12)
    expected = sum(np.linalg.slogdet(m)[1] for m in full.values())
    np.testing.assert_allclose(mirror_maps.log_det(curvature, x), expected, rtol=1e-12)


# Bad input ------------------------------------------------------------------------------------


def test_bounds_out_of_order_are_refused():
    with pytest.raises(ValueError, match=r"BoxBarrier: lower must be below upper; got 2.0 and 1.0"):
        samplers.BoxBarrier(2.0, 1.0)


@pytest.mark.parametrize("wrong", [None, jnp.tanh, "entropy", {"a": 1}])
def test_what_is_no_mirror_map_is_refused(wrong):
    with pytest.raises(ValueError, match="mirror must be a mirror map such as samplers.Hyperb"):
        samplers.MirrorLangevin(wrong, step_size=0.1)


def target(template):
    return ppl.from_log_density(lambda p: -sum(jnp.sum(x**2) for x in jax.tree.leaves(p)), template)


def test_maps_that_do_not_fit_the_position_are_refused():
    flat = target(jnp.zeros(3))
    for mirror, message in [
        ({"a": samplers.Euclidean()}, r"mirror=\): give one mirror map, or a pytree.*x: float"),
        (samplers.Hyperbolic(np.ones((2, 1))), r"Hyperbolic does not fit a part of shape \(3,\)"),
    ]:
        with pytest.raises(ppl.TargetError, match=message):
            ppl.sample(samplers.MirrorLangevin(mirror, step_size=0.1), flat, progress=False)


def test_a_start_outside_the_domain_is_refused_before_anything_runs():
    kernel = samplers.MirrorLangevin({"a": samplers.LogBarrier(), "b": samplers.Euclidean()}, 0.1)
    two = target({"a": jnp.zeros(2), "b": jnp.zeros(())})
    positions = {"a": jnp.array([[1.0, 2.0], [1.0, -0.5]]), "b": jnp.array([-1.0, -1.0])}
    message = r"MirrorLangevin: LogBarrier is a mirror map of x > 0.0, and chain 1 starts outside"
    with pytest.raises(ppl.TargetError, match=rf"{message}, at a = .*-0\.5.*Pass init="):
        ppl.sample(kernel, two, num_chains=2, init=positions, progress=False)
    with pytest.raises(ppl.TargetError, match=r"LogBarrier .* jittered starts, uniform on \(-2, 2"):
        ppl.sample(kernel, two, progress=False)
    with pytest.raises(ppl.TargetError, match="chain 0 starts outside"):
        ppl.sample_batch(
            kernel, ppl.stack([two, two]), init=jax.tree.map(lambda x: x - 1, positions),
            num_chains=2, progress=False,
        )  # fmt: skip


# Bregman proximal maps and envelopes ----------------------------------------------------------


def divergence(phi, a, b):
    return phi(a) - phi(b) - jax.vmap(jax.grad(phi))(b) * (a - b)


@pytest.mark.parametrize("strength", [0.3, 1.0, 2.5])
@pytest.mark.parametrize("regularizer", [samplers.L1(1.0), samplers.Box(0.5, 2.0)])
@pytest.mark.parametrize("side", ["left", "right"])
def test_hyperbolic_proximal_maps_minimize_what_they_say(side, regularizer, strength):
    """And the gradients of the envelopes are the derivatives of the minima; found on a grid."""
    mirror, phi, _ = samplers.Hyperbolic(0.5), MAPS["hyperbolic"][2], None
    x, grid = jnp.array([-3.0, -0.4, 0.1, 0.7, 1.9, 5.0]), jnp.linspace(-6, 6, 240_001)
    g = jax.vmap(regularizer.value)(grid[:, None])

    def best(x):
        away = (grid, jnp.full_like(grid, x)) if side == "left" else (jnp.full_like(grid, x), grid)
        values = g + divergence(phi, *away) / strength
        return grid[jnp.argmin(values)], jnp.min(values)

    found = getattr(mirror, f"{side}_prox")(regularizer, x, jnp.asarray(strength))
    nearest, _ = jax.lax.map(best, x)
    np.testing.assert_allclose(found, nearest, atol=1e-4)

    flat = ppl.from_log_density(lambda x: 0.0 * jnp.sum(x), jnp.zeros(6))
    slope = envelope_gradient(
        mirror, ppl.composite(flat, regularizer), x, jnp.asarray(strength), side
    )
    step = 1e-3
    above, below = (jax.lax.map(lambda x: best(x)[1], x + s * step) for s in (1, -1))  # noqa: B023
    np.testing.assert_allclose(slope, (above - below) / (2 * step), atol=1e-3)
