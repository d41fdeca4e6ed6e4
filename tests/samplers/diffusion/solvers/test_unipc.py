"""UniPC is its two algorithms, and Adams' methods where its equations are solved in full."""

import math

import numpy as np
import pytest

import samplers as s
from row_by_row import Walk, denoised
from samplers.diffusion import lagrange
from samplers.diffusion.solvers.multistep import recent


def solved(h, nodes, bh):
    """Weights of D_i and of the values at the nodes, by the paper's linear equations."""
    hh, weights = -h, np.zeros(len(nodes) + 1)
    B = hh if bh == 1 else math.expm1(hh)
    psi = lambda m: sum(hh**k / math.factorial(k + m - 1) for k in range(1, 40))
    b = [math.factorial(m) * psi(m + 1) / B for m in range(1, len(nodes) + 1)]
    if len(nodes) < 2:
        rho = [0.5] * len(nodes)
    else:
        rho = np.linalg.solve([[r ** (m - 1) for r in nodes] for m in range(1, len(b) + 1)], b)
    for k, r in enumerate(nodes):
        weights[k + 1] -= B * rho[k] / r
        weights[0] += B * rho[k] / r
    weights[0] -= math.expm1(hh)
    return weights


def algorithms_1_and_2(walk, order, bh, corrector):
    """Predict, evaluate, correct with that value; the next step asks nothing anew."""
    grid, lam, values = walk.grid, walk.grid.log_snr, []
    x = predicted = walk.start
    for i in range(walk.num_steps):
        values = [denoised(predicted, grid.at(i)), *values]
        if i > 0 and corrector:
            h, p = lam[i] - lam[i - 1], min(order, i, walk.num_steps - i + 1)
            past = [(lam[i - 1 - k] - lam[i - 1]) / h for k in range(1, p)]
            new, here, *older = values[: p + 1]
            mix = np.tensordot(solved(h, [1.0, *past], bh), np.array([here, new, *older]), 1)
            x = grid.sigma[i] / grid.sigma[i - 1] * x + grid.alpha[i] * mix
        elif i > 0:
            x = predicted
        h, p = lam[i + 1] - lam[i], min(order, i + 1, walk.num_steps - i)
        past = [(lam[i - k] - lam[i]) / h for k in range(1, p)]
        mix = np.tensordot(solved(h, past, bh), np.array(values[:p]), 1)
        predicted = grid.sigma[i + 1] / grid.sigma[i] * x + grid.alpha[i + 1] * mix
    return predicted


@pytest.mark.parametrize("corrector", [True, False], ids=["UniPC", "UniP"])
@pytest.mark.parametrize("bh", [1, 2])
@pytest.mark.parametrize("order", [1, 2, 3])
def test_it_is_its_algorithms(order, bh, corrector):
    walk = Walk(s.UniPC(order, bh, corrector=corrector, lower_order_final=True))
    walk.agrees_with(algorithms_1_and_2(walk, order, bh, corrector))


def test_the_other_b_is_seen():
    walk = Walk(s.UniPC(2, 1, lower_order_final=True))
    with pytest.raises(AssertionError):
        walk.agrees_with(algorithms_1_and_2(walk, 2, 2, corrector=True))


def test_it_is_a_predictor_and_a_corrector_of_adams():
    """With full solves B cancels: the weights are those of Lagrange polynomials."""
    walk = Walk(s.UniPC(3), num_steps=12, path=s.VE)
    lam, sigma = walk.grid.log_snr, walk.grid.sigma
    for i in (5, 6):
        plain = lagrange.of_denoised(lam[i], lam[i + 1], recent(lam, i, 3))
        before = lagrange.of_denoised(lam[i - 1], lam[i], recent(lam, i - 1, 3))
        after = lagrange.of_denoised(lam[i - 1], lam[i], recent(lam, i, 4))
        expected = sigma[i + 1] / sigma[i] * (after - np.append(0.0, before))
        expected[:3] += plain
        np.testing.assert_allclose(walk.rows.B[i, 0], expected, rtol=1e-9)


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="order must be one of 1, 2, 3, 4; got 5"):
        s.UniPC(5)
    with pytest.raises(ValueError, match="bh must be one of 1, 2; got 3"):
        s.UniPC(bh=3)
