"""Nested soft value-based decoding: the candidates of SVDD as a proposal with random weights.

    c_1..c_M ~ p(. | x_t),    x_(t-1) = c_j with probability ~ exp(v_(t-1)(c_j))
    log G_t = log mean_j exp(v_(t-1)(c_j)) - v_t(x_t),     v_T = 0,  v_0 = r(x_0)

With resampling between particles every v gives the tilted prior and an unbiased Z [2]_:
asymptotically exact in the number of particles, for any M. The moves are those of
`samplers.diffusion.steering.svdd` [1]_.

References
----------
.. [1] Li et al., "Derivative-free guidance in continuous and discrete diffusion models with soft
   value-based decoding", 2024, arXiv:2408.08252. Algorithm 1.
.. [2] C. A. Naesseth, F. Lindsten, T. B. Schon, "Nested sequential Monte Carlo methods", ICML 2015,
   arXiv:1502.02536.
"""

from typing import Any, ClassVar

import equinox as eqx
from jaxtyping import Array, Float

from ppl.sampler import Exactness, share, size
from samplers.diffusion.sampler import Silent
from samplers.diffusion.schedules import EDMSchedule
from samplers.diffusion.steering.chain import Plan
from samplers.diffusion.steering.sampler import ReverseSDE, Steered
from samplers.diffusion.steering.svdd import Candidates


class NestedSVDD(Candidates, Steered):
    """Nested soft value-based decoding: asymptotically exact, with the evidence.

    Parameters
    ----------
    num_particles
        Size of the population.
    num_candidates
        M: moves from which each is chosen.
    value
        ``value(y, sigma) -> scalar``, for ``y = x_0 + sigma noise``: an approximation of the soft
        value; a module, if it has parameters. None: the reward of the denoised value.
    solver
        With noise, such as `DDPM` or ``DPMSolverPP(tau=1.0)``, the default.
    schedule
        See `samplers.diffusion.schedules`.
    num_steps
        Steps of the solver.
    resample_below
        Resample where the effective sample size is at most this share of the particles.
    resampling
        ``"stratified"``, ``"systematic"``, ``"multinomial"``, ``"residual"`` or ``"ssp"``.

    Raises
    ------
    TargetError
        For a target that is no reward on a diffusion prior, or a reward that is NaN.
    ValueError
        For a solver without noise.
    """

    exactness: ClassVar[Exactness] = "asymptotically exact"

    num_particles: int = size("num_particles", default=256)
    num_candidates: int = size("num_candidates", default=5)
    value: Any = None
    solver: Silent = eqx.field(static=True, converter=Silent, default_factory=ReverseSDE)
    schedule: Silent = eqx.field(static=True, converter=Silent, default_factory=EDMSchedule)
    num_steps: int = size("num_steps", default=100)
    resample_below: Float[Array, ""] = share("resample_below", default=0.5)
    resampling: str = eqx.field(static=True, default="stratified")
    plan: Plan | None = None
