"""Schedules: where on a path a solver stops, from the noise to the data.

A schedule is called with the path and a number of levels, on the host and in float64, and returns
their times t, decreasing. Any function of this kind is one, and so is a plain array of times.

=====================  =========================================================  =====
schedule               levels, i = 0 (noise) to 1 (data)                          paper
=====================  =========================================================  =====
`EDMSchedule`          kappa^(1 / rho) linear                                     [1]
`LogSNRUniform`        log kappa linear: rho to infinity                          [2]
`TimeUniform`          t linear                                                   [3]
`TimeQuadratic`        sqrt(t) linear                                             [4]
`Arctan`               arctan(kappa / c) linear                                   [5]
`BetaSchedule`         t a quantile of the Beta(a, b) law on the times            [6]
`InformationUniform`   log(1 + (c / kappa)^2) linear                              [7]
=====================  =========================================================  =====

On Gaussian data of standard deviation c, Euler's method in kappa (`DDIM`) on ``kappa = c tan(a)``
multiplies the standard deviation by ``prod cos(a_i - a_(i+1))``, which equal angles bring nearest
to one: `Arctan` is the best schedule there is for it. On the same data the first-order step of the
reverse diffusion has the least divergence from it, for many steps, where they reveal as much of the
data each: ``log(1 + (c / kappa)^2) / 2`` is the information, in nats, that a noisy point has of a
coordinate. That is `InformationUniform`, derived here from the bound of [7].

References
----------
.. [1] Karras et al., "Elucidating the design space of diffusion-based generative models", NeurIPS
   2022, arXiv:2206.00364. Equation 5.
.. [2] Lu et al., "DPM-Solver: a fast ODE solver for diffusion probabilistic model sampling in
   around 10 steps", NeurIPS 2022, arXiv:2206.00927.
.. [3] Ho, Jain and Abbeel, "Denoising diffusion probabilistic models", NeurIPS 2020,
   arXiv:2006.11239.
.. [4] Zhang and Chen, "Fast sampling of diffusion models with exponential integrator", ICLR 2023,
   arXiv:2204.13902.
.. [5] Chen, Zhou et al., "Geometric perspective on diffusion models", 2023, arXiv:2305.19947; the
   optimum on a Gaussian is derived here.
.. [6] Lee et al., "Beta sampling is all you need: efficient image generation strategy for diffusion
   models using stepwise spectral analysis", 2024, arXiv:2407.12173.
.. [7] Sabour, Fidler and Kreis, "Align your steps: optimizing sampling schedules in diffusion
   models", ICML 2024, arXiv:2404.14507. Section 3; see `samplers.diffusion.fitted_schedules`.
"""

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.special

from samplers.diffusion.paths import NoisePath
from samplers.diffusion.tables import Grid

type Schedule = Any  # Callable[[NoisePath, int], times] or times


def grid(path: NoisePath, schedule: Schedule, num_steps: int) -> Grid:
    """Levels of ``num_steps`` steps, checked.

    Raises
    ------
    ValueError
        For times that do not decrease, leave the path, or are too many or too few.
    """
    name = getattr(schedule, "__name__", type(schedule).__name__)
    t = np.asarray(schedule(path, num_steps + 1) if callable(schedule) else schedule, np.float64)
    if t.shape != (num_steps + 1,):
        raise ValueError(
            f"a schedule of {num_steps} steps has {num_steps + 1} times; {name} has the shape "
            f"{t.shape}"
        )
    if not np.all(np.diff(t) < 0):
        where = int(np.argmin(np.diff(t) < 0))
        raise ValueError(
            f"the times of a schedule decrease, from noise (t near {path.t_max:g}) to data (t near "
            f"{path.t_min:g}); {name} goes from {t[where]:.6g} to {t[where + 1]:.6g}. Write "
            "t[::-1] if they increase"
        )
    slack = 1e-9 * abs(path.t_max)
    if t[0] > path.t_max + slack or t[-1] < path.t_min - slack:
        raise ValueError(
            f"the schedule leaves the path: {name} goes from {t[0]:.6g} to {t[-1]:.6g}, and "
            f"{type(path).__name__} from t_max = {path.t_max:g} to t_min = {path.t_min:g}"
        )
    return Grid(path, t)


@dataclass(frozen=True)
class _InKappa:
    """A schedule in kappa, between the ends of the path."""

    @abstractmethod
    def kappas(self, high: float, low: float, share: np.ndarray) -> np.ndarray: ...

    def __call__(self, path: NoisePath, num_levels: int) -> np.ndarray:
        """Times of the levels."""
        high, low = (path.level(np.float64(t)).kappa for t in (path.t_max, path.t_min))
        kappas = self.kappas(high, low, np.linspace(0.0, 1.0, num_levels))
        t = np.asarray(path.time(-np.log(kappas)))
        t[0], t[-1] = path.t_max, path.t_min  # to the last digit
        return t


@dataclass(frozen=True)
class EDMSchedule(_InKappa):
    """Powers of the noise level: the larger ``rho``, the more levels near the data."""

    rho: float = 7.0

    def kappas(self, high: float, low: float, share: np.ndarray) -> np.ndarray:
        a, b = high ** (1 / self.rho), low ** (1 / self.rho)
        return (a + share * (b - a)) ** self.rho


@dataclass(frozen=True)
class LogSNRUniform(_InKappa):
    """Equal steps of the logarithm of the noise level."""

    def kappas(self, high: float, low: float, share: np.ndarray) -> np.ndarray:
        return np.exp(np.log(high) + share * np.log(low / high))


@dataclass(frozen=True)
class Arctan(_InKappa):
    """Equal angles of ``kappa / scale``; ``scale`` is the standard deviation of the data."""

    scale: float = 0.5

    def kappas(self, high: float, low: float, share: np.ndarray) -> np.ndarray:
        a, b = np.arctan(high / self.scale), np.arctan(low / self.scale)
        return self.scale * np.tan(a + share * (b - a))


@dataclass(frozen=True)
class InformationUniform(_InKappa):
    """Equal steps of what a point tells of the data: log-SNR, with fewer levels far above them.

    By the formula ``scale`` is the standard deviation of the data. Multistep methods want steps
    that are not too unequal, and so a larger one: the default is good for data of variance 1; with
    noise in the steps, 4 is.
    """

    scale: float = 8.0

    def kappas(self, high: float, low: float, share: np.ndarray) -> np.ndarray:
        a, b = np.log1p((self.scale / high) ** 2), np.log1p((self.scale / low) ** 2)
        return self.scale / np.sqrt(np.expm1(a + share * (b - a)))


@dataclass(frozen=True)
class TimeUniform:
    """Equal steps of the path's own time."""

    def __call__(self, path: NoisePath, num_levels: int) -> np.ndarray:
        """Times of the levels."""
        return np.linspace(path.t_max, path.t_min, num_levels)


@dataclass(frozen=True)
class TimeQuadratic:
    """Equal steps of the root of the path's time: more levels near the data."""

    def __call__(self, path: NoisePath, num_levels: int) -> np.ndarray:
        """Times of the levels."""
        t = np.linspace(np.sqrt(path.t_max), np.sqrt(path.t_min), num_levels) ** 2
        t[0], t[-1] = path.t_max, path.t_min
        return t


@dataclass(frozen=True)
class BetaSchedule:
    """Quantiles of a Beta law over the path's times: below one, more levels at both ends."""

    a: float = 0.6
    b: float = 0.6

    def __call__(self, path: NoisePath, num_levels: int) -> np.ndarray:
        """Times of the levels."""
        quantiles: Any = scipy.special.betaincinv(self.a, self.b, np.linspace(1, 0, num_levels))
        return path.t_min + (path.t_max - path.t_min) * quantiles
