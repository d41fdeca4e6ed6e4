"""A Gaussian prior seen through a matrix, where the law of every affine rule is known exactly.

The prior has its exact denoiser, so that a rule which is affine in the point and the noise has a
Gaussian law at every level, whose mean and covariance follow from its formulas: written here again,
in NumPy, in float64, with dense matrices. That is the truth for a biased method; the posterior is
that for an exact one.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax.numpy as jnp
import numpy as np

import ppl
import samplers
from agreement import z_limit

N = 8192  # draws that laws are compared with
NUM_CHECKS = 400  # scalar checks of this kind in the whole suite, which share one rate
D = 4
MEAN = np.array([0.5, -1.0, 0.0, 1.5])
FACTOR = np.array(
    [[1.2, 0.0, 0.0, 0.0], [0.7, 0.6, 0.0, 0.0], [-0.3, 0.4, 0.5, 0.0], [0.2, -0.1, 0.3, 0.9]]
)
COVARIANCE = FACTOR @ FACTOR.T
A = np.array([[1.0, 0.5, 0.0, 0.0], [0.0, -0.4, 0.8, 0.6]])
Y = np.array([1.1, -0.7])
NOISE = 0.3


class GaussianDenoiser(eqx.Module):
    """E[x | x + sigma eps = z] under a Gaussian, along the axes of its covariance."""

    mean: Any
    variances: Any
    axes: Any

    def __call__(self, z, sigma):
        shares = self.variances / (self.variances + sigma**2)
        return self.mean + self.axes @ (shares * (self.axes.T @ (z - self.mean)))


def prior(path=None, mean=MEAN, covariance=COVARIANCE):
    parts = (mean, *np.linalg.eigh(covariance))
    denoiser = GaussianDenoiser(*(jnp.asarray(x, float) for x in parts))
    path = samplers.EDM(t_min=0.02, t_max=20.0) if path is None else path
    return samplers.DiffusionPrior(path, denoiser, jnp.zeros(len(mean)))


def problem(path=None, noise=NOISE, matrix=A, observation=Y):
    likelihood = ppl.LinearGaussian(jnp.asarray(matrix, float), jnp.asarray(observation), noise)
    return ppl.posterior(prior(path), likelihood)


class Gaussian(NamedTuple):
    mean: np.ndarray
    covariance: np.ndarray


def posterior(extra=0.0) -> Gaussian:
    """Given Y; with noise of the covariance ``extra A A'`` on top."""
    noise_covariance = NOISE**2 * np.eye(2) + extra * A @ A.T
    gain = COVARIANCE @ A.T @ np.linalg.inv(A @ COVARIANCE @ A.T + noise_covariance)
    return Gaussian(MEAN + gain @ (Y - A @ MEAN), COVARIANCE - gain @ A @ COVARIANCE)


class Affine(NamedTuple):
    """``z -> matrix z + offset``."""

    matrix: np.ndarray
    offset: np.ndarray

    def after(self, other: "Affine") -> "Affine":
        return Affine(self.matrix @ other.matrix, self.matrix @ other.offset + self.offset)

    def __add__(self, other):
        return Affine(self.matrix + other.matrix, self.offset + other.offset)

    def scaled(self, factor) -> "Affine":
        return Affine(factor * self.matrix, factor * self.offset)


IDENTITY = Affine(np.eye(D), np.zeros(D))


def denoiser(kappa: float) -> Affine:
    """D at a level."""
    gain = COVARIANCE @ np.linalg.inv(COVARIANCE + kappa**2 * np.eye(D))
    return Affine(gain, MEAN - gain @ MEAN)


def linear(matrix: np.ndarray) -> Affine:
    return Affine(matrix, np.zeros(len(matrix)))


def constant(offset: np.ndarray) -> Affine:
    return Affine(np.zeros((len(offset), D)), offset)


def residual(point: Affine) -> Affine:
    """``y - A x``."""
    return constant(Y) + linear(-A).after(point)


def push(law: Gaussian, step: Affine, noise: np.ndarray) -> Gaussian:
    """Law after an affine step with independent noise of this covariance."""
    mean = step.matrix @ law.mean + step.offset
    return Gaussian(mean, step.matrix @ law.covariance @ step.matrix.T + noise)


def start(kappa: float) -> Gaussian:
    return Gaussian(np.zeros(D), kappa**2 * np.eye(D))


def of_rule(sampler: Any, guided: Callable[[float, float, float], Affine]) -> Gaussian:
    """Law of the draws of a guided sampler whose D' is ``guided(kappa, kappa', weight)``."""
    grid, rows = sampler.table
    law = start(grid.kappa[0])
    for i in range(len(rows.F)):
        alpha = grid.alpha[i + 1]
        weight = rows.B[i, 0, 0] / alpha
        step = IDENTITY.scaled(1 - weight) + guided(
            grid.kappa[i], grid.kappa[i + 1], weight
        ).scaled(weight)
        spread = np.sum(rows.S[i, 0] ** 2) / alpha**2
        law = push(law, step, spread * np.eye(D))
    return law


def of_flow(sampler: Any, guided: Callable[[float, float, float], Affine]) -> Gaussian:
    """The same of a solver without noise, whose steps may use older D', where alpha is one."""
    grid, rows = sampler.table
    point, history = IDENTITY, []
    for i in range(len(rows.F)):
        rule = guided(grid.kappa[i], grid.kappa[i + 1], rows.B[i, 0, 0])
        history = [rule.after(point), *history]
        point = point.scaled(rows.A[i, 0, 0])
        for weight, denoised in zip(rows.B[i, 0], history, strict=False):
            point = point + denoised.scaled(weight)
    return push(start(grid.kappa[0]), point, np.zeros((D, D)))


def levels_of(sampler: Any) -> Any:
    """kappa of the start, of the end and of those inside of each move of a chain."""
    steps = sampler.steps
    return zip(steps.start.kappa, steps.end.kappa, steps.inside.kappa, strict=True)


def given(variance: float, tau: float) -> tuple[Affine, np.ndarray]:
    """Mean, as an affine map, and covariance of ``N(x, variance I)`` given the data."""
    gain = variance * A.T @ np.linalg.inv(variance * A @ A.T + tau**2 * np.eye(2))
    mean = IDENTITY + linear(gain).after(residual(IDENTITY))
    return mean, variance * (np.eye(D) - gain @ A)


def scores(draws: Any, law: Gaussian) -> np.ndarray:
    """Scores of mean and covariance of independent draws, whitened by the law they should have."""
    x = np.asarray(draws, np.float64).reshape(-1, D)
    white = np.linalg.solve(np.linalg.cholesky(law.covariance), (x - law.mean).T).T
    n = len(white)
    means = white.mean(axis=0) * np.sqrt(n)
    products = (white[:, :, None] * white[:, None, :]).mean(axis=0) - np.eye(D)
    # The variance of z_i z_j is 1, that of z_i^2 is 2.
    errors = np.sqrt((1 + np.eye(D)) / n)
    return np.concatenate([means, (products / errors)[np.triu_indices(D)]])


def agrees(draws: Any, law: Gaussian) -> bool:
    """Whether no score is beyond the suite's limit; NaN never agrees."""
    return bool(np.all(np.abs(scores(draws, law)) < z_limit(NUM_CHECKS)))


def bias(law: Gaussian, truth: Gaussian) -> tuple[float, float]:
    """Error of the mean in posterior sds, root mean square, and the mean ratio of sds."""
    sds, own = np.sqrt(np.diag(truth.covariance)), np.sqrt(np.diag(law.covariance))
    return float(np.sqrt(np.mean(((law.mean - truth.mean) / sds) ** 2))), float(np.mean(own / sds))


def check_law(
    sampler: Any, target: Any, law: Callable[[Any], Gaussian], twins: dict[str, Any]
) -> None:
    """Draws have this law of the resolved sampler, and not that of any twin."""
    draws = ppl.sample(sampler, target, num_samples=N, progress=False)
    resolved = sampler.resolve(target)
    assert agrees(draws["x"], law(resolved))
    for twin, wrong in twins.items():
        assert not agrees(draws["x"], wrong(resolved)), twin


def check_rule(sampler: Any, target: Any, rule: Any, twins: dict[str, Any]) -> None:
    """The same of a rule on the denoised value."""
    law_of = lambda rule: lambda sampler: of_rule(sampler, rule)
    others = {name: law_of(twin) for name, twin in twins.items()}
    check_law(sampler, target, law_of(rule), others)


def check_without_structure(sampler: Any, law: Callable[[Any], Gaussian]) -> None:
    """The same likelihood as a plain function has nearly the law of it with its structure."""
    likelihood = problem().log_likelihood_fn
    plain = ppl.posterior(prior(), lambda x: likelihood(x))
    draws = ppl.sample(sampler, plain, num_samples=2048, progress=False)["x"][0]
    found = Gaussian(np.mean(draws, axis=0), np.cov(draws.T))
    mean, ratio = bias(found, law(sampler.resolve(plain)))
    assert mean < 0.15
    assert abs(ratio - 1) < 0.1
