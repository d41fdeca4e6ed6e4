"""Powers of diffusion priors, multiplied: a prior whose denoiser adds up their scores.

    p  ~  prod_i q_i^a_i,     S_t = sum_i a_i s_i,t,     D = y + sum_i a_i (D_i - y)

An exponent of 2 on one prior anneals it; ones multiply experts; (1 - w, w) is the geometric average
that classifier-free guidance aims at, for w > 1 too [1]_. The sum of the scores at noise level t is
the score of no noised law: solvers that take it for one draw something else, which the weights of
`samplers.FKCorrector` correct.

References
----------
.. [1] Skreta et al., "Feynman-Kac correctors in diffusion: annealing, guidance, and product of
   experts", ICML 2025, arXiv:2503.02819.
"""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ppl.energy import Position, TargetError, describe
from samplers.diffusion.paths import NoisePath
from samplers.diffusion.prior import DiffusionPrior


class Composed(eqx.Module):
    """The denoiser of a product of powers: see `compose`."""

    priors: tuple[DiffusionPrior, ...]
    exponents: Float[Array, " k"]

    def __call__(self, position: Position, sigma: Any) -> Position:
        pulls = self.pulls(self.priors[0].flat(position), sigma)
        first = self.priors[0]
        moved = first.flat(position) + jnp.tensordot(self.exponents.astype(pulls.dtype), pulls, 1)
        return first.position(moved)

    def pulls(self, y: Array, sigma: Any) -> Float[Array, "k ..."]:
        """``D_i - y`` of each prior, the scores in units of sigma^2."""
        at = lambda prior: prior.flat(prior.denoise(prior.position(y), sigma)) - y
        return jnp.stack([at(prior) for prior in self.priors])


def compose(priors: Any, exponents: Any, path: NoisePath | None = None) -> DiffusionPrior:
    """The law ``prod_i q_i(x)^a_i`` as a diffusion prior; its log-density is not normalized.

    Parameters
    ----------
    priors
        One or more `DiffusionPrior` of the same positions, or one with its conditions ``given``.
    exponents
        One number each, which may be negative; their sum is positive. They are traced.
    path
        Noise path of the product; that of the first prior.

    Raises
    ------
    TargetError
        For priors of different positions, and for exponents that do not fit.
    """
    priors = (priors,) if isinstance(priors, DiffusionPrior) else tuple(priors)
    wrong = [prior for prior in priors if not isinstance(prior, DiffusionPrior)]
    if wrong or not priors:
        raise TargetError(f"compose takes samplers.DiffusionPrior, one or more; got {priors!r}")
    shapes = {str(describe(prior.template)) for prior in priors}
    if len(shapes) > 1:
        raise TargetError(f"compose takes priors of the same positions; got {sorted(shapes)}")
    a = np.asarray(exponents, np.float64)
    if a.shape != (len(priors),) or not np.all(np.isfinite(a)) or not a.sum() > 0:
        raise TargetError(
            f"exponents are {len(priors)} numbers, one for each prior, with a positive sum (the "
            f"noise that the chain starts from has the variance sigma^2 over it); got {exponents}"
        )
    first = priors[0]
    denoiser = Composed(priors, jnp.asarray(a, first.point.dtype))
    return DiffusionPrior(first.path if path is None else path, denoiser, first.template)


def parts(prior: DiffusionPrior) -> Composed:
    """A prior as a product, of itself alone where it was not composed."""
    if isinstance(prior.denoiser, Composed):
        return prior.denoiser
    return Composed((prior,), jnp.ones(1, prior.point.dtype))
