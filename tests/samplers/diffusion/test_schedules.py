"""Schedules: their formulas, the ends of the path, and what is none."""

import numpy as np
import pytest

from samplers.diffusion import paths
from samplers.diffusion.schedules import (
    Arctan,
    BetaSchedule,
    EDMSchedule,
    InformationUniform,
    LogSNRUniform,
    TimeQuadratic,
    TimeUniform,
    grid,
)
from samplers.diffusion.solvers.ddim import DDIM
from samplers.diffusion.tables import propagate

ALL = [
    EDMSchedule(),
    LogSNRUniform(),
    TimeUniform(),
    TimeQuadratic(),
    Arctan(),
    BetaSchedule(),
    InformationUniform(),
]
PATHS = [
    paths.VPLinear(), paths.VPCosine(), paths.SubVP(), paths.VE(), paths.EDM(),
    paths.StraightFlow(),
]  # fmt: skip


@pytest.mark.parametrize("schedule", ALL, ids=lambda schedule: type(schedule).__name__)
@pytest.mark.parametrize("path", PATHS, ids=lambda path: type(path).__name__)
def test_a_schedule_goes_down_the_whole_path(schedule, path):
    for num_steps in (1, 2, 40):
        t = grid(path, schedule, num_steps).level.t
        assert t[0] == pytest.approx(path.t_max)
        assert t[-1] == pytest.approx(path.t_min)


def test_each_is_the_formula_of_its_paper():
    edm = paths.EDM()
    kappa = grid(edm, EDMSchedule(), 17).kappa
    i = np.arange(18) / 17
    ends = 80 ** (1 / 7), 0.002 ** (1 / 7)
    np.testing.assert_allclose(kappa, (ends[0] + i * (ends[1] - ends[0])) ** 7, rtol=1e-9)
    np.testing.assert_allclose(
        np.diff(grid(paths.VPLinear(), LogSNRUniform(), 9).log_snr, 2), 0, atol=1e-9
    )
    np.testing.assert_allclose(np.diff(grid(edm, TimeUniform(), 9).level.t, 2), 0, atol=1e-9)
    roots = np.sqrt(grid(edm, TimeQuadratic(), 9).level.t)
    np.testing.assert_allclose(np.diff(roots, 2), 0, atol=1e-9)
    angles = np.arctan(grid(edm, Arctan(0.3), 9).kappa / 0.3)
    np.testing.assert_allclose(np.diff(angles, 2), 0, atol=1e-9)
    nats = np.log1p((0.3 / grid(edm, InformationUniform(0.3), 9).kappa) ** 2) / 2
    np.testing.assert_allclose(np.diff(nats, 2), 0, atol=1e-9)
    # Beta(1, 1) is uniform.
    np.testing.assert_allclose(
        grid(edm, BetaSchedule(1.0, 1.0), 9).level.t, grid(edm, TimeUniform(), 9).level.t
    )


def std_ratio(schedule, scale):
    """Standard deviation of Gaussian data after DDIM over the truth, both with the noise left."""
    levels = grid(paths.EDM(), schedule, 10)
    table = DDIM().table(paths.EDM(), schedule, 10, denoise_last=False)
    gain = scale**2 / (scale**2 + levels.kappa[:-1] ** 2)
    start = scale**2 + levels.kappa[0] ** 2
    end = propagate(table.rows, gain, 0.0, 0.0, start).variance[-1]
    return np.sqrt(end / (scale**2 + levels.kappa[-1] ** 2))


def test_equal_angles_are_the_best_schedule_of_ddim_on_a_gaussian():
    """The closed form cos(angle / N)^N, and the figures of others."""
    scale = 0.5
    angle = np.arctan(80 / scale) - np.arctan(0.002 / scale)
    assert std_ratio(Arctan(scale), scale) == pytest.approx(np.cos(angle / 10) ** 10, rel=1e-9)
    assert std_ratio(Arctan(scale), scale) == pytest.approx(0.8849, abs=1e-4)
    assert std_ratio(EDMSchedule(), scale) == pytest.approx(0.7528, abs=1e-4)
    assert std_ratio(LogSNRUniform(), scale) == pytest.approx(0.7673, abs=1e-4)


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        ([1.0, 2.0, 3.0], r"from noise \(t near 80\) to data.*goes from 1 to 2. Write t\[::-1\]"),
        ([3.0, 1.0, 1.0], "goes from 1 to 1"),
        ([90.0, 2.0, 1.0], "leaves the path: list goes from 90 to 1, and EDM from t_max = 80"),
        ([3.0, 2.0, 1e-4], r"leaves the path.*to t_min = 0.002"),
        ([3.0, 1.0], r"a schedule of 2 steps has 3 times; list has the shape \(2,\)"),
        (lambda path, num: np.linspace(0.1, 1.0, num), "goes from 0.1 to 0.55"),
    ],
)
def test_a_schedule_that_is_none_is_refused(schedule, message):
    with pytest.raises(ValueError, match=message):
        grid(paths.EDM(), schedule, 2)


def test_too_few_steps_are_refused():
    with pytest.raises(ValueError, match=r"DDIM needs at least 2 steps \(2 evaluations of the de"):
        DDIM().table(paths.EDM(), EDMSchedule(), 1)
