"""Two mixtures on the line, what is known of their tilts, and runs that are to agree with it.

Truths are sums over 20,001 points of [-8, 8].
"""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax, random

import ppl
import samplers
from agreement import t_scores
from ppl.sampler import where
from samplers.smc import feynman_kac as fk

SHARES = {"G1": (0.3, 0.7), "G2": (0.6, 0.4)}
MEANS = {"G1": (-2.0, 1.5), "G2": (-1.0, 2.5)}
VARIANCES = {"G1": (0.25, 0.49), "G2": (0.64, 0.36)}
GRID = np.linspace(-8, 8, 20_001)


def log_density(name, x):
    """Log-density, of NumPy or JAX arrays."""
    parts = [
        np.log(w / np.sqrt(2 * np.pi * v)) - (x - m) ** 2 / (2 * v)
        for w, m, v in zip(SHARES[name], MEANS[name], VARIANCES[name], strict=True)
    ]
    return (np if isinstance(x, np.ndarray) else jnp).logaddexp(*parts)


def prior(name="G1", path=None):
    """The mixture as a diffusion prior, whose denoiser knows the exact reverse chain."""
    sds = np.sqrt(VARIANCES[name])
    denoiser = samplers.MixtureDenoiser(np.reshape(MEANS[name], (2, 1)), sds, SHARES[name])
    return samplers.DiffusionPrior(path or samplers.VPLinear(), denoiser, jnp.zeros(1))


def near_one(x):
    """The likelihood of an observation 1 with unit noise, up to its constant."""
    return -jnp.sum((x - 1) ** 2) / 2


class Truth(NamedTuple):
    """Moments of a law, and the logarithm of its mass before it was normalized."""

    mean: float
    variance: float
    left: float
    log_z: float


def truth(log_weight):
    """What is known of the law with this log-density on the grid."""
    top = log_weight.max()
    mass = np.exp(log_weight - top)
    total = mass.sum()
    p = mass / total
    mean = p @ GRID
    log_z = float(np.log(total * (GRID[1] - GRID[0])) + top)
    return Truth(float(mean), float(p @ (GRID - mean) ** 2), float(p[GRID < 0].sum()), log_z)


G1, G2 = log_density("G1", GRID), log_density("G2", GRID)
# As tilts of a mixture: its name, the factors of log G1, log G2 and `near_one` in the reward, and
# the truth.
TILTS = {
    "annealed": ("G1", (1.0, 0.0, 0.0), truth(2 * G1)),
    "product": ("G1", (0.0, 1.0, 0.0), truth(G1 + G2)),
    "guided": ("G2", (-1.0, 1.0, 0.0), truth(2 * G2 - G1)),
    "reward": ("G1", (0.0, 0.0, 1.0), truth(G1 - (GRID - 1) ** 2 / 2)),
}


def reward(x, factors):
    """One function for all tilts, so that they share a program."""
    parts = jnp.stack([log_density("G1", x[0]), log_density("G2", x[0]), near_one(x)])
    return jnp.sum(jnp.where(factors == 0, 0.0, factors * parts))


def tilted(name="reward", path=None):
    """A tilted mixture as a target."""
    base, factors, _ = TILTS[name]
    return ppl.tilt(prior(base, path), reward, jnp.asarray(factors))


class Summary(NamedTuple):
    """Mean, variance and P(x < 0) of one weighted population, and its log Z."""

    mean: jax.Array
    variance: jax.Array
    left: jax.Array
    log_z: jax.Array


def summary(population):
    """What is compared with the truth."""
    x = population.particles.denoised[:, 0]
    w = jax.nn.softmax(population.log_weights)
    mean = w @ x
    return Summary(mean, w @ (x - mean) ** 2, w @ (x < 0), fk.log_evidence(population))


@eqx.filter_jit
def runs(rng_key, model, n, num_runs, threshold=0.5, *, drops=False):
    """Summaries of runs side by side; ``drops``: weights are forgotten where none resamples."""

    def step(population, at):
        key, row = at
        forgotten = population._replace(log_weights=jnp.zeros_like(population.log_weights))
        low = fk.is_low(population, threshold)
        population = where(drops & ~low, forgotten, population)
        return fk.step(key, model, population, row, fk.Resampler(threshold))[0], None

    def one(key):
        key_start, key_steps = random.split(key)
        population = fk.begin(*model.start(key_start, n))
        at = (random.split(key_steps, model.chain.plan.num_steps), model.chain.steps)
        return summary(lax.scan(step, population, at)[0])

    return jax.vmap(one)(random.split(rng_key, num_runs))


def scores(found, expected):
    """Scores of mean, variance, P(x < 0) and Z, which is unbiased where its logarithm is not."""
    columns = [np.asarray(x, np.float64) for x in found]
    columns[3] = np.exp(columns[3] - expected.log_z)
    return t_scores(np.stack(columns, axis=1), [*expected[:3], 1.0])
