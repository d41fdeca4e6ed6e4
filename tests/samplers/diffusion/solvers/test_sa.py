"""SA-Solver predicts, evaluates, and corrects with that value and the same noise."""

import numpy as np
import pytest
from scipy.integrate import quad

import samplers as s
from row_by_row import Walk, denoised


def weights(lam, low, high, nodes, tau):
    """``int c e^(-c (high - u)) l_j(u) du`` by adaptive quadrature, c = 1 + tau^2."""
    c, found = 1 + tau**2, []
    for j in range(len(nodes)):
        others = [lam[n] for m, n in enumerate(nodes) if m != j]
        line = lambda u, o=others, n=lam[nodes[j]]: np.prod([(u - a) / (n - a) for a in o])
        kernel = lambda u, line=line: c * np.exp(-c * (lam[high] - u)) * line(u)
        found.append(quad(kernel, lam[low], lam[high], epsabs=1e-13, epsrel=1e-12)[0])
    return found


@pytest.mark.parametrize(("predictor", "corrector"), [(2, 2), (3, 4), (1, 0)])
def test_it_is_algorithm_1(predictor, corrector):
    """On a window that all steps are in, and of which the last ones are not."""
    walk = Walk(s.SASolver(predictor, corrector, tau=0.8, window=(0.3, 1.0)))
    grid, lam, h = walk.grid, walk.grid.log_snr, np.diff(walk.grid.log_snr)
    tau = np.where(s.VPLinear().time(lam[:-1]) >= 0.3, 0.8, 0.0)
    assert 0 < np.count_nonzero(tau) < walk.num_steps
    x, predicted, linear, values = walk.start, walk.start, 0.0, []
    for i in range(walk.num_steps + 1):
        values.append(denoised(predicted, grid.at(i)))
        if i and i < walk.num_steps and corrector:
            recent = range(i, max(i - corrector, -1), -1)
            x = linear + sum(
                grid.alpha[i] * w * values[n]
                for w, n in zip(weights(lam, i - 1, i, recent, tau[i - 1]), recent, strict=True)
            )
        else:
            x = predicted
        if i == walk.num_steps:
            break
        linear = grid.sigma[i + 1] / grid.sigma[i] * np.exp(-(tau[i] ** 2) * h[i]) * x
        noise = grid.sigma[i + 1] * np.sqrt(1 - np.exp(-2 * tau[i] ** 2 * h[i]))
        linear = linear + noise * walk.noise(i)[0]
        recent = range(i, max(i - predictor, -1), -1)
        predicted = linear + sum(
            grid.alpha[i + 1] * w * values[n]
            for w, n in zip(weights(lam, i, i + 1, recent, tau[i]), recent, strict=True)
        )
    np.testing.assert_allclose(walk.end(), predicted, rtol=1e-8, atol=1e-10)


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="corrector must be one of 0, 1, 2, 3, 4; got 5"):
        s.SASolver(corrector=5)
