"""Whether sets of draws give one answer: means and tail probabilities, each in its own error.

A yardstick (exact draws, a long run, known moments) gives each scalar x a mean m, a standard
deviation s and quantiles Q_q at q = 0.05, 0.5 and 0.95. The answers compared are the averages of

    (x - m) / s,   (1[x <= Q_q] - q) / sqrt(q (1 - q)),

each of which is 0 with standard deviation 1 under the yardstick's law: an average of 0.1 is off by
a tenth of a standard deviation of its own, which is the error of 100 independent draws. Indicators
are bounded, so that their errors can be trusted where those of variances cannot (heavy tails).

Null distribution: an average divided by its standard error is a standard normal score, when the
effective sample size is some hundred; over k answers the largest is compared with the normal
quantile at ``rate / (2 k)`` (`z_limit`). Limits: the errors are the draws' own. Chains that have
missed a mode do not know that they have, and so claim errors far too small: a large score says that
two answers differ, not by how much more than they could.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from ppl import weights
from ppl.diagnostics.rhat_ess import ess_mean
from ppl.diagnostics.table import run_means, scalars
from ppl.draws import Draws

LEVELS = (0.05, 0.5, 0.95)
RATE = 1e-3  # of false alarms over all answers of one comparison
MAX_SCALARS = 200
MAX_ROWS = 20_000  # draws of all chains together that errors are estimated from


def z_limit(num_checks: int, rate: float = RATE) -> float:
    """Limit that the largest of ``num_checks`` scores ``|z|`` exceeds with probability ``rate``."""
    from scipy.special import ndtri

    return -float(ndtri(rate / (2 * max(num_checks, 1))))


class Yardstick(NamedTuple):
    """What answers are measured against, by scalar.

    Parameters
    ----------
    labels
        Names of the scalars.
    mean, sd
        NaN where unknown.
    quantiles, levels
        Quantiles at `LEVELS`, and the share of the law at or below each: the level itself, unless
        values are discrete. NaN where unknown.
    size
        Effective number of draws behind it; infinity for exact values.
    """

    labels: list[str]
    mean: Float[np.ndarray, " d"]
    sd: Float[np.ndarray, " d"]
    quantiles: Float[np.ndarray, "level d"]
    levels: Float[np.ndarray, "level d"]
    size: Float[np.ndarray, " d"]


class Answers(NamedTuple):
    """Standardized averages and their standard errors, (1 + levels, scalar); NaN: no answer."""

    bias: Float[np.ndarray, "answer d"]
    error: Float[np.ndarray, "answer d"]

    @property
    def scores(self) -> Float[np.ndarray, "answer d"]:
        """Biases in standard errors."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(self.bias == 0, 0.0, self.bias / self.error)

    @property
    def number(self) -> int:
        """How many there are."""
        return int(np.isfinite(self.scores).sum())


# Draws of one law -----------------------------------------------------------------------------


class Pool:
    """Scalars of several runs of one sampler, all chains side by side, thinned where very many."""

    def __init__(self, runs: Sequence[Draws], labels: Sequence[str] | None = None):
        self.kind = runs[0].run.kind
        # Labels that are asked for may be among those that are left out of very many.
        of = scalars_of if labels is None else scalars
        found = [of(each) for each in runs]
        place = {label: i for i, label in enumerate(found[0][0])}
        self.labels = list(place if labels is None else labels)
        columns = [place[label] for label in self.labels]
        shortest = min(each.num_samples for each in runs)
        chains = sum(each.num_chains for each in runs)
        step = max(1, -(-shortest * chains // MAX_ROWS)) if self.kind == "markov" else 1
        rows = slice((shortest - 1) % step, shortest, step)
        self.x = np.concatenate([x[:, rows][:, :, columns] for _, x in found])
        self.log_weights: np.ndarray | None = None
        if runs[0].log_weights is not None:
            kept = [each.pooled_log_weights()[:, rows] for each in runs]
            self.log_weights = np.concatenate(kept)

    def error(self, values: Float[np.ndarray, "chain draw d"]) -> Float[np.ndarray, " d"]:
        """Standard errors of the averages of functions of the draws."""
        flat = values.reshape(-1, values.shape[2])
        if self.kind == "markov":
            sd = flat.std(axis=0, ddof=1) if len(flat) > 1 else np.full(flat.shape[1], math.nan)
            with np.errstate(invalid="ignore", divide="ignore"):
                # What does not move claims to have no error.
                return np.where((flat == flat[:1]).all(axis=0), 0.0, sd / np.sqrt(ess_mean(values)))
        log_weights = np.zeros(values.shape[:2]) if self.log_weights is None else self.log_weights
        error = weights.mcse_mean(flat, log_weights.ravel())
        if self.kind == "particle" and len(values) >= 4:  # particles of a run share ancestors
            means = run_means(values, log_weights)
            if len(means) >= 4:
                error = np.maximum(error, means.std(axis=0, ddof=1) / math.sqrt(len(means)))
        return error

    def average(self, values: Float[np.ndarray, "chain draw d"]) -> Float[np.ndarray, " d"]:
        """Averages of functions of the draws, weighted where the draws are."""
        flat = values.reshape(-1, values.shape[2])
        if self.log_weights is None:
            return flat.mean(axis=0)
        return weights.mean(flat, self.log_weights.ravel())

    def yardstick(self) -> Yardstick:
        """Moments and quantiles of these draws, with their effective number."""
        flat = self.x.reshape(-1, self.x.shape[2])
        log_weights = None if self.log_weights is None else self.log_weights.ravel()
        if log_weights is None:
            sd, quantiles = flat.std(axis=0, ddof=1), np.quantile(flat, LEVELS, axis=0)
        else:
            sd = weights.sd(flat, log_weights)
            quantiles = np.stack([weights.quantile(flat, log_weights, q) for q in LEVELS])
        levels = np.stack([self.average((self.x <= q).astype(float)) for q in quantiles])
        with np.errstate(divide="ignore", invalid="ignore"):
            size = (sd / self.error(self.x)) ** 2
        return Yardstick(self.labels, self.average(self.x), sd, quantiles, levels, size)

    def answers(self, yardstick: Yardstick) -> Answers:
        """Averages of these draws, measured against a yardstick of the same labels."""
        x = self.x
        flat = x.reshape(-1, x.shape[2])
        own_sd = flat.std(axis=0, ddof=1)
        sd = np.where(np.isfinite(yardstick.sd), yardstick.sd, own_sd)
        with np.errstate(divide="ignore", invalid="ignore"):
            z = (x - yardstick.mean) / np.where(sd > 0, sd, np.nan)
            biases, errors = [self.average(z)], [self.error(z)]
            effective = errors[0] ** -2.0
            for quantile, level in zip(yardstick.quantiles, yardstick.levels, strict=True):
                spread = np.sqrt(level * (1 - level))
                below = ((x <= quantile) - level) / np.where(spread > 0, spread, np.nan)
                error = self.error(below)
                # Chains that never cross a quantile have no effective size of its indicator.
                constant = ~np.isfinite(error) | (error == 0)
                biases.append(self.average(below))
                errors.append(np.where(constant, effective**-0.5, error))
        bias, error = np.stack(biases), np.stack(errors)
        with np.errstate(divide="ignore"):
            return Answers(bias, np.sqrt(error**2 + 1 / yardstick.size))


def scalars_of(draws: Draws) -> tuple[list[str], Float[np.ndarray, "chain draw d"]]:
    """Labels and draws of at most about `MAX_SCALARS` scalars."""
    total = sum(math.prod(x.shape[2:]) for x in draws.values.values())
    return scalars(draws, keep_every=max(1, -(-total // MAX_SCALARS)))


# Known values ---------------------------------------------------------------------------------


def known(values: Mapping[str, Any], draws: Draws) -> Yardstick:
    """Yardstick of exact values by name: a mean, or ``(mean, sd)``, shaped like the value.

    Raises
    ------
    ValueError
        For names that the draws do not have, or values of another shape.
    """
    labels: list[str] = []
    means: list[np.ndarray] = []
    sds: list[np.ndarray] = []
    for name, value in values.items():
        if name not in draws:
            raise ValueError(
                f"reference={name!r}: the draws have no such value; there are "
                f"{', '.join(draws.names)}"
            )
        shape = draws[name].shape[2:]
        mean, sd = value if isinstance(value, tuple) else (value, np.full(shape, math.nan))
        for part, what in ((mean, "mean"), (sd, "sd")):
            if np.shape(part) != shape:
                raise ValueError(
                    f"reference={name!r}: its {what} should have the shape {shape}; got "
                    f"{np.shape(part)}. Give a mean, or a tuple (mean, sd)"
                )
        labels += scalars(draws, [name])[0]
        means.append(np.asarray(mean, np.float64).ravel())
        sds.append(np.asarray(sd, np.float64).ravel())
    mean = np.concatenate(means)
    nothing = np.full((len(LEVELS), len(mean)), math.nan)
    exact = np.full(len(mean), math.inf)
    return Yardstick(labels, mean, np.concatenate(sds), nothing, nothing, exact)
