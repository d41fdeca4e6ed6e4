"""Error of every solver of a diffusion prior at 5, 10, 20 and 50 evaluations of the denoiser.

Run by hand, ten minutes on a core: ``python tests/benchmarks/bench_solvers.py`` writes
``docs/solver_errors.csv``, of which the site makes its tables and figures.

Three priors: two mixtures of Gaussians in the plane, whose denoisers are exact, scaled to the
variance 1 in sum, and the digits that ship. Each solver takes as many steps as the evaluations pay,
the last one, to no noise at all, included; where they pay too few, it is left out. Three measures:

- ``map``, of deterministic solvers: root mean square distance to the exact solution from the same
  noise, 2,000 steps in float64 (digits: 1,000 in float32);
- ``law``: sliced Wasserstein distance of order 1 between 16,384 draws and the law; for digits the
  energy distance of 449 draws to held-out ones. A mean over independent runs, with its standard
  error;
- ``floor``, under the name "exact draws": the same distance of as many exact draws, or of digits
  that were learned from.

And beside these, on three modes, stochastic solvers in 20 steps against DDPM in 100, between the
noise levels where `test_orders` has the weak orders, and on the whole path.
"""

import csv
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import random
from scipy.special import ndtr
from sklearn.datasets import load_digits

import samplers as s
from models.targets.benchmark_mixtures import gmm25
from models.targets.gaussian_mixture import GaussianMixture
from ppl.diagnostics.energy_distance import energy_distance
from samplers.diffusion.integrate import integrate
from samplers.diffusion.tables import padded

BUDGETS = (5, 10, 20, 50)
RUNS = 4  # for each distance between laws
OUT = Path(__file__).parents[2] / "docs" / "solver_errors.csv"

SOLVERS = {
    "DDIM()": s.DDIM(),
    "DPMSolver(2)": s.DPMSolver(2),
    "DPMSolver(3)": s.DPMSolver(3),
    "DPMSolverPPSingle(2)": s.DPMSolverPPSingle(2),
    "DPMSolverPPSingle(3)": s.DPMSolverPPSingle(3),
    "DPMSolverPP(2)": s.DPMSolverPP(2),
    "DPMSolverPP(3)": s.DPMSolverPP(3),
    "DEIS(2)": s.DEIS(2),
    "DEIS(3)": s.DEIS(3),
    "DEIS(4)": s.DEIS(4),
    "IPNDM()": s.IPNDM(),
    "UniPC(2)": s.UniPC(2),
    "UniPC(3)": s.UniPC(3),
    "SASolver(tau=0)": s.SASolver(tau=0.0),
    "ERSDE(phi=kappa)": s.ERSDE(phi=lambda kappa: kappa),
    "GradientEstimation()": s.GradientEstimation(),
    "HB()": s.HB(),
    "GHVB()": s.GHVB(),
    "AcceleratedDDIM()": s.AcceleratedDDIM(),
    "Heun()": s.Heun(),
    "DPM2()": s.DPM2(),
    "EDICT()": s.EDICT(),
    "BDIA()": s.BDIA(),
    "DDPM()": s.DDPM(),
    "DDIM(eta=0.5)": s.DDIM(eta=0.5),
    "DPMSolverPP(2, tau=1)": s.DPMSolverPP(2, tau=1.0),
    "DPMSolverPP(3, tau=1)": s.DPMSolverPP(3, tau=1.0),
    "SASolver()": s.SASolver(),
    "ERSDE()": s.ERSDE(),
    "Heun(churn=5)": s.Heun(churn=5.0),
    "Restart()": s.Restart(),
}
THREE = GaussianMixture([[-1.2, 0.4], [1.0, -0.6], [0.3, 1.3]], [0.25, 0.3, 0.2], [0.3, 0.5, 0.2])
SCHEDULES = {
    "EDMSchedule()": s.EDMSchedule(),
    "LogSNRUniform()": s.LogSNRUniform(),
    "InformationUniform()": s.InformationUniform(),
}


class Case(NamedTuple):
    """A prior, and how far draws are from its law."""

    name: str
    prior: Any
    exact: Callable[[int], np.ndarray]  # run -> exact draws
    distance: Callable[[np.ndarray], float]
    num_draws: int
    fine: tuple[Any, Any, int]  # solver, schedule and steps of the exact solution


class Row(NamedTuple):
    """A line of the file."""

    prior: str
    schedule: str
    solver: str
    measure: str
    evaluations: int
    value: float
    std_error: float


def mixture(name: str, target: GaussianMixture, path: Any = None, num_draws: int = 16_384) -> Case:
    """A mixture in the plane, scaled to variance 1, under exact denoisers."""
    means, shares = np.asarray(target.means), np.exp(np.asarray(target.log_shares, np.float64))
    variances = np.asarray(target.sds) ** 2
    mean = shares @ means
    scale = np.sqrt(shares @ (np.sum((means - mean) ** 2, axis=1) / 2 + variances))
    means, sds = (means - mean) / scale, np.sqrt(variances) / scale
    unit = GaussianMixture(means, sds, shares)
    draw = jax.jit(lambda key: unit.sample(key, num_draws))

    # Wasserstein distances in 32 directions, to the quantiles of the law.
    directions = np.random.default_rng(0).normal(size=(2, 32))
    directions /= np.linalg.norm(directions, axis=0)
    levels, grid = (np.arange(num_draws) + 0.5) / num_draws, np.linspace(-6, 6, 100_001)
    below = lambda u: shares @ ndtr((grid - (means @ u)[:, None]) / sds[:, None])
    quantiles = np.stack([np.interp(levels, below(u), grid) for u in directions.T], axis=1)

    return Case(
        name,
        s.DiffusionPrior(path or s.EDM(), unit.denoise, unit.template),
        lambda run: np.asarray(draw(random.key(1000 + run)), np.float64),
        lambda x: float(np.mean(np.abs(np.sort(x @ directions, axis=0) - quantiles))),
        num_draws,
        (s.DPMSolverPP(3), s.LogSNRUniform(), 2000),
    )


def digits() -> Case:
    """The digits that ship; a quarter of the real ones was held out."""
    images = load_digits().images / 8 - 1
    images = images[np.random.default_rng(0).permutation(len(images))].reshape(-1, 64)
    held_out, others = images[:449], images[449:]
    return Case(
        "digits",
        s.digits_prior(),
        lambda run: np.random.default_rng(run).permutation(others)[:449],
        lambda x: energy_distance(x.reshape(len(x), -1), held_out),
        449,
        (s.DPMSolverPP(3), s.LogSNRUniform(), 1000),
    )


def table(solver: Any, schedule: Any, path: Any, evaluations: int) -> Any:
    """The table of as many steps as the evaluations pay, or None where they pay too few."""
    for num_steps in range(evaluations, 0, -1):
        try:
            found = solver.table(path, schedule, num_steps)
        except ValueError:
            return None  # fewer than it needs
        if len(found.rows.F) <= evaluations:
            return found
    return None


class Runner:
    """Draws of a prior by any table: one program for all of one length, noisy or not."""

    def __init__(self, case: Case) -> None:
        self.prior = case.prior
        self.run = jax.jit(self._run, static_argnums=(2,))

    def _run(self, key: Any, table: Any, n: int) -> Any:
        levels, rows = table
        key_start, key_steps = random.split(key)
        noise = self.prior.noise(key_start, n)
        x = jnp.asarray(levels.sigma[0], noise.dtype) * noise
        return integrate(key_steps, self.prior.denoised, x, rows)[0].x

    def __call__(self, run: int, table: Any, evaluations: int, n: int) -> np.ndarray:
        levels, rows = table
        rows = padded(rows, evaluations, registers=2, history=4)
        ends = jax.tree.map(lambda x: x[:1], levels)
        drawn = self.run(random.key(run), jax.tree.map(jnp.asarray, (ends, rows)), n)
        return np.asarray(drawn, np.float64) / levels.alpha[-1]


def measured(case: Case) -> Iterator[Row]:
    """All rows of one prior."""
    runner, path, n = Runner(case), case.prior.path, case.num_draws
    few = min(n, 1024)  # of which the exact solutions are followed
    solver, schedule, num_steps = case.fine
    fine = solver.table(path, schedule, num_steps)
    truth = runner(0, fine, num_steps, few)
    floor = [case.distance(case.exact(run)) for run in range(4 * RUNS)]
    yield Row(case.name, "", "exact draws", "floor", 0, *summary(floor))
    for label, at in SCHEDULES.items():
        for name, solver in SOLVERS.items():
            adds_noise = solver.table(path, at, 20).rows.S.shape[2] > 0
            for evaluations in BUDGETS:
                found = table(solver, at, path, evaluations)
                if found is None:
                    continue
                first = Row(case.name, label, name, "map", evaluations, 0.0, 0.0)
                if not adds_noise:
                    error = np.sqrt(np.mean((runner(0, found, evaluations, few) - truth) ** 2))
                    yield first._replace(value=float(error))
                runs = [case.distance(runner(run, found, evaluations, n)) for run in range(RUNS)]
                value, std_error = summary(runs)
                yield first._replace(measure="law", value=value, std_error=std_error)


# Stochastic solvers in 20 steps against DDPM in 100 ----------------------------------------------

NARROW, WHOLE = s.EDM(t_min=0.02, t_max=10.0), s.EDM()
EVEN, INFORMATION = ("LogSNRUniform()", s.LogSNRUniform()), (
    "InformationUniform(4)", s.InformationUniform(4.0),
)  # fmt: skip
EDM, ARCTAN = ("EDMSchedule()", s.EDMSchedule()), ("Arctan(0.7)", s.Arctan(0.7))
SDE_2M, SDE_3M = s.DPMSolverPP(2, tau=1.0), s.DPMSolverPP(3, tau=1.0)


def setting(name: str, solver: Any, schedule: tuple[str, Any]) -> tuple[tuple[str, str], Any]:
    """A solver on a schedule under both their names."""
    return (name, schedule[0]), (solver, schedule[1])


TWENTY = dict([
    setting("DPMSolverPP(2, tau=1)", SDE_2M, EVEN),
    setting("DPMSolverPP(3, tau=1)", SDE_3M, EVEN),
    setting("SASolver()", s.SASolver(), EVEN),
    setting("ERSDE()", s.ERSDE(), EVEN),
    setting("Restart()", s.Restart(), EVEN),
    setting("Heun(churn=1)", s.Heun(churn=1.0), EDM),
    setting("DDIM(eta=0.5)", s.DDIM(eta=0.5), EVEN),
    setting("DDIM(eta=0.5)", s.DDIM(eta=0.5), ARCTAN),
    setting("DDPM()", s.DDPM(), EVEN),
])  # fmt: skip
# Which of them do it without being told where to begin and to end.
TWENTY_ON_ALL = dict([
    setting("DPMSolverPP(2, tau=1)", SDE_2M, EVEN),
    setting("DPMSolverPP(2, tau=1)", SDE_2M, INFORMATION),
    setting("DPMSolverPP(3, tau=1)", SDE_3M, EVEN),
    setting("DPMSolverPP(3, tau=1)", SDE_3M, INFORMATION),
    setting("SASolver()", s.SASolver(), INFORMATION),
    setting("ERSDE()", s.ERSDE(), EDM),
    setting("DDIM(eta=0.5)", s.DDIM(eta=0.5), ARCTAN),
    setting("DDPM()", s.DDPM(), EVEN),
])  # fmt: skip


def analytic(case: Case) -> dict[Any, Any]:
    """First-order solvers with the variance that the prior's error asks for."""
    data = jnp.asarray(case.exact(-1))
    curve = s.ErrorCurve.fit(case.prior, data, random.key(0))
    named = lambda eta: f"DDIM(eta={eta:g}, variance=curve)"
    return dict([setting(named(eta), s.DDIM(eta, curve), ARCTAN) for eta in (0.5, 1.0)])


def twenty_steps(path: Any, solvers: dict[Any, Any], runs: int) -> dict[Any, np.ndarray]:
    """Distance to the law of three modes, one a run: of each in 20 steps, of DDPM in 100."""
    case = mixture("three modes", THREE, path, 40_000)
    runner = Runner(case)
    solvers = solvers | analytic(case)

    def distances(solver: Any, schedule: Any, num_steps: int) -> np.ndarray:
        found = solver.table(path, schedule, num_steps)
        length = -(-len(found.rows.F) // 20) * 20
        drawn = (runner(run, found, length, case.num_draws) for run in range(runs))
        return np.array([case.distance(x) for x in drawn])

    found = {name: distances(*solver, 20) for name, solver in solvers.items()}
    ddpm = distances(s.DDPM(), s.LogSNRUniform(), 100)
    floor = np.array([case.distance(case.exact(run)) for run in range(runs)])
    return {**found, ("DDPM() in 100", EVEN[0]): ddpm, ("exact draws", ""): floor}


def twenty_rows() -> Iterator[Row]:
    """The same as rows, with the evaluations of 20 steps."""
    for prior, path, solvers in (
        ("three modes, 20 steps from 10 to 0.02", NARROW, TWENTY),
        ("three modes, 20 steps from 80 to 0.002", WHOLE, TWENTY_ON_ALL),
    ):
        for names, values in twenty_steps(path, solvers, 16).items():
            cost = {"DDPM() in 100": 100, "exact draws": 0}.get(names[0], 20)
            if names in solvers:
                solver, schedule = solvers[names]
                cost = len(solver.table(path, schedule, 20).rows.F)
            yield Row(prior, names[1], names[0], "law", cost, *summary(values))


def summary(values: Any) -> tuple[float, float]:
    """Mean and standard error."""
    return float(np.mean(values)), float(np.std(values, ddof=1) / np.sqrt(len(values)))


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)  # noqa: FBT003
    parts = {
        "three modes": lambda: measured(mixture("three modes", THREE)),
        "25 modes": lambda: measured(mixture("25 modes", gmm25())),
        "digits": lambda: measured(digits()),
        "20 steps": twenty_rows,
    }
    rows = []
    for name in sys.argv[1:] or parts:
        began = time.perf_counter()
        rows += parts[name]()
        print(f"{name}: {time.perf_counter() - began:.0f} s")
    with OUT.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(Row._fields)
        writer.writerows((*row[:5], f"{row.value:.4g}", f"{row.std_error:.2g}") for row in rows)
