"""DDIM and DDPM: one step at a time, with more or less noise.

    x' = alpha' (r x / alpha + (1 - r) D + sqrt(kappa'^2 - kappa^2 r^2) z)

    r = kappa' / kappa                                           DDIM: Euler's method in kappa
    r = (kappa' / kappa)^2                                       DDPM: the posterior variance
    r = kappa' / kappa sqrt(1 - eta^2 (1 - (kappa' / kappa)^2))  DDIM with eta times that noise

First order; DDPM is the first-order discretization of the reverse diffusion, and for any r the
marginal of each level is right where the denoised value does not change.

The rule is the law of x' given x and the data, with D in the data's place. What D leaves open of
them, Cov[x_0 | x], is lost: on Gaussian data of variance c^2, in N equal steps h of log kappa, the
variance of the draws is too small by

    c^2 (1 + eta^2) h / 2 + O(h^2).

Analytic-DPM [3] puts its mean back: with the mean squared error of a denoised coordinate,

    S^2 = alpha'^2 (kappa'^2 - kappa^2 r^2 + (1 - r)^2 mmse(kappa)),

so that a step of any length from the right law has the right total variance, whatever the data, and
all of the law is right where these are an isotropic Gaussian. What else an average does not hold,
a covariance that differs from point to point, stays; the order is still one.

References
----------
.. [1] Song, Meng and Ermon, "Denoising diffusion implicit models", ICLR 2021, arXiv:2010.02502.
   Equations 12 and 16.
.. [2] Ho, Jain and Abbeel, "Denoising diffusion probabilistic models", NeurIPS 2020,
   arXiv:2006.11239. Algorithm 2.
.. [3] Bao, Li, Zhu and Zhang, "Analytic-DPM: an analytic estimate of the optimal reverse variance
   in diffusion probabilistic models", ICLR 2022, arXiv:2201.06503. Theorem 1, whose expected square
   of the score is another form of the mean squared error.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from samplers.diffusion.solvers.solver import Solver
from samplers.diffusion.tables import Grid, Writer


@dataclass(frozen=True)
class DDIM(Solver):
    """Denoising diffusion implicit models, with ``eta`` times DDPM's noise.

    Parameters
    ----------
    eta
        0: no noise, DDIM; 1: DDPM.
    variance
        The mean squared error of a denoised coordinate as a function of kappa, such as
        `samplers.ErrorCurve.fit`: Analytic-DDIM, and with eta = 1 Analytic-DDPM. None: as if D were
        the data.

    Differences from the paper
    --------------------------
    The variance is not clipped: the bounds of [3] hold for exact denoisers, whose mean squared
    error is within them.
    """

    eta: float = 0.0
    variance: Any = None

    def __post_init__(self) -> None:
        if not 0 <= self.eta <= 1:
            raise ValueError(f"eta must lie in [0, 1]: DDIM to DDPM; got {self.eta}")
        if self.variance is not None and not callable(self.variance):
            raise ValueError(
                "variance must be a function of kappa, the mean squared error of a denoised "
                "coordinate, such as samplers.ErrorCurve.fit(prior, data, rng_key); got "
                f"{self.variance!r}"
            )

    @property
    def consistent(self) -> bool:
        return self.variance is None  # noise alone has no mean squared error

    def write(self, writer: Writer, grid: Grid) -> None:
        shrink = grid.kappa[1:] / grid.kappa[:-1]
        r = shrink * np.sqrt(1 - self.eta**2 * (1 - shrink**2))
        contract(writer, grid, r, 0.0 if self.variance is None else self._lacking(grid))

    def _lacking(self, grid: Grid) -> np.ndarray:
        assert self.variance is not None
        mmse = np.asarray(self.variance(grid.kappa[:-1]), np.float64)
        if mmse.shape != grid.kappa[:-1].shape or not np.all(mmse >= 0):
            raise ValueError(
                "variance(kappa) must be numbers of at least 0, one for each of "
                f"{grid.num_steps} levels; got {mmse}"
            )
        return mmse


@dataclass(frozen=True)
class DDPM(Solver):
    """Denoising diffusion probabilistic models: ancestral sampling."""

    def write(self, writer: Writer, grid: Grid) -> None:
        contract(writer, grid, (grid.kappa[1:] / grid.kappa[:-1]) ** 2)


def contract(writer: Writer, grid: Grid, r: np.ndarray, mmse: np.ndarray | float = 0.0) -> None:
    """Rows of the first-order step with contraction r, one number a step."""
    variance = grid.kappa[1:] ** 2 - (grid.kappa[:-1] * r) ** 2 + (1 - r) ** 2 * mmse
    S = grid.alpha[1:] * np.sqrt(np.where(variance > 1e-14 * grid.kappa[1:] ** 2, variance, 0.0))
    for i in range(grid.num_steps):
        A, B = grid.alpha[i + 1] / grid.alpha[i] * r[i], grid.alpha[i + 1] * (1 - r[i])
        writer.add(grid.at(i), A, [B], S[i], arrives=grid.at(i + 1))
