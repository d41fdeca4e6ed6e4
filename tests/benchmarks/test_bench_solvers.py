"""Stochastic solvers in 20 steps are as near to the law as DDPM in 100, if not of first order."""

import numpy as np
import pytest

import bench_solvers as bench
import samplers as s

RUNS = 16
WORSE = ("DDIM(eta=0.5)", "DDPM()", "too little noise")  # the first two are of first order
ANALYTIC = {("DDIM(eta=0.5, variance=curve)", "Arctan(0.7)")}  # of first order too


class TooLittleNoise(s.SASolver):
    """A solver whose noise is a tenth too small."""

    def write(self, writer, grid):
        super().write(writer, grid)
        writer.rows = [(*row[:-1], 0.9 * row[-1]) for row in writer.rows]

    @property
    def consistent(self):
        return False


def judged(path, solvers, worse):
    """Who is no worse than DDPM in 100 steps, by two standard errors, and who is."""
    found = bench.twenty_steps(path, solvers, RUNS)
    ddpm = found["DDPM() in 100", "LogSNRUniform()"]
    for name in solvers.keys() | ANALYTIC:
        off = found[name] - ddpm
        std_error = off.std(ddof=1) / np.sqrt(RUNS)
        print(name, f"{off.mean():.4f} +- {std_error:.4f} further than DDPM in 100")
        if name in worse:
            assert off.mean() > 4.9 * std_error, name
        else:
            assert off.mean() < 2 * std_error, name


@pytest.mark.slow  # a minute
def test_twenty_steps_with_noise_are_no_worse_than_a_hundred_of_ddpm():
    """Sliced Wasserstein distance to the law, the same starts in all; and those that are worse."""
    broken = dict([bench.setting("too little noise", TooLittleNoise(), bench.EVEN)])
    worse = {name for name in bench.TWENTY | broken if name[0] in WORSE}
    judged(bench.NARROW, bench.TWENTY | broken, worse | ANALYTIC)


@pytest.mark.slow  # a minute
def test_nor_are_they_on_the_whole_path_on_levels_of_equal_information():
    even = bench.EVEN[0]
    worse = {("DPMSolverPP(2, tau=1)", even), ("DPMSolverPP(3, tau=1)", even)}
    worse |= {name for name in bench.TWENTY_ON_ALL if name[0] in WORSE}
    judged(bench.WHOLE, bench.TWENTY_ON_ALL, worse)


def test_as_many_steps_are_taken_as_the_evaluations_pay():
    path, schedule = s.EDM(), s.EDMSchedule()
    for solver, rows in ((s.DDIM(), 10), (s.Heun(), 9), (s.DPMSolver(3), 10), (s.EDICT(), 9)):
        assert len(bench.table(solver, schedule, path, 10).rows.F) == rows
    assert bench.table(s.Restart(), schedule, path, 5) is None
