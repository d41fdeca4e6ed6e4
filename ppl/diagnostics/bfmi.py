"""Energy fraction of missing information (E-BFMI) of Hamiltonian samplers.

    E-BFMI = sum_n (E_n - E_{n-1})^2 / sum_n (E_n - mean E)^2                       ([1], eq. 3.2)

How far one momentum refresh carries the energy, against how far the energy spreads. Null: 1 or
above where the momentum is redrawn fully and the energy is near Gaussian. Below 0.3 the chain
wanders slowly between energy levels, as in funnels and heavy tails, and quantities that go with
the energy have few effective draws. Limits: it says nothing about modes, and does not apply to
samplers that keep their momentum (underdamped, microcanonical).

References
----------
.. [1] M. Betancourt, "Diagnosing suboptimal cotangent disintegrations in Hamiltonian Monte Carlo",
   2016, arXiv:1604.00695.
"""

import math

import numpy as np
from jaxtyping import Float, Shaped

THRESHOLD = 0.3


def bfmi(energy: Shaped[np.ndarray, "chain draw"]) -> Float[np.ndarray, " chain"]:
    """E-BFMI of each chain; NaN for fewer than four draws, or energies constant or not finite."""
    energy = np.asarray(energy, np.float64)
    if energy.shape[1] < 4:
        return np.full(len(energy), math.nan)
    with np.errstate(invalid="ignore", divide="ignore"):
        change = (np.diff(energy, axis=1) ** 2).mean(axis=1)
        ratio = change / energy.var(axis=1, ddof=1)
    return np.where(np.isfinite(ratio), ratio, math.nan)
