"""Tables: their exact moments, and the two laws that every one keeps."""

import jax.numpy as jnp
import numpy as np
import pytest
from jax import random

from random_table import random_rows
from samplers.diffusion.integrate import integrate
from samplers.diffusion.paths import EDM
from samplers.diffusion.schedules import EDMSchedule
from samplers.diffusion.solvers.ddim import DDPM
from samplers.diffusion.tables import Table, check, padded, propagate

PATH = EDM(t_min=0.05, t_max=10.0)


def test_moments_of_a_table_are_exact(x64):
    """Against 400,000 runs: an affine denoiser, with history, filter, registers and noise."""
    rows = random_rows()
    gain, offset = 0.7, 0.3
    moments = propagate(rows, gain, offset, 0.5, 0.0)
    x = jnp.full((400_000,), 0.5)
    denoiser = lambda x, level: gain * x + offset
    draws = np.asarray(integrate(random.key(0), denoiser, x, rows)[0].x)
    error = draws.std() / np.sqrt(len(draws))
    assert abs(draws.mean() - moments.mean[-1]) < 4.9 * error
    assert abs(draws.var() / moments.variance[-1] - 1) < 4.9 * np.sqrt(2 / len(draws))


def test_a_table_that_is_not_consistent_is_caught():
    table = DDPM().table(PATH, EDMSchedule(), 10)
    check(table, "DDPM")
    for field, what in (("B", "a single point of data"), ("S", "the variance of the noise")):
        entries = getattr(table.rows, field).copy()
        entries[4] *= 1.01
        broken = Table(table.grid, table.rows._replace(**{field: entries}))
        with pytest.raises(AssertionError, match=f"DDPM: the table does not keep {what}: at lev"):
            check(broken, "DDPM")


def test_a_table_is_not_shortened():
    with pytest.raises(ValueError, match="a table of 6 rows cannot be padded to 5"):
        padded(random_rows(), 5)
