"""Whether a kernel leaves posteriors invariant, for all data at once: Geweke's joint check.

    x ~ p(x),   y ~ p(y | x),   x' ~ K^t(x, .), which is to leave p(x | y) invariant

Then ``(x', y)`` has the law of ``(x, y)``, whatever the model: no moment of a posterior is needed.
Every chain has data of its own, each mean over chains is one of independent paired differences, and
the marginal law of x' is the prior, which its ranks show.

References
----------
.. [1] Geweke, "Getting it right: joint distribution tests of posterior simulators", J. Am. Stat.
   Assoc. 99, 2004, doi:10.1198/016214504000001132.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import scipy.stats
from jax import random

import ppl
import samplers
from agreement import t_scores

NOISE, NUM_CHAINS = 0.5, 4096


def log_likelihood(x: Any, y: Any, power: Any) -> Any:
    """A product makes the posterior bend; a power other than one makes it wrong."""
    return -0.5 * power * ((y - x[0] * (1 + x[1])) / NOISE) ** 2


def gaussian_prior(y: Any, power: Any) -> Any:
    """Posterior under a standard normal prior, of which it knows both parts."""
    prior = dist.Normal(jnp.zeros(2), 1.0).to_event(1)
    return ppl.posterior(prior, log_likelihood, y, power)


def laplace_prior(y: Any, power: Any) -> Any:
    """Posterior under a Laplace prior, known by its proximal map."""
    likelihood = ppl.from_log_density(log_likelihood, jnp.zeros(2), y, power)
    return ppl.composite(likelihood, samplers.L1(1.0))


PRIORS = {gaussian_prior: scipy.stats.norm, laplace_prior: scipy.stats.laplace}


@eqx.filter_jit
def moved(
    kernel: Any, posterior: Callable, rng_key: Any, x: Any, y: Any, power: Any, num_steps: int
) -> Any:
    """Positions after ``num_steps`` of the kernel on the posterior of each chain's data."""

    def one(key: Any, x: Any, y: Any) -> Any:
        target = posterior(y, power)
        state = kernel.init(random.fold_in(key, num_steps), target, x)

        def step(state: Any, t: Any) -> Any:
            return kernel.step(random.fold_in(key, t), target, state)[0], None

        return jax.lax.scan(step, state, jnp.arange(num_steps))[0].position

    return jax.vmap(one)(random.split(rng_key, len(x)), x, y)


def joint_scores(
    kernel: Any, posterior: Callable, *, power: float = 1.0, num_steps: int = 20
) -> np.ndarray:
    """Scores of what must not change; a power other than one is the broken twin's likelihood."""
    prior, rng = PRIORS[posterior], np.random.default_rng(0)
    x = prior.rvs(size=(NUM_CHAINS, 2), random_state=rng)
    y = x[:, 0] * (1 + x[:, 1]) + NOISE * rng.normal(size=NUM_CHAINS)
    x, y = np.float32(x), np.float32(y)
    kernel = kernel.resolve(posterior(y[0], np.float32(1.0)))
    after = moved(kernel, posterior, random.key(0), x, y, np.float32(power), num_steps)

    def functions(x: Any) -> np.ndarray:
        mean = x[:, :1] * (1 + x[:, 1:])
        away, y_ = y[:, None] - mean, y[:, None]
        return np.hstack([x, np.abs(x), x**2, x * y_, mean, mean * y_, away**2])

    x, after = np.float64(x), np.float64(after)
    means = t_scores(functions(after) - functions(x), 0.0)
    # Of the ranks: the Kolmogorov-Smirnov distance to the prior, on the scale of a normal score.
    p = [scipy.stats.kstest(after[:, i], prior.cdf).pvalue for i in range(2)]
    return np.abs(np.concatenate([means, scipy.stats.norm.isf(np.maximum(p, 1e-300) / 2)]))
