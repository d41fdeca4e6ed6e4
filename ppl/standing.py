"""What one sampler achieved over several runs of one budget: the figures of a row of `compare`."""

import math
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Float, PyTree

from ppl import weights
from ppl.about import describe
from ppl.diagnostics.agreement import Answers, Pool, Yardstick, scalars_of
from ppl.diagnostics.rhat_ess import ess_bulk, rhat
from ppl.diagnostics.stein import stein_test
from ppl.diagnostics.table import run_means
from ppl.draws import Draws, Estimate
from ppl.sampler import Sampler
from ppl.trial import Trial

SHOWN = 1000  # draws of a sampler, over all runs, of which distances are computed
STEIN_DRAWS, STEIN_ROWS = 500, 4000  # of a run: tested, and looked at for their dependence
BATCH = 256


class Standing:
    """A sampler's runs and everything that is computed from them, once.

    Attributes
    ----------
    name, sampler
        What it is called in the comparison, and what it is.
    trials
        One for each key.
    runs
        Draws of those that gave some.
    """

    def __init__(
        self, name: str, sampler: Sampler, trials: Sequence[Trial], compile_seconds: float | int = 0
    ):
        self.name, self.sampler, self.trials = name, sampler, list(trials)
        self.runs: list[Draws] = [each.draws for each in trials if each.draws is not None]
        self.compile_seconds = compile_seconds + sum(each.compile_seconds for each in trials)

    @property
    def failures(self) -> list[str]:
        """Reasons of the runs that gave no draws."""
        return [each.failure for each in self.trials if each.failure]

    @property
    def described(self) -> str:
        """The sampler in words, as tuned in the first run that gave draws."""
        return self.runs[0].run.sampler if self.runs else describe(self.sampler)

    @property
    def notes(self) -> list[str]:
        """Remarks of the runs, each once."""
        return list(dict.fromkeys(note for each in self.trials for note in each.notes))

    @property
    def is_weighted(self) -> bool:
        """Whether the draws carry weights."""
        return bool(self.runs) and self.runs[0].log_weights is not None

    @property
    def are_chains(self) -> bool:
        """Whether R-hat means something."""
        return bool(self.runs) and self.runs[0].run.kind == "markov"

    @cached_property
    def pool(self) -> Pool:
        """The scalars of all runs together."""
        return Pool(self.runs)

    # Cost and size ----------------------------------------------------------------------------

    @property
    def evaluations(self) -> Float[np.ndarray, " run"]:
        """Spent by each run with draws."""
        return np.array([float(each.evaluations) for each in self.trials if not each.failure])

    @property
    def seconds(self) -> Float[np.ndarray, " run"]:
        """Wall time of each run with draws, compilation apart."""
        return np.array([each.seconds for each in self.trials if not each.failure])

    @cached_property
    def ess(self) -> Float[np.ndarray, "run 2"]:
        """Least and median effective sample size over the scalars, for each run.

        Bulk ESS of chains; Kish's size of weights, for particles no more than the spread between
        the runs allows; the number of independent draws.
        """
        return np.array([self._sizes(each) for each in self.runs]).reshape(-1, 2)

    def _sizes(self, draws: Draws) -> tuple[float, float]:
        if self.are_chains:
            sizes = ess_bulk(scalars_of(draws)[1])
            sizes = sizes[np.isfinite(sizes)]
            return (float(sizes.min()), float(np.median(sizes))) if len(sizes) else (0.0, 0.0)
        size = float(draws.num_chains * draws.num_samples)
        if self.is_weighted:
            size = float(weights.ess(draws.pooled_log_weights().ravel()))
        if draws.run.kind == "particle":
            size = min(size, self._spread * draws.num_chains)
        return size, size

    @cached_property
    def _spread(self) -> float:
        """Independent draws that one run of particles is worth, from the spread between runs.

        The variance of a run's mean is that of the target over this number; averaged over the
        scalars, because one of them says little. It needs four runs.
        """
        x, log_weights = self.pool.x, self.pool.log_weights
        means = run_means(x, np.zeros(x.shape[:2]) if log_weights is None else log_weights)
        if len(means) < 4:
            return math.inf
        sd = self.pool.yardstick().sd
        share = (means.std(axis=0, ddof=1) / np.where(sd > 0, sd, np.nan)) ** 2
        return float(1 / max(np.nanmean(share), 1e-300))

    # Diagnostics ------------------------------------------------------------------------------

    @cached_property
    def r_hat(self) -> float:
        """Largest R-hat over the scalars, chains of all runs together; NaN for other draws."""
        if not self.are_chains:
            return math.nan
        values = rhat(self.pool.x)
        values = values[~np.isnan(values)]
        return float(values.max()) if len(values) else math.inf

    @cached_property
    def khat(self) -> float:
        """Largest k-hat of the runs; NaN for draws without weights."""
        if not self.is_weighted:
            return math.nan
        each = [weights.pareto_khat(run.pooled_log_weights().ravel()) for run in self.runs]
        return float(np.max(each))  # NaN, where one is: it cannot be fitted

    @property
    def khat_limit(self) -> float:
        """From which on k-hat is too high for the number of draws."""
        return weights.khat_threshold(min(each.num_chains * each.num_samples for each in self.runs))

    @cached_property
    def broken(self) -> float:
        """Share of draws with weight in which some scalar is not finite."""
        bad = ~np.isfinite(self.pool.x).all(axis=2)
        if self.pool.log_weights is not None:
            bad &= np.isfinite(self.pool.log_weights)
        return float(bad.mean())

    @property
    def divergences(self) -> int | None:
        """Divergent draws of all runs; None where the sampler does not know the word."""
        flags = [each.stats["diverging"] for each in self.runs if "diverging" in each.stats]
        return int(sum(flag.sum() for flag in flags)) if flags else None

    @cached_property
    def log_evidence(self) -> Estimate | None:
        """Evidence of all runs together; its error is no less than their spread says."""
        found = [each.log_evidence for each in self.runs if each.log_evidence is not None]
        if not found or len(found) < len(self.runs):
            return None
        return weights.evidence_of_runs(found)

    @cached_property
    def stein(self) -> tuple[float, float]:
        """Kernel Stein discrepancy, squared and unbiased, and its p-value: medians of the runs."""
        found = []
        for each in self.runs:
            step = 1
            if each.run.kind == "markov":
                step = max(1, each.num_chains * each.num_samples // STEIN_ROWS)
            rows = slice((each.num_samples - 1) % step, None, step)
            positions = jax.tree.map(lambda x: x[:, rows], each.positions)  # noqa: B023
            log_weights = each.pooled_log_weights() if self.is_weighted else None
            options: dict[str, Any] = {"max_draws": STEIN_DRAWS, "num_bootstrap": 199}
            try:
                test = stein_test(positions, each.target, log_weights=log_weights, **options)
                found.append((test.u_statistic, test.p_value))
            except ValueError:  # too few effective draws, or no gradient: no figure
                continue
        if not found:
            return math.nan, math.nan
        middle = np.median(np.array(found), axis=0)
        return float(middle[0]), float(middle[1])

    # Against others ---------------------------------------------------------------------------

    def answers(self, yardstick: Yardstick) -> Answers:
        """Answers of all runs together."""
        return self.pooled(yardstick.labels).answers(yardstick)

    def pooled(self, labels: list[str]) -> Pool:
        """`pool`, or the part of it that has these labels."""
        return self.pool if labels == self.pool.labels else Pool(self.runs, labels)

    def coverage(self, yardstick: Yardstick) -> float:
        """Share of the 95 % intervals of single runs that hold the yardstick's value."""
        scores = [Pool([each], yardstick.labels).answers(yardstick).scores for each in self.runs]
        known = np.concatenate([s[np.isfinite(s)] for s in scores])
        return float((np.abs(known) < 1.96).mean()) if len(known) else math.nan

    def rows(self, labels: list[str], generator: np.random.Generator) -> np.ndarray:
        """`SHOWN` draws of equal weight, evenly spaced over all runs."""
        pool = self.pooled(labels)
        return evenly(pool.x.reshape(-1, pool.x.shape[2]), pool.log_weights, generator)

    @cached_property
    def points(self) -> tuple[Float[np.ndarray, "chain n d"], Float[np.ndarray, "chain n"]]:
        """Flat positions, evenly spaced in every chain, and the log-density there."""
        places = [flat(each.positions) for each in self.runs]
        if self.is_weighted:
            rows = np.concatenate([x.reshape(-1, x.shape[2]) for x in places])
            log_weights = [each.pooled_log_weights().ravel() for each in self.runs]
            x = evenly(rows, np.concatenate(log_weights), np.random.default_rng(0))[None]
        else:
            chains = sum(len(x) for x in places)
            count = min(max(SHOWN // chains, 2), *(x.shape[1] for x in places))
            keep = [np.linspace(0, x.shape[1] - 1, count).round().astype(int) for x in places]
            x = np.concatenate([p[:, k] for p, k in zip(places, keep, strict=True)])
        return x, log_densities(self.runs[0].target, x)


def evenly(
    rows: Float[np.ndarray, "n d"],
    log_weights: Any,
    generator: np.random.Generator,
    num: int = SHOWN,
) -> Float[np.ndarray, "m d"]:
    """At most ``num`` rows: evenly spaced, or resampled by weight."""
    if log_weights is not None:
        if not np.isfinite(log_weights).any():
            return rows[:0]
        return rows[weights.stratified(generator, log_weights.ravel(), num)]
    return rows[np.linspace(0, len(rows) - 1, min(num, len(rows))).round().astype(int)]


def flat(positions: PyTree) -> Float[np.ndarray, "chain draw d"]:
    """Positions as vectors."""
    leaves = [np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(positions)]
    return np.concatenate([leaf.reshape(*leaf.shape[:2], -1) for leaf in leaves], axis=2)


@eqx.filter_jit
def _log_densities(target: Any, rows: Any) -> Any:
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), target.template)
    one, unravel = ravel_pytree(zeros)
    return jax.vmap(lambda row: target.log_density(unravel(row)))(rows.astype(one.dtype))


def log_densities(target: Any, x: Float[np.ndarray, "chain n d"]) -> Float[np.ndarray, "chain n"]:
    """Log-density at flat positions, in batches of one size."""
    rows = x.reshape(-1, x.shape[2])
    parts = []
    for start in range(0, len(rows), BATCH):
        index = np.minimum(np.arange(start, start + BATCH), len(rows) - 1)
        parts.append(np.asarray(_log_densities(target, rows[index]), np.float64))
    return np.concatenate(parts)[: len(rows)].reshape(x.shape[:2])
