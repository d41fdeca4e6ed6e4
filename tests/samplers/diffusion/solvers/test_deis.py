"""DEIS integrates its polynomials exactly; iPNDM has the weights of equal steps."""

import numpy as np
import pytest
from scipy.integrate import quad

import samplers as s
from row_by_row import Walk, eps


def basis(j, nodes, u):
    return np.prod([(u - n) / (nodes[j] - n) for k, n in enumerate(nodes) if k != j])


def moments(nodes, low, high, kappa_at):
    """``int l_j dkappa`` of each Lagrange polynomial, ``[l kappa] - int kappa dl``."""
    found = []
    for j in range(len(nodes)):
        values = [basis(j, nodes, u) for u in nodes]
        line = np.polynomial.Polynomial.fit(nodes, values, len(nodes) - 1)
        slope = line.deriv()
        inner = quad(
            lambda u, slope=slope: kappa_at(u) * slope(u), low, high, epsabs=1e-13, epsrel=1e-13
        )[0]
        found.append(line(high) * kappa_at(high) - line(low) * kappa_at(low) - inner)
    return found


@pytest.mark.parametrize("in_time", [True, False], ids=["tAB", "rhoAB"])
def test_deis_is_its_integral_by_adaptive_quadrature(in_time):
    walk = Walk(s.DEIS(3, in_time=in_time))
    x, grid, values = walk.start, walk.grid, []
    place = grid.level.t if in_time else grid.kappa
    kappa_at = (lambda t: walk.path.level(np.float64(t)).kappa) if in_time else (lambda k: k)
    for i in range(walk.num_steps):
        values = [eps(x, grid.at(i)), *values][:3]
        nodes = [place[i - j] for j in range(len(values))]
        weights = moments(nodes, place[i], place[i + 1], kappa_at)
        mixed = sum(w * e for w, e in zip(weights, values, strict=True))
        x = grid.alpha[i + 1] / grid.alpha[i] * x + grid.alpha[i + 1] * mixed
    np.testing.assert_allclose(walk.end(), x, rtol=1e-7, atol=1e-9)


def test_ipndm_is_adams_and_bashforth():
    walk = Walk(s.IPNDM(4))
    x, grid, values = walk.start, walk.grid, []
    mixes = [[1], [3 / 2, -1 / 2], np.array([23, -16, 5]) / 12, np.array([55, -59, 37, -9]) / 24]
    for i in range(walk.num_steps):
        values = [eps(x, grid.at(i)), *values]
        mixed = sum(w * e for w, e in zip(mixes[min(i, 3)], values, strict=False))
        step = grid.alpha[i + 1] * (grid.kappa[i + 1] - grid.kappa[i])
        x = grid.alpha[i + 1] / grid.alpha[i] * x + step * mixed
    walk.agrees_with(x)
