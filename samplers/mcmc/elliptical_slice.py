"""Elliptical slice sampling, for a Gaussian prior.

    nu ~ N(m, C),   height  log L(x) - e,  e ~ Exp(1)
    x(a) = m + (x - m) cos a + (nu - m) sin a
    x' = x(a) for the first angle a of a shrinking bracket with log L(x(a)) above the height

Every point of the ellipse through x and an independent draw nu of the prior is as likely under the
prior as x is, so that the likelihood alone decides. There is nothing to tune, no gradient is
needed, and nothing depends on the covariance but the draws of the prior: at home in Gaussian
process models. It slows down where data are many, and the likelihood narrows the prior a lot.

References
----------
.. [1] Murray, Adams and MacKay, "Elliptical slice sampling", AISTATS 2010, arXiv:1001.0175.
   Figure 2.
.. [2] Neal, "Slice sampling", Annals of Statistics 31, 2003, doi:10.1214/aos/1056562461. Shrinkage,
   Figure 5.
"""

from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import random
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree
from numpyro import distributions as dist

from ppl.algebra import Posterior
from ppl.energy import DistributionEnergy, Energy, Position, TargetError
from ppl.sampler import Exactness, MarkovKernel
from ppl.template import dimension
from samplers.mcmc.shrinkage import shrink

LARGEST = 2000  # dimension up to which the Hessian of a prior is looked at
GAUSSIAN = (
    dist.Normal,
    dist.MultivariateNormal,
    dist.LowRankMultivariateNormal,
    dist.GaussianRandomWalk,
    dist.CirculantNormal,
)


class EllipticalSliceState(NamedTuple):
    """A position, the log-density and the log-likelihood (nats) there, the mean of the prior."""

    position: PyTree
    log_density: Float[Array, ""]
    log_likelihood: Float[Array, ""]
    mean: Float[Array, " d"]


class EllipticalSliceInfo(NamedTuple):
    """How the search went.

    ``acceptance_rate``: share of the angles tried that were taken; ``exhausted``: none was within
    100 tries; ``diverging``: a likelihood that was NaN or infinite was taken for zero.
    """

    acceptance_rate: Float[Array, ""]
    exhausted: Bool[Array, ""]
    diverging: Bool[Array, ""]
    num_evaluations: Int[Array, "2"]


class EllipticalSlice(MarkovKernel):
    """Elliptical slice sampling: exact, gradient-free, without parameters.

    The target's prior must be Gaussian: `ppl.posterior` with a normal distribution, or a NumPyro
    model whose latent sites are jointly normal. A hierarchy of scales is not: write its sites in
    units of their scale, and the scale as a fixed number.

    Differences from the paper
    --------------------------
    The bracket is cut at random, as in Neal's shrinkage, instead of at the first angle tried. A
    likelihood that is NaN is taken for zero, and counted as a divergence.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"log_density", "log_parts"})
    exactness: ClassVar[Exactness] = "exact"
    fixed_length: ClassVar[bool] = False

    def check(self, target: Energy) -> None:
        _require_gaussian(target)

    def init(
        self, rng_key: PRNGKeyArray, target: Energy, position: Position
    ) -> EllipticalSliceState:
        log_prior, log_likelihood = _parts(target, position)
        return EllipticalSliceState(
            position, log_prior + log_likelihood, log_likelihood, prior_mean(target)
        )

    def step(
        self, rng_key: PRNGKeyArray, target: Energy, state: EllipticalSliceState
    ) -> tuple[EllipticalSliceState, EllipticalSliceInfo]:
        key_draw, key_height, key_cut, key_search = random.split(rng_key, 4)
        mean = state.mean
        x, unravel = ravel_pytree(state.position)
        nu, _ = ravel_pytree(prior_draw(key_draw, target))
        height = state.log_likelihood - random.exponential(key_height, (), x.dtype)
        cut = random.uniform(key_cut, (), x.dtype, 0, 2 * jnp.pi)

        def along_ellipse(angle: Array) -> tuple[Array, EllipticalSliceState]:
            y = mean + (x - mean) * jnp.cos(angle) + (nu - mean) * jnp.sin(angle)
            log_prior, log_likelihood = _parts(target, unravel(y))
            point = EllipticalSliceState(
                unravel(y), log_prior + log_likelihood, log_likelihood, mean
            )
            return log_likelihood, point

        zero = jnp.zeros((), x.dtype)
        bracket = (cut - 2 * jnp.pi, cut)
        found = shrink(key_search, bracket, zero, along_ellipse, height, state)
        return found.point, EllipticalSliceInfo(
            jnp.where(found.is_found, 1 / found.tries, 0.0).astype(x.dtype),
            ~found.is_found,
            found.diverging,
            jnp.stack([found.tries, jnp.zeros_like(found.tries)]),
        )


# The prior ------------------------------------------------------------------------------------


def prior_draw(rng_key: PRNGKeyArray, target: Any) -> Position:
    """One draw from the prior, a position."""
    source = target.prior if isinstance(target, Posterior) else target
    return jax.tree.map(lambda x: x[0], source.sample(rng_key, 1))


def prior_mean(target: Any) -> Float[Array, " d"]:
    """Mean of the prior, flat: known, or where the gradient of a quadratic form is zero."""
    if _known_gaussian(target):
        mean, leaf = target.prior.distribution.mean, target.template
        return jnp.ravel(jnp.broadcast_to(mean, leaf.shape)).astype(leaf.dtype)
    flat, log_prior = _flat_prior(target)
    hessian = jax.hessian(log_prior)(flat)
    return -jnp.linalg.solve(hessian, jax.grad(log_prior)(flat))


def _parts(target: Any, position: Position) -> tuple[Float[Array, ""], Float[Array, ""]]:
    return target.log_parts(position)


def _known_gaussian(target: Any) -> bool:
    prior = getattr(target, "prior", None)
    if not isinstance(target, Posterior) or not isinstance(prior, DistributionEnergy):
        return False
    base = prior.distribution
    while isinstance(base, dist.Independent | dist.ExpandedDistribution):
        base = base.base_dist
    return type(base) in GAUSSIAN


def _flat_prior(target: Any) -> Any:
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), target.template)
    flat, unravel = ravel_pytree(zeros)
    return flat, lambda x: target.log_parts(unravel(x))[0]


def _require_gaussian(target: Any) -> None:
    """Raise unless the prior can be drawn and its log-density is a quadratic form."""
    if _known_gaussian(target):
        return
    source = target.prior if isinstance(target, Posterior) else target
    what = (
        "EllipticalSlice needs a Gaussian prior: ppl.posterior(dist.Normal(0, 1).expand([d]), "
        "log_likelihood, *data), a MultivariateNormal, or a NumPyro model whose latent sites are "
        "jointly normal; "
    )
    if not hasattr(source, "sample") or "sample" not in getattr(source, "offers", ("sample",)):
        raise TargetError(what + f"the prior of this {type(target).__name__} cannot be drawn")
    if dimension(target.template) > LARGEST:
        raise TargetError(
            what + f"whether it is one is not found out beyond {LARGEST} dimensions, and this "
            f"target has {dimension(target.template)}. Write it as ppl.posterior of a distribution"
        )
    values = np.asarray(_along_lines(target), np.float64)
    # Along a line a quadratic form is a parabola: its third difference is zero.
    third = np.abs(values @ np.array([-1, 3, -3, 1]))
    if not np.all(third <= 1e-3 * (1 + np.ptp(values, axis=1))):
        raise TargetError(what + "the log prior of this target is no quadratic form")


@eqx.filter_jit
def _along_lines(target: Any) -> Float[Array, "line 4"]:
    """Log prior at four equally spaced points of lines through two draws each."""
    source = target.prior if isinstance(target, Posterior) else target
    _, log_prior = _flat_prior(target)
    x = jax.vmap(lambda x: ravel_pytree(x)[0])(source.sample(random.key(0), 16))
    points = [(1 - t) * x[::2] + t * x[1::2] for t in (-1.0, 0.0, 1.0, 2.0)]
    return jax.vmap(jax.vmap(log_prior))(jnp.stack(points, axis=1))
