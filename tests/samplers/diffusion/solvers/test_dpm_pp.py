"""DPM-Solver++ in single and several steps, as the paper and its code write it."""

import numpy as np
import pytest

import samplers as s
from row_by_row import Walk, denoised


def steps(walk):
    grid = walk.grid
    for i in range(walk.num_steps):
        yield i, grid.at(i), grid.at(i + 1), grid.log_snr[i + 1] - grid.log_snr[i]


@pytest.mark.parametrize("tau", [0.0, 1.0])
def test_2m_is_algorithm_2_with_noise_or_without(tau):
    walk = Walk(s.DPMSolverPP(2, tau=tau, lower_order_final=False))
    x, values, c = walk.start, [], 1 + tau**2
    h_before = None
    for i, here, there, h in steps(walk):
        values = [denoised(x, here), *values]
        mixed = values[0]
        if i:
            r = h_before / h
            mixed = (1 + 1 / (2 * r)) * values[0] - values[1] / (2 * r)
        x = there.sigma / here.sigma * np.exp(-(tau**2) * h) * x
        x = x - there.alpha * np.expm1(-c * h) * mixed
        if tau:
            x = x + there.sigma * np.sqrt(1 - np.exp(-2 * tau**2 * h)) * walk.noise(i)[0]
        h_before = h
    walk.agrees_with(x)


@pytest.mark.parametrize("published", [True, False])
def test_3m_as_published_halves_the_second_derivative(published):
    walk = Walk(s.DPMSolverPP(3, published_3m=published, lower_order_final=False))
    x, values, before = walk.start, [], []
    for i, here, there, h in steps(walk):
        values, phi = [denoised(x, here), *values], np.expm1(-h)
        x = there.sigma / here.sigma * x - there.alpha * phi * values[0]
        if i == 1:
            x = x - there.alpha * phi * (values[0] - values[1]) * h / before[0] / 2
        elif i > 1:
            r0, r1 = before[0] / h, before[1] / h
            new, old = (values[0] - values[1]) / r0, (values[1] - values[2]) / r1
            slope = new + r0 / (r0 + r1) * (new - old)
            curve = (new - old) / (r0 + r1) * (1 if published else 2)
            x = x + there.alpha * (phi / h + 1) * slope
            x = x - there.alpha * ((phi / h + 1) / h - 0.5) * curve
        before = [h, *before]
    walk.agrees_with(x)


@pytest.mark.parametrize("order", [2, 3])
def test_single_steps_are_algorithm_1(order):
    walk = Walk(s.DPMSolverPPSingle(order))
    x, grid = walk.start, walk.grid
    r, q = (1 / 2, None) if order == 2 else (1 / 3, 2 / 3)
    for i, here, there, h in steps(walk):
        first = denoised(x, here)
        at = lambda share, i=i, h=h: grid.between(grid.log_snr[i] + share * h)
        ahead = lambda to, share, x=x, here=here, first=first, h=h: (
            to.sigma / here.sigma * x - to.alpha * np.expm1(-share * h) * first
        )
        change = denoised(ahead(at(r), r), at(r)) - first
        if order == 2:
            x = ahead(there, 1) - there.alpha * np.expm1(-h) / (2 * r) * change
            continue
        v = ahead(at(q), q) + at(q).alpha * q / r * (np.expm1(-q * h) / (q * h) + 1) * change
        change = denoised(v, at(q)) - first
        x = ahead(there, 1) + there.alpha / q * (np.expm1(-h) / h + 1) * change
    walk.agrees_with(x)


def test_a_weight_off_by_a_thousandth_is_seen():
    walk = Walk(s.DPMSolverPP(2))
    right = walk.end()
    walk.agrees_with(right)
    walk.rows = walk.rows._replace(B=1.001 * walk.rows.B)
    with pytest.raises(AssertionError):
        walk.agrees_with(right)


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="tau must not be negative; got -1"):
        s.DPMSolverPP(tau=-1.0)
    with pytest.raises(ValueError, match="order must be one of 1, 2, 3; got 4"):
        s.DPMSolverPP(4)
