"""Several samplers on one target with equal budgets: who is right, who is fast, which to use.

Equal numbers of evaluations (or seconds), several keys, the same keys for all. Every sampler gets
the same starts, as far as it starts from positions. `ppl.trial` says how a budget is spent and
counted, `ppl.recommendation` how the samplers are judged.
"""

import math
import sys
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jax import random
from tqdm import tqdm

from ppl import about, keys
from ppl.calling import CallableModule
from ppl.draws import Draws
from ppl.energy import TargetError
from ppl.inference import CHAINS
from ppl.precision import full_precision
from ppl.recommendation import (
    Recommendation,
    against_reference,
    among_themselves,
    efficiency,
    recommend,
    worst_bias,
)
from ppl.sampler import MarkovKernel, Sampler
from ppl.standing import Standing
from ppl.stopping import Elapsed, Evaluations, evaluations
from ppl.trial import Budget, Contestant, refuse_small
from ppl.truth import Truth, truth_of

BUDGET, SEEDS, TOLERANCE = 100_000, 3, 0.1
REFERENCE_DRAWS = 10_000
PILOT, REFERENCE = 2**31 - 1, 2**31 - 2  # uses of the key beside those of the runs


class Comparison:
    """What `compare` found.

    Attributes
    ----------
    table
        pandas DataFrame, a row a sampler, the recommended one first; see `compare`.
    recommendation
        `Recommendation`: which sampler to use and why, what speaks against the others; ``print``
        shows it in words.
    draws
        ``{name: [Draws, ...]}``, one for each key that gave some.
    budget
        The budget of one run.
    truth
        The reference, or None.
    """

    def __init__(
        self,
        standings: list[Standing],
        truth: Truth | None,
        budget: Budget,
        tolerance: float | int,
        facts: dict[str, str],
        rng_key: dict[str, Any],
    ):
        self.truth, self.budget, self.tolerance = truth, budget, tolerance
        self.about, self.rng_key = facts, rng_key
        if truth is None:
            self.against = among_themselves(standings, tolerance)
            words = "agree with those of the other samplers that are right"
            words = words if len(standings) - len(self.against) > 1 else "pass all checks"
        else:
            normalizer = truth.log_normalizer
            self.against = against_reference(
                standings, truth.yardstick, truth.points, normalizer, tolerance
            )
            words = f"agree with the reference ({truth.label})"
        self.recommendation: Recommendation = recommend(
            standings, self.against, words, by_seconds=isinstance(budget, Elapsed)
        )
        best = [self.recommendation.sampler, *self.recommendation.against]
        self.standings = sorted(standings, key=lambda each: best.index(each.name))

    @property
    def per(self) -> str:
        """What efficiency is counted by."""
        return "second" if isinstance(self.budget, Elapsed) else "1,000 evaluations"

    @property
    def draws(self) -> dict[str, list[Draws]]:
        """Draws of every sampler, one for each key that gave some."""
        return {each.name: each.runs for each in self.standings}

    @cached_property
    def table(self) -> Any:
        """A row a sampler."""
        import pandas as pd

        rows = [self._row(each) for each in self.standings]
        index = pd.Index([each.name for each in self.standings], name="sampler")
        return pd.DataFrame(rows, index=index)

    def _row(self, standing: Standing) -> dict[str, Any]:
        row: dict[str, Any] = dict.fromkeys(COLUMNS, math.nan)
        row["right"] = standing.name not in self.against
        row["failures"] = len(standing.failures)
        row["compile_seconds"] = standing.compile_seconds
        row["why"] = self.recommendation.against.get(standing.name, "recommended")
        if not standing.runs:
            return row
        least, median = standing.ess.mean(axis=0)
        with np.errstate(divide="ignore", invalid="ignore"):
            per_evaluation = standing.ess / standing.evaluations[:, None] * 1000
            per_second = standing.ess / standing.seconds[:, None]
        draws = [each.num_chains * each.num_samples for each in standing.runs]
        evidence = standing.log_evidence
        row |= {
            "draws": float(np.mean(draws)),
            "evaluations": float(standing.evaluations.mean()),
            "seconds": float(standing.seconds.mean()),
            "ess_min": float(least),
            "ess_median": float(median),
            "ess_min_per_1000": float(per_evaluation[:, 0].mean()),
            "ess_median_per_1000": float(per_evaluation[:, 1].mean()),
            "ess_min_per_second": float(per_second[:, 0].mean()),
            "ess_median_per_second": float(per_second[:, 1].mean()),
            "r_hat": standing.r_hat,
            "khat": standing.khat,
            "divergences": math.nan if standing.divergences is None else standing.divergences,
        }
        if evidence is not None:
            row["log_evidence"] = evidence.value
            row["log_evidence_error"] = evidence.std_error
        row["stein"], row["stein_p"] = standing.stein
        if self.truth is not None:
            yardstick = self.truth.yardstick
            row["bias"], row["z"] = worst_bias(standing.answers(yardstick))
            row["coverage"] = standing.coverage(yardstick)
            rows = standing.rows(yardstick.labels, np.random.default_rng(0))
            row["energy_distance"], row["sliced_wasserstein"] = self.truth.distances(rows)
        return row

    def efficiency(self, name: str) -> np.ndarray:
        """Least effective sample size per 1,000 evaluations (or per second), a number a key."""
        standing = next(each for each in self.standings if each.name == name)
        return efficiency(standing, by_seconds=isinstance(self.budget, Elapsed))

    def report(self, path: Any) -> Path:
        """Write one self-contained HTML page.

        Parameters
        ----------
        path
            File to write, all or nothing. Missing folders are made.
        """
        from ppl.report.compared import report

        return report(self, path)

    def __repr__(self) -> str:
        return f"Comparison of {', '.join(each.name for each in self.standings)}\n" + str(
            self.recommendation
        )


COLUMNS = (
    "right",
    "draws",
    "evaluations",
    "seconds",
    "compile_seconds",
    "ess_min",
    "ess_median",
    "ess_min_per_1000",
    "ess_median_per_1000",
    "ess_min_per_second",
    "ess_median_per_second",
    "r_hat",
    "khat",
    "divergences",
    "log_evidence",
    "log_evidence_error",
    "bias",
    "z",
    "coverage",
    "energy_distance",
    "sliced_wasserstein",
    "stein",
    "stein_p",
    "failures",
    "why",
)


@full_precision
def compare(
    target: Any,
    samplers: Any,
    rng_key: Any = 0,
    budget: Any = BUDGET,
    *,
    num_seeds: Any = SEEDS,
    num_chains: Any = CHAINS,
    num_warmup: int | None = None,
    init: Any = None,
    reference: Any = None,
    tolerance: Any = TOLERANCE,
    progress: bool = True,
) -> Comparison:
    """Run several samplers on one target with equal budgets and say which to use, and why.

    Parameters
    ----------
    target
        What to sample.
    samplers
        ``{name: sampler}``, of any of the four contracts.
    rng_key
        As in `ppl.sample`; seed ``i`` of every sampler uses ``fold_in(rng_key, i)``.
    budget
        Of one run of one sampler: evaluations (an int, or ``ppl.evaluations(n)``), warm-up and
        training included, or ``ppl.elapsed(seconds)``, compilation apart. The larger one of
        log-density and gradient evaluations counts: a gradient brings its density along, and
        costs as much as a density alone. Compare in seconds where that is unfair.
    num_seeds
        Runs of each sampler. Nothing compiles between them.
    num_chains
        Chains of Markov kernels; those that learn from many chains have their usual number where
        this is too few for them. All others spend the budget on independent runs, or draws.
    num_warmup
        Steps of Markov kernels; by default what a quarter of the budget pays, between 100 and
        1000.
    init
        Starts of Markov kernels, as in `ppl.sample`.
    reference
        What is right: draws of the same target (see `ppl.reference`), or exact values by name, a
        mean or a tuple ``(mean, sd)``. By default exact draws, where the target has them.
    tolerance
        Error of an answer, in its own standard deviations, up to which it counts as right.
    progress
        Show a progress bar on standard error.

    Returns
    -------
    Comparison
        ``.table``, ``.recommendation``, ``.report(path)``, ``.draws``. The table's columns, means
        over the seeds unless said otherwise:

        ===========================  ===========================================================
        ``right``                    nothing speaks against its answers
        ``draws``, ``evaluations``,  of a run; ``compile_seconds``: of all runs
        ``seconds``
        ``ess_min``, ``ess_median``  over the scalars: bulk ESS, or Kish's size of weights; also
                                     ``_per_1000`` evaluations and ``_per_second``
        ``r_hat``, ``khat``          the largest; R-hat over the chains of all seeds together
        ``divergences``              of all seeds
        ``log_evidence``             with ``_error``
        ``bias``, ``z``              largest error of a mean or a tail probability against the
                                     reference, in sd; the largest in standard errors
        ``coverage``                 share of the single runs' 95 % intervals that hold the truth
        ``energy_distance``,         of 1,000 draws to as many of the reference, scalars scaled
        ``sliced_wasserstein``       by their sd
        ``stein``, ``stein_p``       kernel Stein discrepancy, squared and unbiased; p-value
        ``failures``                 seeds without draws
        ``why``                      what speaks against it
        ===========================  ===========================================================

    Raises
    ------
    ValueError
        For no samplers, what is no sampler or no target, a budget smaller than one warm-up, a
        reference of another target. A sampler that fails or is refused is a row of the table.

    Examples
    --------
    >>> import jax.numpy as jnp, ppl, samplers
    >>> target = ppl.from_log_density(lambda x: -0.5 * jnp.sum(x**2), jnp.zeros(20))
    >>> comparison = ppl.compare(
    ...     target, {"MALA": samplers.MALA(), "walk": samplers.RandomWalk()}, budget=20_000,
    ...     progress=False,
    ... )
    >>> comparison.recommendation.sampler
    'MALA'
    """
    rng_key, started = keys.as_key(rng_key), about.now()
    budget = _budget(budget)
    _check(target, samplers)
    for name, value in (("num_seeds", num_seeds), ("num_chains", num_chains)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} must be an integer, at least 1; got {value!r}")
    if not (isinstance(tolerance, float | int) and tolerance > 0):
        raise ValueError(f"tolerance must be positive, in standard deviations; got {tolerance!r}")
    for sampler in samplers.values():
        refuse_small(budget, sampler, _chains(sampler, num_chains), num_warmup)
    truth = truth_of(target, reference, random.fold_in(rng_key, REFERENCE), REFERENCE_DRAWS)
    standings = []
    total = len(samplers) * (num_seeds + 1)
    with tqdm(total=total, desc="compare", file=sys.stderr, disable=not progress) as bar:
        for name, sampler in samplers.items():
            bar.set_postfix_str(name)
            chains = _chains(sampler, num_chains)
            entered = Contestant(sampler, target, budget, chains, num_warmup, init)
            entered.prepare(random.fold_in(rng_key, PILOT))
            bar.update()
            trials = []
            for seed in range(num_seeds):
                trials.append(entered.run(random.fold_in(rng_key, seed)))
                bar.update()
            standings.append(Standing(name, sampler, trials, entered.compile_seconds))
    facts = {
        "Target": about.describe_target(target),
        "Samplers": str(len(samplers)),
        "Budget of a run": _words(budget),
        "Seeds": str(num_seeds),
        "Chains of Markov kernels": str(num_chains),
        "Reference": "none" if truth is None else truth.label,
        "Tolerance": f"{tolerance:g} sd",
        "Started": started,
        **about.versions(),
        "Device": about.device(),
    }
    return Comparison(standings, truth, budget, tolerance, facts, about.key_data(rng_key))


def _chains(sampler: Sampler, num_chains: int) -> int:
    """As many chains as asked for, or as a kernel cannot do without."""
    if isinstance(sampler, MarkovKernel) and num_chains < sampler.fewest_chains:
        return sampler.usual_chains
    return num_chains


def _check(target: Any, samplers: Any) -> None:
    if not isinstance(samplers, Mapping) or not samplers:
        raise ValueError(
            f"samplers must be a mapping with one sampler at least, such as {{'NUTS': "
            f"samplers.NUTS()}}; got {samplers!r}"
        )
    for name, sampler in samplers.items():
        if isinstance(sampler, Draws):
            raise ValueError(
                f"{name!r} is a set of draws; compare runs samplers itself. For draws that are "
                "there, write ppl.report({name: draws, ...}, path)"
            )
        if not isinstance(sampler, Sampler):
            hint = f"{sampler.__name__}()" if isinstance(sampler, type) else "samplers.NUTS()"
            raise ValueError(f"{name!r} is no sampler: got {sampler!r}; pass {hint}")
    if getattr(target, "offers", None) is None:
        raise TargetError(
            f"{type(target).__name__} is no target; make one with ppl.from_numpyro(model, ...) or "
            "ppl.from_log_density(fn, template)"
        )
    if "log_density" not in target.offers:
        raise TargetError(f"compare needs a density: {target.refuse('log_density')}")


def _budget(budget: Any) -> Budget:
    if isinstance(budget, Evaluations | Elapsed):
        return budget
    if isinstance(budget, int | np.integer) and not isinstance(budget, bool) and budget >= 1:
        return evaluations(int(budget))
    raise ValueError(
        "budget must be a number of evaluations, ppl.evaluations(n) or ppl.elapsed(seconds); got "
        f"{budget!r}"
    )


def _words(budget: Budget) -> str:
    if isinstance(budget, Elapsed):
        return f"{budget.seconds:g} s"
    return f"{budget.n:,} evaluations"


sys.modules[__name__].__class__ = CallableModule
