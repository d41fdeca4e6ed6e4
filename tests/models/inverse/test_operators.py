"""Every operator against its own matrix: adjoint, singular values, equations; and what it sees."""

from functools import cache

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import random

import ppl
from models.inverse import operators
from models.inverse.deconvolution import deconvolution
from models.inverse.operators import (
    Blur,
    Downsampling,
    FourierSampling,
    Masking,
    MultiCoil,
    Radon,
    as_matrix,
    cartesian_mask,
    coil_maps,
    dense_radon,
    gaussian_blur,
    motion_blur,
    random_mask,
)
from ppl.linear_operators import SVD

SHAPE = (8, 8)
KEY = random.key(3)


@cache
def lines():
    return cartesian_mask(KEY, SHAPE, 2, center=0.3)


OPERATORS = {
    "masking": lambda: Masking(random_mask(KEY, SHAPE, 0.25)),
    "gaussian blur": lambda: gaussian_blur(SHAPE, 1.0),
    "motion blur": lambda: motion_blur(SHAPE, 4, 0.6),
    "deconvolution of a signal": lambda: gaussian_blur((16,), 1.5),
    "odd sizes": lambda: Blur(np.random.default_rng(0).normal(size=(5, 7))),
    "super-resolution": lambda: Downsampling(SHAPE, 4),
    "tomography": lambda: Radon(8, 3),
    "tomography as a matrix": lambda: dense_radon(8, 3),
    "one coil": lambda: FourierSampling(lines()),
    "three coils": lambda: MultiCoil(lines(), coil_maps(SHAPE, 3)),
    "three coils, a real image": lambda: MultiCoil(lines(), coil_maps(SHAPE, 3), is_complex=False),
}


@eqx.filter_jit
def seen(operator):
    """All that the tests ask of an operator, in one program: its matrix, and what is solved."""
    shape, size = operator.template.shape, int(np.prod(operator.template.shape))
    facts = {"x": random.normal(KEY, shape)}
    facts["matrix"] = jax.vmap(lambda x: operator(x.reshape(shape)))(jnp.eye(size))
    output = jax.eval_shape(operator, operator.template)
    y = facts["y"] = ppl.linear_operators.normal_like(KEY, output)
    likelihood = ppl.LinearGaussian(operator, y, 0.3, tolerance=1e-6, max_steps=400)
    facts["adjoint"] = likelihood.adjoint(y)
    facts["mean"] = likelihood.mean_given(jnp.ones(shape), 0.7)
    facts["pulled"], facts["squared"] = likelihood.normal_residual(facts["x"])
    facts["misfits"] = likelihood.misfit(facts["x"]), likelihood.misfit_given(facts["x"], 0.7)
    if isinstance(operator, SVD):
        s = facts["values"] = operator.singular_values
        c, facts["u_adjoint"] = operator.v_adjoint(facts["x"]), operator.u_adjoint(y)
        facts["v"] = jax.vmap(lambda c: operator.v(c.reshape(s.shape)))(jnp.eye(size))
        facts |= {"v c": operator.v(c), "u s c": operator.u(s * c), "A x": operator(facts["x"])}
        facts["v s u_adjoint"] = operator.v(s * facts["u_adjoint"])
    return facts


@pytest.fixture(params=OPERATORS.values(), ids=OPERATORS)
def facts(request, unoptimized):
    found = jax.tree.map(np.asarray, seen(request.param()))
    found["matrix"] = reals(found["matrix"].reshape(len(found["matrix"]), -1)).T
    return found


def reals(y):
    """Complex numbers as twice as many real ones, along the last axis."""
    return np.concatenate([y.real, y.imag], -1) if np.iscomplexobj(y) else y


def test_adjoint_decomposition_and_equations_are_those_of_the_matrix(facts):
    matrix, y = facts["matrix"].astype(float), reals(facts["y"].reshape(-1))
    np.testing.assert_allclose(facts["adjoint"].reshape(-1), matrix.T @ y, atol=2e-5)
    precision = matrix.T @ matrix / 0.3**2 + np.eye(matrix.shape[1]) / 0.7
    mean = np.linalg.solve(precision, matrix.T @ y / 0.3**2 + 1 / 0.7)
    np.testing.assert_allclose(facts["mean"].reshape(-1), mean, atol=2e-3)
    residual = y - matrix @ facts["x"].reshape(-1)
    np.testing.assert_allclose(facts["pulled"].reshape(-1), matrix.T @ residual, atol=1e-4)
    np.testing.assert_allclose(facts["squared"], residual @ residual, rtol=1e-5)
    gram = 0.7 * matrix @ matrix.T + 0.3**2 * np.eye(len(y))
    misfits = residual @ residual / 0.3**2, residual @ np.linalg.solve(gram, residual)
    np.testing.assert_allclose(facts["misfits"], misfits, rtol=1e-4)
    if "values" not in facts:
        return
    values = np.sort(facts["values"].reshape(-1))[::-1]
    expected = np.linalg.svd(matrix, compute_uv=False)
    np.testing.assert_allclose(values[: len(expected)], expected[: len(values)], atol=1e-5)
    assert not values[len(expected) :].any()
    v = facts["v"].reshape(len(values), -1)
    np.testing.assert_allclose(v @ v.T, np.eye(len(values)), atol=1e-5)
    np.testing.assert_allclose(facts["v c"], facts["x"], atol=1e-5)
    np.testing.assert_allclose(facts["u s c"], facts["A x"], atol=1e-5)
    assert not facts["u_adjoint"][facts["values"] == 0].any()
    # A^H = V s U^H, on an observation with parts that no image leads to.
    np.testing.assert_allclose(facts["v s u_adjoint"], facts["adjoint"], atol=1e-5)


def test_those_without_a_cheap_decomposition_say_so():
    lacking = {name for name, operator in OPERATORS.items() if not isinstance(operator(), SVD)}
    assert lacking == {"tomography", "three coils", "three coils, a real image"}


@pytest.mark.parametrize("name", ["masking", "motion blur", "super-resolution", "tomography"])
def test_complex_images_have_the_conjugate_adjoint(name, unoptimized):
    operator = OPERATORS[name]()
    template = jnp.zeros(operator.template.shape, jnp.complex64)
    forward = lambda x: operator(x) * jnp.exp(0.7j)

    @jax.jit
    def gaps():
        y = jax.eval_shape(forward, template)
        x, w = ppl.linear_operators.normal_like(KEY, (template, y))
        likelihood = ppl.LinearGaussian(forward, w, 1.0, template=template)
        left, scale = jnp.vdot(w, forward(x)), jnp.linalg.norm(w) * jnp.linalg.norm(forward(x))
        transpose = jax.linear_transpose(forward, template)(w)[0]
        backs = jnp.stack([jnp.vdot(likelihood.adjoint(w), x), jnp.vdot(transpose, x)])
        return jnp.abs(left - backs) / scale

    adjoint, broken_twin = gaps()
    assert adjoint < 1e-5
    assert broken_twin > 1e-2  # the transpose of a complex operator is not its adjoint


def test_masking_shows_what_it_has_seen():
    mask = random_mask(KEY, SHAPE, 0.25)
    assert mask.sum() == 16
    image = jnp.arange(64.0).reshape(SHAPE)
    np.testing.assert_array_equal(Masking(mask).picture(Masking(mask)(image)), image * mask)
    with pytest.raises(ValueError, match=r"array of bools, true where .* got float64\[2\]"):
        Masking(np.zeros(2))


def test_blurs_average_over_what_they_say():
    image = random.uniform(KEY, (64, 64))
    problem = deconvolution(np.asarray(image), width=5)
    square = np.zeros((64, 64))
    square[np.ix_(np.arange(-2, 3), np.arange(-2, 3))] = 1 / 25
    np.testing.assert_allclose(Blur(square)(image), problem.blur(image), atol=1e-5)
    point = jnp.zeros((32, 32)).at[16, 16].set(1.0)
    along_rows = np.asarray(motion_blur((32, 32), 6, 0.0)(point))
    np.testing.assert_allclose(along_rows.sum(), 1.0, rtol=1e-5)
    assert np.all(np.abs(np.delete(along_rows, 16, axis=0)) < 1e-6)
    columns = np.arange(32) - 16
    np.testing.assert_allclose((along_rows[16] * columns**2).sum(), 6**2 / 12, rtol=0.08)
    round_one = np.asarray(gaussian_blur((32, 32), 1.5)(point))
    np.testing.assert_allclose((round_one.sum(0) * columns**2).sum(), 1.5**2, rtol=1e-3)


def test_downsampling_takes_means_of_blocks():
    image = np.random.default_rng(0).normal(size=(8, 12)).astype(np.float32)
    low = Downsampling((8, 12), 4)(jnp.asarray(image))
    np.testing.assert_allclose(low[1, 2], image[4:, 8:].mean(), rtol=1e-5)
    with pytest.raises(ValueError, match="blocks of 3 x 3 do not tile"):
        Downsampling((8, 12), 3)


def test_tomography_of_a_disk_has_its_chords():
    grid = np.arange(64) - 31.5
    disk = (grid[:, None] ** 2 + grid**2 <= 15**2).astype(np.float32)
    sinogram = np.asarray(Radon(64, 4)(jnp.asarray(disk)))
    chords = 2 * np.sqrt(np.maximum(15**2 - grid**2, 0))
    assert np.abs(sinogram - chords).mean() < 0.25
    np.testing.assert_allclose(sinogram.sum(1), disk.sum(), rtol=2e-3)
    off_center = np.zeros((64, 64), np.float32)
    off_center[31:33, 50:52] = 1.0  # right of the middle, in the middle row
    across, down = np.asarray(Radon(64, np.array([0.0, np.pi / 2]))(jnp.asarray(off_center)))
    assert list(np.flatnonzero(across > 0.5)) == [50, 51]
    assert list(np.flatnonzero(down > 0.5)) == [31, 32]


def test_frequencies_are_those_of_numpy():
    image = np.random.default_rng(0).normal(size=(2, *SHAPE)).astype(np.float32)
    modes = np.fft.fft2(image[0] + 1j * image[1], norm="ortho")[lines()]
    np.testing.assert_allclose(FourierSampling(lines())(jnp.asarray(image)), modes, atol=1e-5)
    single = MultiCoil(lines(), np.ones((1, *SHAPE)))
    np.testing.assert_allclose(single(jnp.asarray(image))[0], modes, atol=1e-5)
    maps = coil_maps(SHAPE, 3)
    np.testing.assert_allclose((np.abs(maps) ** 2).sum(0), 1.0)
    with pytest.raises(ValueError, match=r"the mask \(8, 8\); got \(3, 4, 4\)"):
        MultiCoil(lines(), coil_maps((4, 4), 3))


def test_cartesian_masks_keep_the_lowest_columns():
    mask = cartesian_mask(KEY, (64, 64), 4)
    assert mask.sum() == 64 * 16
    lowest = np.abs(np.fft.fftfreq(64, 1 / 64)) <= 2
    assert mask[:, lowest].all()
    assert set(mask.mean(0)) == {0.0, 1.0}
    with pytest.raises(ValueError, match="choose a smaller center"):
        cartesian_mask(KEY, (64, 64), 4, center=0.5)


def test_a_matrix_of_an_operator_is_the_operator():
    image = random.normal(KEY, SHAPE)
    radon = OPERATORS["tomography"]()
    np.testing.assert_allclose(as_matrix(radon)(image), radon(image).reshape(-1), atol=1e-5)


def test_float64_images_stay_so(x64):
    operator = operators.gaussian_blur(SHAPE, 1.0)
    image = random.normal(KEY, SHAPE, jnp.float64)
    assert operator(image).dtype == jnp.float64
    likelihood = ppl.LinearGaussian(operator, operator(image), 0.1)
    assert jax.eval_shape(likelihood.mean_given, image, 1.0).dtype == jnp.float64
