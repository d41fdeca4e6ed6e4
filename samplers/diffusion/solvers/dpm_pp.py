"""DPM-Solver++: multistep and Runge-Kutta steps in the denoised value, with noise or without.

    x' = sigma' / sigma e^(-tau^2 h) x + alpha' (weights of D) + sigma' sqrt(1 - e^(-2 tau^2 h)) z

h is the step of lambda, and with c = 1 + tau^2 and E = 1 - e^(-c h) the weights are

    2M   E ((1 + 1 / (2 r)) D_i - 1 / (2 r) D_(i-1)),    r = (previous h) / h
    3M   those of the parabola through D_i, D_(i-1), D_(i-2) (see `samplers.diffusion.lagrange`)
    2S   E (D(x) + (D(u) - D(x)) / (2 r)),     u one step of order 1 to lambda + r h,  r = 1/2
    3S   E D(x) + (1 - E / h) / s (D(v) - D(x)),   v at lambda + s h,  r = 1/3,  s = 2/3

tau = 0 is the probability flow, of order 2 or 3; tau = 1 the reverse diffusion (SDE-DPM-Solver++),
of weak order 2. Warm-up steps have the order that their history allows.

References
----------
.. [1] Lu et al., "DPM-Solver++: fast solver for guided sampling of diffusion probabilistic models",
   2022, arXiv:2211.01095. Algorithms 1 and 2, appendix A.
"""

from dataclasses import dataclass

import numpy as np

from samplers.diffusion import lagrange
from samplers.diffusion.solvers.multistep import predict_and_correct, recent
from samplers.diffusion.solvers.solver import Solver, final_order, not_negative, one_of
from samplers.diffusion.tables import Grid, Writer


@dataclass(frozen=True)
class DPMSolverPP(Solver):
    """DPM-Solver++ in several steps: 2M, 3M, and with ``tau`` above zero their SDE variants.

    Parameters
    ----------
    order
        1, 2 or 3.
    tau
        Noise of the reverse equation.
    lower_order_final
        Whether the last steps lower the order, down to one. None: in runs of less than 10 steps.
    published_3m
        Divide the second derivative of 3M by two, as the widely copied code does.

    Differences from the paper
    --------------------------
    The published code of 3M halves the second derivative, which makes it a method of order 2; here
    it has order 3 unless ``published_3m`` is set.
    """

    order: int = 2
    tau: float = 0.0
    lower_order_final: bool | None = None
    published_3m: bool = False

    def __post_init__(self) -> None:
        one_of("order", self.order, (1, 2, 3))
        not_negative("tau", self.tau)

    @property
    def fewest_steps(self) -> int:
        return self.order

    def write(self, writer: Writer, grid: Grid) -> None:
        h = np.diff(grid.log_snr)
        A = grid.sigma[1:] / grid.sigma[:-1] * np.exp(-(self.tau**2) * h)
        S = grid.sigma[1:] * np.sqrt(-np.expm1(-2 * self.tau**2 * h))
        predictor = [grid.alpha[i + 1] * self._weights(grid, i) for i in range(grid.num_steps)]
        predict_and_correct(writer, grid, A, predictor, None, S)

    def _weights(self, grid: Grid, i: int) -> np.ndarray:
        lam = grid.log_snr
        order = final_order(self.order, i, grid.num_steps, self.lower_order_final)
        h, total = lam[i + 1] - lam[i], -np.expm1(-(1 + self.tau**2) * (lam[i + 1] - lam[i]))
        if order == 1:
            return np.array([total])
        if order == 2:
            slope = total / (2 * (lam[i] - lam[i - 1]) / h)
            return np.array([total + slope, -slope])
        weights = lagrange.of_denoised(lam[i], lam[i + 1], recent(lam, i, 3), self.tau)
        if self.published_3m:
            # The second divided difference takes half its factor along: the integral of
            # (u - lambda)^2 / 2, against the difference itself, which is half the derivative.
            r0, r1 = (lam[i] - lam[i - 1]) / h, (lam[i - 1] - lam[i - 2]) / h
            c = 1 + self.tau**2
            square = lagrange.integrals(
                lam[i], lam[i + 1], [lam[i]],
                lambda u: c * np.exp(-c * (lam[i + 1] - u)) * ((u - lam[i]) / h) ** 2,
            )[0]  # fmt: skip
            second = np.array([1 / r0, -1 / r0 - 1 / r1, 1 / r1]) / (r0 + r1)
            weights = weights - square / 2 * second
        return weights


@dataclass(frozen=True)
class DPMSolverPPSingle(Solver):
    """DPM-Solver++ in single steps: 2S and 3S, with 2 or 3 evaluations each."""

    order: int = 2

    def __post_init__(self) -> None:
        one_of("order", self.order, (2, 3))

    @property
    def evaluations_per_step(self) -> int:
        return self.order

    def write(self, writer: Writer, grid: Grid) -> None:
        for i in range(grid.num_steps):
            self._step(writer, grid, i)

    def _step(self, writer: Writer, grid: Grid, i: int) -> None:
        start, end = grid.at(i), grid.at(i + 1)
        h = grid.log_snr[i + 1] - grid.log_snr[i]
        shares = (1 / 2,) if self.order == 2 else (1 / 3, 2 / 3)
        stages = [grid.between(grid.log_snr[i] + share * h) for share in shares]
        r, s = shares[0], shares[-1]
        total = lambda share: -np.expm1(-share * h)

        first = stages[0]
        A = [[first.sigma / start.sigma, 0], [1, 0]]
        writer.add(start, A, [[first.alpha * total(r)], [0.0]])
        keep = lambda to: [[0, to.sigma / start.sigma], [0, 1]]
        if self.order == 2:
            slope = total(1) / (2 * r)
            B = np.array([[slope, total(1) - slope], [0, 0]])
            writer.add(first, keep(end), end.alpha * B, arrives=end)
            return
        second = stages[1]
        slope = s / r * (1 - total(s) / (s * h))
        B = np.array([[slope, total(s) - slope], [0, 0]])
        writer.add(first, keep(second), second.alpha * B)
        slope = (1 - total(1) / h) / s
        B = np.array([[slope, 0.0, total(1) - slope], [0, 0, 0]])
        writer.add(second, keep(end), end.alpha * B, arrives=end)
