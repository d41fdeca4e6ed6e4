"""The engine runs a table as its equation says, and compiles once for many of them."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import random

import toy_mixture
from random_table import random_rows
from row_by_row import by_hand
from samplers.diffusion import integrate as engine
from samplers.diffusion.integrate import integrate
from samplers.diffusion.paths import EDM
from samplers.diffusion.schedules import EDMSchedule, LogSNRUniform
from samplers.diffusion.solvers.ddim import DDIM
from samplers.diffusion.tables import padded

PATH = EDM(t_min=0.05, t_max=10.0)


def test_a_table_is_run_as_its_equation_says(x64):
    rows, x = random_rows(), np.random.default_rng(1).normal(size=(4, 3))
    key = random.key(0)
    noise = lambda i: np.asarray(random.normal(random.fold_in(key, i), (1, 4, 3)))
    denoiser = lambda x, level: jnp.sin(level.sigma * x)
    state, _, seen = integrate(key, denoiser, jnp.array(x), rows, trace=True)
    expected = by_hand(rows, lambda x, level: np.sin(level.sigma * x), x, noise)
    for register, other in zip(state.registers, expected, strict=True):
        np.testing.assert_allclose(register, other, rtol=1e-12)
    assert seen[0].shape == seen[1].shape == (6, 4, 3)
    np.testing.assert_allclose(seen[1][0], np.sin(rows.level.sigma[0] * x), rtol=1e-12)


def test_recomputing_and_padding_change_nothing(x64):
    rows, x = random_rows(7), jnp.ones((2, 3))
    denoiser = lambda x, level: jnp.sin(level.sigma * x)
    run = lambda rows, **options: integrate(random.key(0), denoiser, x, rows, **options)[0].x
    np.testing.assert_allclose(run(rows, remat=True), run(rows), rtol=1e-12)
    np.testing.assert_allclose(run(padded(rows, 12, history=4)), run(rows), rtol=1e-12)


def test_the_parts_of_a_row_make_up_the_row(x64):
    """What steers a sampler takes `denoise`, `mean` and `advance` apart."""
    rows, key = random_rows(), random.key(0)
    denoiser = lambda x, level: jnp.sin(level.sigma * x)
    state = engine.start(jnp.ones((4, 3)), rows)
    for i in range(len(rows.F)):
        row = jax.tree.map(lambda x: x[i], rows)  # noqa: B023
        denoised, _ = engine.denoise(denoiser, state.x, row, (), engine.Plain())
        mean = engine.mean(state, denoised, row)
        state = engine.advance(key, state, denoised, row)
        rest = (state.x - mean.x) / row.S[0, 0]
        np.testing.assert_allclose(rest, random.normal(random.fold_in(key, i), (1, 4, 3))[0])
    whole = integrate(key, denoiser, jnp.ones((4, 3)), rows)[0]
    np.testing.assert_allclose(state.x, whole.x, rtol=1e-12)


def test_one_program_serves_all_tables_of_one_shape(compilations):
    run = jax.jit(lambda x, rows: integrate(random.key(0), mixture, x, rows)[0].x)
    mixture = lambda x, level: toy_mixture.denoise(x, level.sigma)
    x = jnp.asarray(toy_mixture.starts())
    run(x, DDIM().table(PATH, EDMSchedule(), 20).rows)
    other = DDIM().table(EDM(t_max=5.0), LogSNRUniform(), 20).rows
    with compilations() as count:
        run(x, other)
    assert count.compilations == 0


def test_the_memory_of_a_gradient_is_flat_in_the_number_of_steps():
    """100 steps take at most twice the memory of 10; without recomputing they take far more."""
    means = random.normal(random.key(0), (64, 2))

    def denoiser(x, level):
        squares = jnp.sum((x - means) ** 2, axis=1)
        return jax.nn.softmax(-squares / (2 * (0.1 + level.sigma**2))) @ means

    def memory(num_steps, remat):
        rows = DDIM().table(PATH, EDMSchedule(), num_steps).rows
        end = lambda x: jnp.sum(integrate(random.key(0), denoiser, x, rows, remat=remat)[0].x)
        program = jax.jit(jax.grad(end)).lower(jnp.ones((512, 2))).compile()
        return program.memory_analysis().temp_size_in_bytes

    assert memory(100, remat=True) < 2 * memory(10, remat=True)
    assert memory(100, remat=False) > 2 * memory(10, remat=False)
