"""Weights of multistep methods integrate polynomials exactly, up to their degree and no further."""

import numpy as np
import pytest
from scipy.integrate import quad

from samplers.diffusion import lagrange

NODES = np.array([0.3, -0.5, -1.0])  # from the newest
STEP = 0.4
START, END = NODES[0], NODES[0] + STEP


@pytest.mark.parametrize("tau", [0.0, 1.0])
def test_polynomials_of_denoised_values_are_integrated_exactly(tau):
    c = 1 + tau**2
    weights = lagrange.of_denoised(START, END, NODES, tau)
    for power in range(4):
        exact, _ = quad(lambda u, k=power: c * np.exp(-c * (END - u)) * u**k, START, END)
        assert (abs(weights @ NODES**power - exact) < 1e-12) == (power < 3)


@pytest.mark.parametrize("variable", [lambda u: u, lambda u: np.exp(-u)], ids=["lambda", "kappa"])
def test_polynomials_of_noises_are_integrated_exactly_in_any_variable(variable):
    weights = lagrange.of_noise(START, END, NODES, variable)
    for power in range(4):
        exact, _ = quad(lambda u, k=power: np.exp(END - u) * variable(u) ** k, START, END)
        assert (abs(weights @ variable(NODES) ** power - exact) < 1e-12) == (power < 3)
