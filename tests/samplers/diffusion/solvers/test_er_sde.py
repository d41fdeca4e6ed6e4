"""ER-SDE integrates its polynomial exactly; as published its derivatives are the paper's."""

import numpy as np
import pytest
from scipy.integrate import quad

import samplers as s
from row_by_row import Walk, denoised


def phi_5(kappa):
    """Table 1 of the paper, "SDE 5"."""
    return kappa * (np.exp(kappa**0.3) + 10)


def integral(f, here, there):
    return quad(f, there, here, epsabs=1e-13, epsrel=1e-12)[0]


def step(walk, x, i, mean):
    """The linear part, and noise for what phi lacks of the flow."""
    k, grid = walk.grid.kappa, walk.grid
    r = phi_5(k[i + 1]) / phi_5(k[i])
    y = r * x / grid.alpha[i] + mean
    return grid.alpha[i + 1] * (y + np.sqrt(k[i + 1] ** 2 - (k[i] * r) ** 2) * walk.noise(i)[0])


def test_it_is_the_integral_of_a_polynomial_by_adaptive_quadrature():
    walk = Walk(s.ERSDE(3))
    x, k, values = walk.start, walk.grid.kappa, []
    rate = lambda u: (phi_5(u * (1 + 1e-6)) - phi_5(u * (1 - 1e-6))) / (2e-6 * u)
    for i in range(walk.num_steps):
        values = [denoised(x, walk.grid.at(i)), *values][:3]
        nodes, mean = k[i - len(values) + 1 : i + 1][::-1], 0.0
        for j, value in enumerate(values):
            others = [n for m, n in enumerate(nodes) if m != j]
            line = lambda u, o=others, n=nodes[j]: np.prod([(u - a) / (n - a) for a in o])
            weight = integral(
                lambda u, line=line: line(u) * rate(u) / phi_5(u) ** 2, k[i], k[i + 1]
            )
            mean = mean + phi_5(k[i + 1]) * weight * value
        x = step(walk, x, i, mean)
    np.testing.assert_allclose(walk.end(), x, rtol=1e-6, atol=1e-8)


def test_as_published_it_is_algorithm_3():
    walk = Walk(s.ERSDE(3, published=True))
    x, k, values, slopes = walk.start, walk.grid.kappa, [], []
    for i in range(walk.num_steps):
        values, phi = [denoised(x, walk.grid.at(i)), *values], phi_5(k[i + 1])
        mean, fall = (1 - phi / phi_5(k[i])) * values[0], k[i + 1] - k[i]
        if i:
            slopes = [(values[0] - values[1]) / (k[i] - k[i - 1]), *slopes]
            mean = (
                mean + (fall + phi * integral(lambda u: 1 / phi_5(u), k[i], k[i + 1])) * slopes[0]
            )
        if i > 1:
            curve = 2 * (slopes[0] - slopes[1]) / (k[i] - k[i - 2])
            tail = integral(lambda u, i=i: (u - k[i]) / phi_5(u), k[i], k[i + 1])
            mean = mean + (fall**2 / 2 + phi * tail) * curve
        x = step(walk, x, i, mean)
    walk.agrees_with(x)


def test_less_noise_than_none_is_refused():
    with pytest.raises(ValueError, match="phi must grow at least as fast as kappa; between kappa"):
        s.ERSDE(phi=np.sqrt).table(s.EDM(), s.EDMSchedule(), 10)
