"""Every solver has the order it claims, on a mixture whose exact flow is known, in float64.

Errors at 32 to 256 evaluations; slopes are those of a line through their logarithms. Figures beside
the slopes are the errors at 64 evaluations, measured here and, for most, in an earlier prototype.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import samplers as s
import toy_mixture
from samplers.diffusion.integrate import integrate
from samplers.diffusion.paths import EDM, VPLinear
from samplers.diffusion.schedules import LogSNRUniform
from samplers.diffusion.tables import padded, propagate

PATH = EDM(t_min=toy_mixture.LAST, t_max=toy_mixture.FIRST)
COUNTS = (32, 64, 128, 256)


def between(path):
    """The path from one end of the truth to the other."""
    high, low = path.time(-np.log(np.array([toy_mixture.FIRST, toy_mixture.LAST])))
    return type(path)(t_min=low, t_max=high)


@jax.jit
def flow(x, rows):
    # One program for all tables of one length.
    denoiser = lambda x, level: toy_mixture.denoise(x / level.alpha, level.kappa)
    return integrate(jax.random.key(0), denoiser, x, rows)[0].x


def solved(solver, evaluations, path=PATH):
    """Ends of the 64 starts, in units of the data, and the evaluations spent."""
    num_steps = evaluations // solver.evaluations_per_step
    table = solver.table(path, LogSNRUniform(), num_steps, denoise_last=False)
    x = jnp.asarray(table.grid.sigma[0] / toy_mixture.FIRST * toy_mixture.starts())
    rows = padded(table.rows, evaluations, registers=2, history=4)
    return np.asarray(flow(x, rows)) / table.grid.alpha[-1], len(table.rows.F)


def errors(solver, path=PATH):
    runs = [solved(solver, n, path) for n in COUNTS]
    return (
        np.array([np.sqrt(np.mean((y - toy_mixture.ends()) ** 2)) for y, _ in runs]),
        np.array([spent for _, spent in runs]),
    )


def slope(errors, spent):
    return -np.polyfit(np.log(spent), np.log(errors), 1)[0]


IN_KAPPA = lambda kappa: kappa
ODE = {
    "DDIM": (s.DDIM(), 1.09, 3.0e-2),
    "2M": (s.DPMSolverPP(2), 2.02, 1.1e-3),
    "3M": (s.DPMSolverPP(3), 3.00, 9.7e-5),
    "3M, as published": (s.DPMSolverPP(3, published_3m=True), 2.19, 2.4e-4),
    "2S": (s.DPMSolver(2), 1.95, 1.3e-3),
    "3S": (s.DPMSolver(3), 2.79, 2.2e-4),
    "2S++": (s.DPMSolverPPSingle(2), 2.09, 3.1e-3),
    "3S++": (s.DPMSolverPPSingle(3), 2.75, 5.9e-4),
    "rhoAB of 2": (s.DEIS(2, in_time=False), 2.11, 2.8e-3),
    "rhoAB of 3": (s.DEIS(3, in_time=False), 2.85, 6.3e-4),
    "rhoAB of 4": (s.DEIS(4, in_time=False), 3.65, 1.8e-4),
    "iPNDM": (s.IPNDM(), 1.92, 2.3e-4),
    "UniPC-2": (s.UniPC(2), 2.94, 1.7e-4),
    "UniPC-2, bh1": (s.UniPC(2, bh=1), 2.97, 1.2e-4),
    "UniPC-3": (s.UniPC(3), 4.07, 1.3e-5),
    "SA-Solver without noise": (s.SASolver(tau=0.0), 4.07, 1.3e-5),
    "ER-SDE of 2 without noise": (s.ERSDE(2, phi=IN_KAPPA), 2.08, 1.9e-3),
    "ER-SDE of 3 without noise": (s.ERSDE(3, phi=IN_KAPPA), 2.93, 3.4e-4),
    "ER-SDE of 3, as published": (s.ERSDE(3, phi=IN_KAPPA, published=True), 2.13, 1.3e-3),
    "gradient estimation": (s.GradientEstimation(), 0.80, 1.2e-2),
    "gradient estimation, AB2": (s.GradientEstimation(1.5), 2.0, None),
    "HB": (s.HB(1), 0.91, 3.8e-2),
    "GHVB-1.8": (s.GHVB(2, 0.8), 2.04, 2.1e-3),
    "GHVB-2.8": (s.GHVB(3, 0.8), 2.24, 1.9e-4),
    "Heun": (s.Heun(), 2.03, 1.9e-3),
    "DPM-2": (s.DPM2(), 1.95, 1.3e-3),
    "BDIA": (s.BDIA(), 1.99, 3.6e-4),
    "accelerated DDIM": (s.AcceleratedDDIM(), 1.65, 1.0e-2),
}


@pytest.mark.parametrize("name", ODE)
def test_the_order_of_a_deterministic_solver(name, x64):
    solver, order, at_64 = ODE[name]
    measured, spent = errors(solver)
    assert slope(measured, spent) == pytest.approx(order, abs=0.3)
    if at_64 is not None:
        assert measured[1] == pytest.approx(at_64, rel=0.05)


def test_the_order_of_polynomials_in_the_path_s_time(x64):
    """On a path whose time is not kappa."""
    for order in (2, 3):
        measured = slope(*errors(s.DEIS(order), between(VPLinear())))
        assert measured == pytest.approx(order, abs=0.3)


def test_the_second_score_makes_the_accelerated_sampler_one_of_order_two(x64):
    coarse, fine = (errors_at(s.AcceleratedDDIM(), n) for n in (256, 512))
    assert coarse / fine == pytest.approx(4, abs=0.6)


def test_edict_has_the_order_of_ddim(x64):
    coarse, fine = (errors_at(s.EDICT(), n) for n in (256, 512))
    assert fine == pytest.approx(3.4e-3, rel=0.05)
    assert coarse / fine == pytest.approx(2, abs=0.3)


def errors_at(solver, evaluations):
    return np.sqrt(np.mean((solved(solver, evaluations)[0] - toy_mixture.ends()) ** 2))


def test_weights_off_by_a_few_percent_loses_the_order(x64):
    class Wrong(s.DPMSolverPP):
        def _weights(self, grid, i):
            weights = super()._weights(grid, i)
            slip = 0.05 * weights[0]
            return weights + slip * np.array([1.0, -1.0]) if len(weights) == 2 else weights

    assert slope(*errors(Wrong(2))) < 1.7


# Stochastic solvers: on Gaussian data every table is linear, so that no draw is needed -----------

MEAN, VARIANCE = 1.5, 0.3


def variance_error(solver, num_steps):
    """Error of the variance at the end, and of the mean."""
    full = VPLinear()
    path = VPLinear(t_min=full.time(-np.log(0.02)), t_max=full.time(-np.log(10.0)))
    grid, rows = solver.table(path, LogSNRUniform(), num_steps, denoise_last=False)
    alpha, sigma = rows.level.alpha, rows.level.sigma
    gain = alpha * VARIANCE / (alpha**2 * VARIANCE + sigma**2)
    spread = grid.alpha**2 * VARIANCE + grid.sigma**2
    end = propagate(rows, gain, MEAN - gain * alpha * MEAN, grid.alpha[0] * MEAN, spread[0])
    return abs(end.variance[-1] - spread[-1]), abs(end.mean[-1] - grid.alpha[-1] * MEAN)


ALWAYS = (0.0, 1.0)
SDE = {
    "DDPM": (s.DDPM(), 0.95),
    "DDIM, eta 0.5": (s.DDIM(eta=0.5), 0.96),
    "SA-Solver p1 c2": (s.SASolver(1, 2, window=ALWAYS), 1.96),
    "SA-Solver p2": (s.SASolver(2, 0, window=ALWAYS), 2.03),
    "SA-Solver p3": (s.SASolver(3, 0, window=ALWAYS), 2.08),
    "SA-Solver p3 c4": (s.SASolver(3, 4, window=ALWAYS), 1.99),
    "SDE-2M": (s.DPMSolverPP(2, tau=1.0), 1.99),
    "SDE-3M": (s.DPMSolverPP(3, tau=1.0), 2.08),
    "ER-SDE-1": (s.ERSDE(1), 0.98),
    "ER-SDE-2": (s.ERSDE(2), 2.03),
    "ER-SDE-3": (s.ERSDE(3), 2.99),
}


@pytest.mark.parametrize("name", SDE)
def test_the_weak_order_of_a_stochastic_solver_and_its_exact_mean(name):
    solver, order = SDE[name]
    runs = np.array([variance_error(solver, n) for n in COUNTS])
    assert slope(runs[:, 0], COUNTS) == pytest.approx(order, abs=0.3)
    assert np.all(runs[:, 1] < 1e-12)


@pytest.mark.parametrize(
    "solver",
    [s.SASolver(), s.DPMSolverPP(2, tau=1.0), s.ERSDE(), s.Heun(churn=5.0)],
    ids=lambda solver: type(solver).__name__,
)
def test_twenty_steps_with_noise_leave_less_error_than_a_hundred_of_ddpm(solver):
    assert variance_error(solver, 20)[0] < variance_error(s.DDPM(), 100)[0]


def test_the_midpoint_of_sde_2m_halves_the_error_of_adams():
    midpoint, adams = (variance_error(SDE[name][0], 128)[0] for name in ("SDE-2M", "SA-Solver p2"))
    assert midpoint == pytest.approx(2.3e-4, rel=0.05)
    assert adams == pytest.approx(4.8e-4, rel=0.05)
