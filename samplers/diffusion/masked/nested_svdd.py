"""Nested soft value-based decoding of masked diffusion: candidates with random weights.

    c_1..c_M ~ p(. | x_t): M ways to reveal,   x_(t-1) = c_j with probability ~ exp(v_(t-1)(c_j))
    log G_t = log mean_j exp(v_(t-1)(c_j)) - v_t(x_t),     v_T = 0,  v_0 = r(x_0)

With resampling between particles every v gives the tilted law and an unbiased Z [2]: asymptotically
exact in the number of particles, for any M. The moves are those of
`samplers.diffusion.masked.svdd` [1].

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
from samplers.diffusion.masked.reveals import SteeredReveals
from samplers.diffusion.masked.svdd import MaskedCandidates


class MaskedNestedSVDD(MaskedCandidates, SteeredReveals):
    """Nested soft value-based decoding of masked diffusion: asymptotically exact, with log Z.

    The target is a reward, ``ppl.tilt(prior, reward)``, on a `MaskedPrior` or whatever else offers
    ``unmask``.

    Parameters
    ----------
    num_particles
        Size of the population.
    num_candidates
        M: ways to reveal, from which each is chosen.
    value
        ``value(tokens) -> scalar`` of tokens and masks, in place of the reward of the likeliest
        tokens; a module, if it has parameters.
    tokens_per_step
        Tokens revealed in a step.
    resample_below
        Resample where the effective sample size is at most this share of the particles.
    resampling
        ``"stratified"``, ``"systematic"``, ``"multinomial"``, ``"residual"`` or ``"ssp"``.

    Raises
    ------
    TargetError
        For a target that is no reward on a masked law, or a reward that is NaN.
    """

    exactness: ClassVar[Exactness] = "asymptotically exact"

    num_particles: int = size("num_particles", default=256)
    num_candidates: int = size("num_candidates", default=5)
    value: Any = None
    tokens_per_step: int = size("tokens_per_step", default=1)
    resample_below: Float[Array, ""] = share("resample_below", default=0.5)
    resampling: str = eqx.field(static=True, default="stratified")
    length: int | None = eqx.field(static=True, default=None)
