"""Weights of multistep methods: integrals of Lagrange polynomials, by quadrature in float64.

    x' = sigma' / sigma e^(-tau^2 h) x + alpha' sum_j w_j D_j + sigma' sqrt(1 - e^(-2 tau^2 h)) z
    w_j = int_0^h c e^(-c (h - u)) l_j(lambda + u) du,        c = 1 + tau^2
    x' = alpha' / alpha x - sigma' sum_j v_j eps_j,    v_j = int_0^h e^(h - u) l_j(lambda + u) du

with h the step of lambda = log(alpha / sigma), l_j the Lagrange polynomial of node j, and tau the
noise of the reverse equation: every tau has the same marginals. The moments of the
exponential, by their recursion, lose all digits for small h; 24 Gauss-Legendre points do not.

References
----------
.. [1] Zhang and Chen, "Fast sampling of diffusion models with exponential integrator", ICLR 2023,
   arXiv:2204.13902. Equation 15.
.. [2] Xue et al., "SA-Solver: stochastic Adams solver for fast sampling of diffusion models",
   NeurIPS 2023, arXiv:2309.05019. Equation 14.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

_POINTS, _WEIGHTS = np.polynomial.legendre.leggauss(24)


def integrals(
    start: float,
    end: float,
    nodes: Any,
    kernel: Callable[[np.ndarray], np.ndarray],
    variable: Callable[[Any], Any] = lambda x: x,
) -> np.ndarray:
    """``int kernel(u) l_j(variable(u)) du`` from start to end, for each node j."""
    u = (start + end) / 2 + (end - start) / 2 * _POINTS
    weights = (end - start) / 2 * _WEIGHTS * kernel(u)
    places, nodes = np.asarray(variable(u)), np.asarray(variable(np.asarray(nodes, np.float64)))
    basis = [
        np.prod([(places - b) / (a - b) for k, b in enumerate(nodes) if k != j] or [1.0], axis=0)
        for j, a in enumerate(nodes)
    ]
    return np.stack([np.broadcast_to(row, u.shape) for row in basis]) @ weights


def of_denoised(start: float, end: float, nodes: Any, tau: float = 0.0) -> np.ndarray:
    """The w above: weights of denoised values at the nodes, all in lambda."""
    c = 1 + tau**2
    return integrals(start, end, nodes, lambda u: c * np.exp(-c * (end - u)))


def of_noise(
    start: float, end: float, nodes: Any, variable: Callable[[Any], Any] = lambda x: x
) -> np.ndarray:
    """The v above: weights of noises; the polynomial may be one in another variable of lambda."""
    return integrals(start, end, nodes, lambda u: np.exp(end - u), variable)
