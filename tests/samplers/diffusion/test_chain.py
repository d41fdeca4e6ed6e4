"""Steps between levels, which steering and inverse problems share."""

import numpy as np

import samplers as s
from samplers.diffusion.chain import ancestral, at, cast, steps
from samplers.diffusion.inverse.chain import scheduled
from samplers.diffusion.sampler import Silent
from samplers.diffusion.steering.chain import plan

PATH = s.VPLinear()


def test_steps_lead_from_level_to_level_and_to_no_noise():
    table = s.DDPM().table(PATH, s.EDMSchedule(), 6)
    written = steps(table.grid)
    np.testing.assert_array_equal(written.end.kappa[:-1], written.start.kappa[1:])
    assert written.end.kappa[-1] == 0
    assert written.index.tolist() == [0, 1, 2, 3, 4, 5]
    assert written.is_last.tolist() == [False] * 5 + [True]
    one = cast(at(written, 5), np.float32)
    assert one.start.kappa.dtype == np.float32
    assert one.index.dtype == np.int32


def test_both_kinds_of_chain_have_the_same_steps():
    of_points = scheduled(PATH, Silent(s.EDMSchedule()), 6)
    of_solver = plan(PATH, s.DDPM(), s.EDMSchedule(), 6).steps
    for name in ("start", "end"):
        ours, theirs = getattr(of_points, name).kappa, getattr(of_solver, name).kappa
        np.testing.assert_allclose(ours, theirs, rtol=1e-9)


def test_an_ancestral_step_is_that_of_ddpm():
    grid, rows = s.DDPM().table(PATH, s.EDMSchedule(), 6)
    kept, sd = ancestral(grid.kappa[:-1], grid.kappa[1:])
    np.testing.assert_allclose(sd, rows.S[:, 0, 0] / grid.alpha[1:], rtol=1e-5)
    np.testing.assert_allclose(1 - kept, rows.B[:, 0, 0] / grid.alpha[1:], rtol=1e-5)
    # DDIM keeps more of the point, and adds nothing.
    assert np.all(kept[:-1] < (grid.kappa[1:] / grid.kappa[:-1])[:-1])
