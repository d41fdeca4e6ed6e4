"""Reverse diffusion Monte Carlo (rDMC): a diffusion sampler without a network.

    x_t = e^-t x_0 + scale sqrt(1 - e^-2t) z,   t from 0 to T
    score(x, t) = E_q[(e^-t x_0 - x) / (scale^2 (1 - e^-2t)) | x_t = x]                  (eq. 7)

Runs the reverse of an Ornstein-Uhlenbeck process that would turn the target into a Gaussian. Its
score is an expectation under the law q of x_0 given x_t, and is estimated at each step by
importance sampling, by Langevin chains, or recursively: see `samplers.diffusion.posterior_means`.
It is the semilinear engine with that estimate in the place of a denoiser. Nothing is learned, and
modes far apart are weighed by the estimate at the first levels, where they are seen at once.

T trades two errors. Draws start from N(0, scale^2), which the path reaches up to e^-T of the mean
of the target, and which some Langevin steps with the estimated score then improve: on a short path
the shares of the modes lean toward equal ones. And at T the estimate must find the target in a
cloud of the width ``scale sqrt(e^2T - 1)``: a long path needs many inner draws, exponentially many
in the dimension. Draws are biased by both, by the number of steps, and by the noise where the path
ends.

References
----------
.. [1] Huang, Dong, Hao, Ma and Zhang, "Reverse diffusion Monte Carlo", ICLR 2024, arXiv:2307.02037.
   Algorithm 1.
.. [2] Huang et al., "Faster sampling without isoperimetry via diffusion-based Monte Carlo", COLT
   2024, arXiv:2401.06325. The recursive estimate.
"""

import math
from dataclasses import replace
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import random
from jaxtyping import Array, Float, PRNGKeyArray

from ppl.energy import Energy, Position, TargetError
from ppl.sampler import DirectSampler, Exactness, positive, size
from samplers.diffusion.estimated import along, vectorized
from samplers.diffusion.paths import Level, MeanReverting
from samplers.diffusion.posterior_means import InnerImportance, PosteriorMean
from samplers.diffusion.sampler import Silent
from samplers.diffusion.schedules import EDMSchedule, grid
from samplers.diffusion.solvers.ddim import contract
from samplers.diffusion.solvers.solver import CLEAN
from samplers.diffusion.tables import Grid, Table, Writer

SHRINK = 0.8  # of x in a Langevin step at the first level


def _table(levels: Grid, num_first: int) -> Table:
    """Rows of the Langevin steps at the first level, of the way down, and of the end."""
    writer, first = Writer(), levels.at(0)
    for _ in range(num_first):
        # A Langevin step for which D stays what it is, so that a point gets its own noise exactly.
        noise = math.sqrt(1 - SHRINK**2) * first.sigma
        writer.add(first, SHRINK, [(1 - SHRINK) * first.alpha], noise)
    contract(writer, levels, (levels.kappa[1:] / levels.kappa[:-1]) ** 2)
    writer.add(levels.at(-1), 0.0, [1.0], arrives=CLEAN)
    return writer.table(first)


class ReverseDiffusionMC(DirectSampler):
    """Reverse diffusion Monte Carlo: biased.

    Parameters
    ----------
    mean
        What estimates the denoiser: `InnerImportance`, `InnerLangevin`, `InnerRecursive`.
    scale
        Standard deviation of the Gaussian that the path ends in, in units of the position; about
        that of the whole target.
    time
        The T above.
    smallest
        Noise, in units of the position, where the path ends; below the widths of the target. The
        draw is the denoised value there.
    num_steps
        Levels; an estimate each.
    num_first
        Langevin steps at the first level, before the reverse process begins; an estimate each.
    schedule
        As in `DiffusionSampler`.

    Raises
    ------
    ValueError
        For a ``smallest`` that is above all noise of the path.
    TargetError
        For a target without a gradient, where `InnerLangevin` needs one.

    Differences from the paper
    --------------------------
    The paper's steps freeze the score, have equal lengths in t, and end at noise of one step; ours
    freeze the denoised value (as `DDPM` does), which is exact for a point, and crowd near the data.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"log_density"})
    exactness: ClassVar[Exactness] = "biased"
    batch_size: ClassVar[int] = 256

    mean: PosteriorMean = eqx.field(default_factory=InnerImportance)
    scale: Float[Array, ""] = positive("scale", default=1.0)
    time: Float[Array, ""] = positive("time", default=1.0)
    smallest: Float[Array, ""] = positive("smallest", default=0.05)
    num_steps: int = size("num_steps", minimum=2, default=40)
    num_first: int = size("num_first", minimum=0, default=10)
    schedule: Silent = eqx.field(static=True, converter=Silent, default_factory=EDMSchedule)
    table: Table | None = None

    def check(self, target: Energy) -> None:
        if self.mean.needs_gradient and "gradient" not in target.offers:
            raise TargetError(
                f"InnerLangevin follows gradients: {target.refuse('gradient')}. InnerImportance "
                "needs none"
            )

    def resolve(self, target: Energy) -> "ReverseDiffusionMC":
        scale, rate, smallest = (float(x) for x in (self.scale, self.time, self.smallest))
        largest = scale * math.sqrt(math.expm1(2 * rate))
        if smallest >= largest:
            raise ValueError(
                f"smallest must be below the noise at the end of the path, {largest:.3g} (scale "
                f"sqrt(e^(2 time) - 1)); got {smallest:g}"
            )
        end = 0.5 * math.log1p((smallest / scale) ** 2) / rate
        path = MeanReverting(0.0, scale, rate, end, 1.0)
        levels = grid(path, self.schedule.value, self.num_steps - 1)
        return replace(self, mean=self.mean.on(path), table=_table(levels, self.num_first))

    def draw(self, rng_key: PRNGKeyArray, target: Energy, n: int) -> tuple[Position, None]:
        assert self.table is not None, "resolve(target) first, as ppl.sample does"
        rows = self.table.rows
        log_density, like, position = vectorized(target)
        first = jnp.asarray(self.table.grid.sigma[0], like.dtype)

        def denoise(key: PRNGKeyArray, x: Array, level: Level) -> Array:
            return self.mean(key, log_density, x / level.alpha, level.kappa)

        def one(key: PRNGKeyArray) -> Array:
            key_start, key_path = random.split(key)
            start = first * random.normal(key_start, like.shape, like.dtype)
            return along(key_path, denoise, start, rows)

        return jax.vmap(position)(jax.vmap(one)(random.split(rng_key, n))), None

    def evaluations(self, n: int) -> tuple[int, int]:
        assert self.table is not None, "resolve(target) first, as ppl.sample does"
        each = self.mean.evaluations(np.asarray(self.table.rows.level.kappa))
        return int(n * each[0]), int(n * each[1])
