"""Posterior of a mixture of round Gaussians under a linear observation: again a mixture, exactly.

    x ~ sum_k w_k N(m_k, s_k^2 I),   y = A x + noise_std e
    w_k' = w_k N(y; A m_k, s_k^2 A A^H + noise_std^2 I),   normalized
    component k:  N(m_k, s_k^2 I) times the likelihood

A component's mean and draws are `LinearGaussian.mean_given` and ``draw_given``, so that no matrix
of the size of a position is ever formed: the weights take singular values only, and are stable
where ratios of densities in 800 dimensions are not.

`benchmark` is the one of [1]: 25 components in a lattice whose directions repeat, so that all of
the dimensions tell the same two numbers, and a random measurement of few dimensions. A kernel
density of real images, narrow Gaussians around each of them, is a mixture of this kind too: a prior
of real data with an exact posterior.

References
----------
.. [1] Cardoso, Janati El Idrissi, Le Corff and Moulines, "Monte Carlo guided diffusion for
   Bayesian linear inverse problems", ICLR 2024, arXiv:2308.07983. Section 4.
"""

import math
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import random
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from models.inverse.parts import PosteriorOfParts
from models.targets.gaussian_mixture import GaussianMixture
from ppl.energy import TargetError
from ppl.linear_gaussian import LinearGaussian
from ppl.linear_operators import Dense


class MixturePosterior(PosteriorOfParts):
    """The posterior of a `GaussianMixture`, for an operator with singular values.

    ``log_density`` is that of `ppl.posterior`; its ``log_normalizer`` is therefore the log-evidence
    and the constant of the prior.

    Raises
    ------
    TargetError
        For a prior that is no mixture, an operator without a decomposition, and zero noise.
    """

    prior: Any
    likelihood: LinearGaussian

    def __check_init__(self) -> None:
        if not isinstance(self.prior, GaussianMixture):
            raise TargetError(
                "the prior must be a models.targets.gaussian_mixture.GaussianMixture; got "
                f"{type(self.prior).__name__}"
            )
        if self.likelihood.svd is None or jnp.ndim(self.likelihood.noise_std) != 0:
            raise TargetError(
                "the posterior of a mixture needs an operator with singular values, such as a "
                "matrix, and one standard deviation of the noise"
            )
        self.likelihood.require_noise("the posterior of a mixture")

    @property
    def means(self) -> Float[Array, "k d"]:
        """Mean of each component, given the data."""
        return jax.vmap(self.likelihood.mean_given)(self.prior.means, self.prior.sds**2)

    @property
    def modes(self) -> Float[Array, "k d"]:
        """The means of the components: the modes, where these do not overlap."""
        return self.means

    @property
    def mean(self) -> Float[Array, " d"]:
        """Posterior mean."""
        return jnp.exp(self.log_shares) @ self.means

    def sample(self, rng_key: PRNGKeyArray, n: int) -> Float[Array, "n d"]:
        key_component, key_draw = random.split(rng_key)
        component = random.categorical(key_component, self.log_shares, shape=(n,))

        def one(key: PRNGKeyArray, k: Array) -> Array:
            return self.likelihood.draw_given(key, self.prior.means[k], self.prior.sds[k] ** 2)

        return jax.vmap(one)(random.split(key_draw, n), component)

    @property
    def _log_parts(self) -> Float[Array, " k"]:
        """``log w_k + log N(y; A m_k, s_k^2 A A^H + noise_std^2)``."""
        likelihood, svd = self.likelihood, self.likelihood.svd
        assert svd is not None, "checked when it was made"
        values, noise = svd.singular_values, likelihood.noise_std
        num_seen = jnp.sum(values > 0)

        def one(mean: Array, sd: Array) -> Array:
            residual = likelihood.residual(mean)
            seen = svd.u_adjoint(residual)
            unseen = jax.tree.map(jnp.subtract, residual, svd.u(seen))
            variance = (sd * values) ** 2 + noise**2
            terms = seen**2 / variance + jnp.where(values > 0, jnp.log(variance), 0.0)
            rest = sum(jnp.sum((leaf / noise) ** 2) for leaf in jax.tree.leaves(unseen))
            count = likelihood.num_observed - num_seen
            return -0.5 * (jnp.sum(terms) + rest + 2 * count * jnp.log(noise))

        log_likelihoods = jax.vmap(one)(self.prior.means, self.prior.sds)
        constant = likelihood.num_observed / 2 * math.log(2 * math.pi)
        return self.prior.log_shares + log_likelihoods - constant


class Benchmark(NamedTuple):
    """One random problem of `benchmark`."""

    prior: GaussianMixture
    likelihood: LinearGaussian
    truth: Float[Array, " d"]

    @property
    def posterior(self) -> MixturePosterior:
        """What is to be found."""
        return MixturePosterior(self.prior, self.likelihood)  # pyright: ignore[reportCallIssue]


def benchmark(seed: int, num_dims: int, num_observed: int) -> Benchmark:
    """Draw a problem of the benchmark of 25 modes.

    Means are (8 i, 8 j, 8 i, 8 j, ...) with i and j from -2 to 2, covariances the identity, weights
    the normalized squares of normals. The matrix has the singular vectors of a normal one and
    singular values uniform on (0, 1); the noise is uniform on (0, 1) times the largest.

    Parameters
    ----------
    seed
        Of all that is random. Problems of one shape differ in their arrays only, so that they can
        be stacked.
    num_dims, num_observed
        Dimensions of a position, even, and of the observation.
    """
    if num_dims % 2 or not 1 <= num_observed <= num_dims:
        raise ValueError(
            "the benchmark has an even number of dimensions and observes at least one of them; got "
            f"num_dims={num_dims} and num_observed={num_observed}"
        )
    generator = np.random.default_rng(seed)
    lattice = 8.0 * np.stack(np.meshgrid(np.arange(-2, 3), np.arange(-2, 3)), -1).reshape(25, 2)
    weights = generator.normal(size=25) ** 2
    prior = GaussianMixture(np.tile(lattice, num_dims // 2), 1.0, weights)
    normal = generator.normal(size=(num_observed, num_dims))
    u, _, vh = np.linalg.svd(normal, full_matrices=True)
    values = np.sort(generator.uniform(size=num_observed))[::-1]
    noise = generator.uniform() * values.max()
    component = generator.choice(25, p=weights / weights.sum())
    truth = np.tile(lattice[component], num_dims // 2) + generator.normal(size=num_dims)
    clean = u @ (values * (vh[:num_observed] @ truth))
    observation = clean + noise * generator.normal(size=num_observed)
    template = prior.template
    array = lambda a: jnp.asarray(a, template.dtype)
    padded = np.concatenate([values, np.zeros(num_dims - num_observed)])
    matrix = Dense(
        array((u * values) @ vh[:num_observed]), array(u), array(padded), array(vh.T), template
    )
    likelihood = LinearGaussian(matrix, array(observation), float(noise))
    return Benchmark(prior, likelihood, array(truth))


def stacked(problems: list[Any]) -> Any:
    """Problems of one shape as one, for ``eqx.filter_vmap``."""
    arrays, rest = zip(*(eqx.partition(one, eqx.is_array) for one in problems), strict=True)
    return eqx.combine(jax.tree.map(lambda *leaves: jnp.stack(leaves), *arrays), rest[0])


def kernel_density(rows: PyTree, sd: float) -> GaussianMixture:
    """Mixture of a narrow Gaussian around each of the rows (n, ...), which are raveled."""
    return GaussianMixture(np.asarray(rows).reshape(len(rows), -1), sd)
