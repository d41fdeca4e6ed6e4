"""Tables: their exact moments, and the two laws that every one keeps."""

import jax.numpy as jnp
import numpy as np
import pytest
from jax import random

import samplers as s
from random_table import random_rows
from samplers.diffusion import tables
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


STEPS = (
    s.Heun(churn=20.0), s.DPM2(), s.DPMSolver(3), s.DPMSolverPPSingle(2), s.Restart(),
    s.AcceleratedDDIM(),
)  # fmt: skip


@pytest.mark.parametrize("solver", STEPS, ids=lambda solver: type(solver).__name__)
def test_a_step_without_its_anchor_is_the_same(solver, monkeypatch):
    rows = solver.table(PATH, EDMSchedule(), 12).rows
    monkeypatch.setattr(tables, "without_anchor", lambda *rows: None)
    anchored = solver.table(PATH, EDMSchedule(), 12).rows
    assert rows.A.shape[1] == 1
    assert anchored.A.shape[1] == 2
    ends = [propagate(x, 0.6, 0.3, 0.5, 2.0) for x in (rows, anchored)]
    np.testing.assert_allclose(ends[0].mean, ends[1].mean, rtol=1e-12)
    np.testing.assert_allclose(ends[0].variance, ends[1].variance, rtol=1e-12)
    plain = propagate(rows._replace(B=rows.B[:, :, :1]), 0.6, 0.3, 0.5, 2.0)
    assert abs(plain.mean[-2] / ends[0].mean[-2] - 1) > 1e-4  # what came before matters


@pytest.mark.parametrize("solver", [s.EDICT(), s.BDIA()], ids=lambda x: type(x).__name__)
def test_a_second_register_that_is_more_than_an_anchor_stays(solver):
    assert solver.table(PATH, EDMSchedule(), 12).rows.A.shape[1] == 2


def test_a_table_is_not_shortened():
    with pytest.raises(ValueError, match="a table of 6 rows cannot be padded to 5"):
        padded(random_rows(), 5)
