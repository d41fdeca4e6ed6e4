"""DDIM's variance: what is lost in a step, to first order, and what puts it back."""

import numpy as np
import pytest

import samplers as s
from samplers.diffusion.tables import propagate

SCALE = 0.7  # of Gaussian data, whose denoiser is linear: what a table does to it is exact


def mmse(kappa):
    return SCALE**2 * kappa**2 / (SCALE**2 + kappa**2)


def variances(solver, path, schedule, num_steps):
    """At each level: those of the draws, and the right ones."""
    levels, rows = solver.table(path, schedule, num_steps, denoise_last=False)
    right = levels.alpha**2 * SCALE**2 + levels.sigma**2
    gain = rows.level.alpha * SCALE**2 / (rows.level.alpha**2 * SCALE**2 + rows.level.sigma**2)
    moments = propagate(rows, gain, 0.0, 0.0, right[0])
    return moments.variance, right[1:]


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize(
    "path", [s.EDM(), s.VPLinear(), s.StraightFlow()], ids=lambda x: type(x).__name__
)
def test_the_analytic_variance_keeps_a_gaussian_in_any_number_of_steps(eta, path):
    for num_steps in (1, 3, 20):
        got, right = variances(s.DDIM(eta, mmse), path, s.LogSNRUniform(), num_steps)
        np.testing.assert_allclose(got, right, rtol=1e-9)
    half = lambda kappa: mmse(kappa) / 2
    got, right = variances(s.DDIM(eta, half), path, s.LogSNRUniform(), 3)
    assert got[-1] < 0.9 * right[-1]


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_without_it_the_variance_is_lost_to_first_order(eta):
    """``(1 + eta^2) h / 2`` of the data's, in equal steps h of log kappa."""
    num_steps, path = 400, s.EDM(t_min=1e-3, t_max=1e3)
    got, right = variances(s.DDIM(eta), path, s.LogSNRUniform(), num_steps)
    h = np.log(1e6) / num_steps
    assert 1 - got[-1] / right[-1] == pytest.approx((1 + eta**2) * h / 2, rel=0.03)


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match=r"eta must lie in \[0, 1\]: DDIM to DDPM; got 1.5"):
        s.DDIM(eta=1.5)
    with pytest.raises(ValueError, match=r"variance must be a function of kappa.*got 0\.3"):
        s.DDIM(0.5, variance=0.3)
    for wrong in (lambda kappa: -kappa, lambda kappa: 1.0):
        with pytest.raises(
            ValueError, match="numbers of at least 0, one for each of 5 levels; got"
        ):
            s.DDIM(0.5, wrong).table(s.EDM(), s.EDMSchedule(), 6)
