"""Solvers that are the same method give the same draws: across paths, names and forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import samplers as s
import toy_mixture
from samplers.diffusion.integrate import integrate
from samplers.diffusion.schedules import LogSNRUniform, grid

pytestmark = pytest.mark.usefixtures("unoptimized")

KAPPAS = np.array([toy_mixture.FIRST, toy_mixture.LAST])
LEVELS = np.exp(np.linspace(*np.log(KAPPAS), 13))


def on(path):
    """The same levels of noise on any path."""
    high, low = path.time(-np.log(KAPPAS))
    return type(path)(t_min=low, t_max=high)


@jax.jit
def _run(x, rows):
    denoiser = lambda x, level: toy_mixture.denoise(x / level.alpha, level.kappa)
    return integrate(jax.random.key(0), denoiser, x, rows)[0].x


def run(solver, path=None, num_steps=12):
    table = solver.table(path or on(s.VE()), LogSNRUniform(), num_steps, denoise_last=False)
    x = table.grid.sigma[0] / toy_mixture.FIRST * toy_mixture.starts()[:8]
    return np.asarray(_run(jnp.asarray(x), table.rows)) / table.grid.alpha[-1]


def same(a, b, rtol=1e-10):
    return np.max(np.abs(a - b)) < rtol * np.max(np.abs(a))


@pytest.mark.parametrize(
    "solver",
    [s.DDIM(), s.DDPM(), s.DPMSolverPP(3), s.DPMSolver(3), s.IPNDM(), s.UniPC(3),
     s.SASolver(), s.ERSDE(3), s.Heun(churn=10.0), s.GHVB(3), s.HB(2),
     s.Restart(), s.AcceleratedDDIM()],
    ids=lambda solver: type(solver).__name__,
)  # fmt: skip
def test_paths_give_the_same_samples_on_one_grid(solver, x64):
    """Variance-preserving, exploding and straight: solvers see kappa and lambda alone."""
    first = run(solver, on(s.VE()))
    for path in (s.VPLinear(), s.StraightFlow(), s.EDM(), s.SubVP(), s.VPCosine()):
        assert same(run(solver, on(path)), first)


def test_only_polynomials_in_time_depend_on_the_path(x64):
    assert not same(run(s.DEIS(3), on(s.VPLinear())), run(s.DEIS(3), on(s.VE())), 1e-4)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (s.UniPC(2, corrector=False), s.DPMSolverPP(2)),
        (s.ERSDE(1, phi=lambda kappa: kappa), s.DDIM()),
        (s.ERSDE(1, phi=lambda kappa: kappa**2), s.DDPM()),
        (s.DDIM(eta=1.0), s.DDPM()),
        (s.DPMSolverPP(1, tau=1.0), s.DDPM()),
        (s.SASolver(1, 0, tau=1.0, window=(0.0, 1.0)), s.DDPM()),
        (s.DPMSolverPP(1), s.DDIM()),
        (s.GHVB(3, beta=1.0), s.IPNDM(3)),
        (s.HB(4, beta=1.0), s.IPNDM(4)),
        (s.GHVB(1, beta=0.8), s.HB(1, beta=0.8)),
        (s.GradientEstimation(1.0), s.DDIM()),
        (s.GradientEstimation(1.5), s.IPNDM(2)),
        (s.DPMSolver(2), s.DPM2()),
    ],
    ids=lambda solver: repr(solver)[:40],
)
def test_names_of_one_method(one, other, x64):
    assert same(run(one), run(other))


def test_runs_that_end_with_a_lower_order_are_the_same_too(x64):
    one = s.UniPC(2, corrector=False, lower_order_final=True)
    other = s.DPMSolverPP(2, lower_order_final=True)
    assert same(run(one), run(other))
    assert not same(run(one), run(s.DPMSolverPP(2)), 1e-4)


def test_euler_on_the_velocity_of_the_straight_path_is_ddim(x64):
    path = on(s.StraightFlow())
    t = grid(path, LogSNRUniform(), 12).level.t
    x = t[0] / toy_mixture.FIRST * toy_mixture.starts()[:8]
    for now, after in zip(t[:-1], t[1:], strict=True):
        denoised = toy_mixture.denoise_many(x / (1 - now), now / (1 - now))
        x = x + (after - now) * (x - denoised) / now
    assert same(run(s.DDIM(), path), x / (1 - t[-1]))


def test_adams_without_noise_is_3m_once_it_has_its_history(x64):
    rows = [
        solver.table(on(s.VE()), LogSNRUniform(), 12, denoise_last=False).rows
        for solver in (s.SASolver(3, 0, tau=0.0), s.DPMSolverPP(3))
    ]
    np.testing.assert_allclose(rows[0].B[2:], rows[1].B[2:], rtol=1e-10)
