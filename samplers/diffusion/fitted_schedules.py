"""Schedules that are fitted to a prior: levels chosen by dynamic programming.

Of M levels of a fine grid, ``num_levels`` are kept so that a sum over the jumps between them is the
smallest there is.

`GITS`: the cost of a jump from j to k is how far one step of Euler's method leads from a trajectory
of a fine solver, on average over some points; each jump counts gamma times the one before,
since fewer jumps are left to contract its error [1].

`AlignYourSteps`: the divergence between the path laws of the reverse diffusion and of its
first-order discretization [2],

    KLUB = sum_i int kappa^-3 E |D(x_kappa, kappa) - D(x_i, kappa_i)|^2 dkappa

For an exact denoiser D is a martingale toward the data, so that the expectation is mmse(kappa_i) -
mmse(kappa), with the mean squared error mmse(kappa) = E |D - x_0|^2, and with u = kappa^-2

    KLUB = (sum_i mmse(kappa_i) (u_(i+1) - u_i) - int mmse du) / 2

needs that curve alone, which training has anyway. Schedules that are best for the diffusion are not
best for the flow: take the first for deterministic solvers, the second for stochastic ones.

References
----------
.. [1] Chen et al., "On the trajectory regularity of ODE-based diffusion sampling", ICML 2024,
   arXiv:2405.11326. Algorithm 1.
.. [2] Sabour, Fidler and Kreis, "Align your steps: optimizing sampling schedules in diffusion
   models", ICML 2024, arXiv:2404.14507. Section 3; the martingale form is derived here.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import random
from jaxtyping import PRNGKeyArray

from samplers.diffusion.error_curve import ErrorCurve
from samplers.diffusion.integrate import integrate
from samplers.diffusion.paths import NoisePath
from samplers.diffusion.schedules import LogSNRUniform
from samplers.diffusion.solvers.deis import IPNDM


def cheapest(cost: np.ndarray, num_levels: int, gamma: float = 1.0) -> np.ndarray:
    """Indices from the first to the last, ``num_levels`` of them, of the smallest total cost.

    ``cost[j, k]`` is that of a jump from j to k > j:  ``V_n[j] = min_k cost[j, k] + gamma
    V_(n-1)[k]``.
    """
    size = len(cost)
    if not 2 <= num_levels <= size:
        raise ValueError(
            f"a schedule fitted on {size} levels has 2 to {size} of them; got {num_levels}. Fit it "
            "on a finer grid"
        )
    allowed = np.where(np.triu(np.ones((size, size), bool), 1), cost, np.inf)
    value, choices = np.full(size, np.inf), []
    value[-1] = 0.0
    for _ in range(num_levels - 1):
        total = allowed + gamma * value
        choices.append(np.argmin(total, axis=1))
        value = np.min(total, axis=1)
    places = [0]
    for choice in reversed(choices):
        places.append(int(choice[places[-1]]))
    return np.array(places)


@dataclass(frozen=True)
class _Fitted:
    log_snr: np.ndarray  # of the fine grid
    cost: np.ndarray
    gamma: float

    def __call__(self, path: NoisePath, num_levels: int) -> np.ndarray:
        """Times of the levels."""
        places = cheapest(self.cost, num_levels, self.gamma)
        t = np.array(path.time(self.log_snr[places]))
        t[0], t[-1] = path.t_max, path.t_min
        return t


@dataclass(frozen=True)
class GITS(_Fitted):
    """Geometry-inspired time scheduling, for deterministic solvers.

    Differences from the paper
    --------------------------
    The cost is the distance itself, the second of the paper's two.
    """

    @classmethod
    def fit(
        cls,
        prior: Any,
        rng_key: PRNGKeyArray,
        *,
        num_levels: int = 61,
        num_points: int = 256,
        gamma: float = 1.15,
    ) -> "GITS":
        """Fit to a prior, on trajectories of iPNDM through ``num_levels`` levels."""
        steps = num_levels - 1
        grid, rows = IPNDM().table(prior.path, LogSNRUniform(), steps, denoise_last=False)
        noise = prior.noise(rng_key, num_points)

        def solve(x: Any) -> Any:
            return integrate(random.key(0), prior.denoised, x, rows, trace=True)

        state, _, seen = jax.jit(solve)(jnp.asarray(grid.sigma[0], noise.dtype) * noise)
        assert seen is not None
        flat = lambda x: np.asarray(x, np.float64).reshape(len(x), num_points, -1)
        points, denoised = flat(seen[0]), flat(seen[1])
        y = np.concatenate([points, flat(state.x[None])]) / grid.alpha[:, None, None]
        slope = (y[:-1] - denoised) / grid.kappa[:-1, None, None]
        cost = np.zeros((num_levels, num_levels))
        for j in range(steps):
            jumps = y[j] + (grid.kappa[j + 1 :, None, None] - grid.kappa[j]) * slope[j]
            cost[j, j + 1 :] = np.linalg.norm(jumps - y[j + 1 :], axis=2).mean(axis=1)
        return cls(-np.log(grid.kappa), cost, gamma)


@dataclass(frozen=True)
class AlignYourSteps(_Fitted):
    """Align your steps, for stochastic solvers of first order."""

    @classmethod
    def fit(
        cls, prior: Any, data: Any, rng_key: PRNGKeyArray, *, num_levels: int = 200
    ) -> "AlignYourSteps":
        """Fit to a prior; ``data`` are positions (leading axis) that its denoiser is judged on."""
        curve = ErrorCurve.fit(prior, data, rng_key, num_levels=num_levels)
        size = jax.eval_shape(prior.flat, jax.tree.map(lambda x: x[0], data)).size
        return cls.of_curve(curve.log_snr, size * curve.mmse)

    @classmethod
    def of_curve(cls, log_snr: Any, mmse: Any) -> "AlignYourSteps":
        """Of a known curve of the mean squared error at levels from noise to data."""
        log_snr, mmse = np.asarray(log_snr, np.float64), np.asarray(mmse, np.float64)
        u = np.exp(2 * log_snr)
        return cls(log_snr, mmse[:, None] * (u[None] - u[:, None]) / 2, 1.0)
