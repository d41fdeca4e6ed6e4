"""SA-Solver: stochastic Adams steps, a predictor and a corrector that share one noise.

    x' = sigma' / sigma e^(-tau^2 h) x + alpha' sum_j w_j D_j + sigma' sqrt(1 - e^(-2 tau^2 h)) z

with the weights of `samplers.diffusion.lagrange`: over the last values for the predictor, over the
new one and the last ones for the corrector, which takes the noise z of the predictor. tau says how
stochastic the reverse equation is; it is constant in each step, and nonzero in a window. Without
noise the orders are those of Adams methods; with noise the weak order is two at most, whatever the
polynomials.

References
----------
.. [1] Xue et al., "SA-Solver: stochastic Adams solver for fast sampling of diffusion models",
   NeurIPS 2023, arXiv:2309.05019. Algorithm 1.
"""

from dataclasses import dataclass

import numpy as np

from samplers.diffusion import lagrange
from samplers.diffusion.paths import VPLinear
from samplers.diffusion.solvers.multistep import predict_and_correct, recent
from samplers.diffusion.solvers.solver import Solver, not_negative, one_of
from samplers.diffusion.tables import Grid, Writer


@dataclass(frozen=True)
class SASolver(Solver):
    """Stochastic Adams solver (SA-Solver).

    Parameters
    ----------
    predictor, corrector
        Values that each polynomial goes through, 1 to 4; a corrector of 0 is none. (2, 2) for
        models under guidance.
    tau
        Noise of the reverse equation inside the window.
    window
        Times between which there is noise, those of the variance-preserving path `VPLinear`: on
        another path, of the same ratio of noise and data. By default kappa is 0.72 to 25.

    Differences from the paper
    --------------------------
    The paper's code changes the weights of order 2 in runs of few steps; ours are the exact
    integrals.
    """

    predictor: int = 3
    corrector: int = 4
    tau: float = 1.0
    window: tuple[float, float] = (0.2, 0.8)

    def __post_init__(self) -> None:
        one_of("predictor", self.predictor, (1, 2, 3, 4))
        one_of("corrector", self.corrector, (0, 1, 2, 3, 4))
        not_negative("tau", self.tau)

    @property
    def fewest_steps(self) -> int:
        return max(self.predictor, self.corrector - 1)

    def write(self, writer: Writer, grid: Grid) -> None:
        lam, h = grid.log_snr, np.diff(grid.log_snr)
        t = np.asarray(VPLinear().time(lam[:-1]))
        tau = np.where((t >= self.window[0]) & (t <= self.window[1]), self.tau, 0.0)

        def weights(i: int, nodes: np.ndarray) -> np.ndarray:
            return grid.alpha[i + 1] * lagrange.of_denoised(lam[i], lam[i + 1], nodes, tau[i])

        steps = range(grid.num_steps)
        predictor = [weights(i, recent(lam, i, self.predictor)) for i in steps]
        corrector = None
        if self.corrector:
            corrector = [weights(i, recent(lam, i + 1, self.corrector)) for i in steps]
        A = grid.sigma[1:] / grid.sigma[:-1] * np.exp(-(tau**2) * h)
        S = grid.sigma[1:] * np.sqrt(-np.expm1(-2 * tau**2 * h))
        predict_and_correct(writer, grid, A, predictor, corrector, S)
