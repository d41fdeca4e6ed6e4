"""Stochastic solvers in 20 steps are as near to the law as DDPM in 100, if not of first order."""

import numpy as np
import pytest

import bench_solvers as bench
import samplers as s
from samplers.diffusion.schedules import LogSNRUniform

RUNS = 16


class TooLittleNoise(s.SASolver):
    """A solver whose noise is a tenth too small."""

    def write(self, writer, grid):
        super().write(writer, grid)
        writer.rows = [(*row[:-1], 0.9 * row[-1]) for row in writer.rows]

    @property
    def consistent(self):
        return False


@pytest.mark.slow  # a minute
def test_twenty_steps_with_noise_are_no_worse_than_a_hundred_of_ddpm():
    """Sliced Wasserstein distance to the law, the same starts in all; and those that are worse.

    No worse is: not by more than two standard errors, 0.0014 of 0.0104. SDE-2M is level with DDPM,
    the others are nearer.
    """
    broken = {"too little noise": (TooLittleNoise(), LogSNRUniform())}
    found = bench.twenty_steps(bench.TWENTY | broken, RUNS)
    ddpm = found["DDPM() in 100"]
    worse = {"DDIM(eta=0.5)", "DDPM()", "too little noise"}
    for name in bench.TWENTY | broken:
        off = found[name] - ddpm
        std_error = off.std(ddof=1) / np.sqrt(RUNS)
        if name in worse:
            assert off.mean() > 4.9 * std_error, name
        else:
            assert off.mean() < 2 * std_error, name
            assert found[name].mean() < 0.3 * found["DDPM()"].mean(), name


def test_as_many_steps_are_taken_as_the_evaluations_pay():
    path, schedule = s.EDM(), s.EDMSchedule()
    for solver, rows in ((s.DDIM(), 10), (s.Heun(), 9), (s.DPMSolver(3), 10), (s.EDICT(), 9)):
        assert len(bench.table(solver, schedule, path, 10).rows.F) == rows
    assert bench.table(s.Restart(), schedule, path, 5) is None
