"""Simulation-based calibration: whether a sampler recovers what a model generates.

    theta* ~ p(theta),   y* ~ p(y | theta*),   theta_1, ..., theta_L ~ sampler for p(theta | y*)

If model and sampler are right, theta* and the L draws are exchangeable, so that for every test
quantity f the rank of f(theta*) among the f(theta_l) is uniform on 0, ..., L [1]_. Each simulation
gives one rank a quantity; `ppl.diagnostics.uniformity` tests them and
`ppl.diagnostics.calibration` says in words what is off.

How draws become independent and ranks uniform: `ppl.ranks`. What is simulated: `ppl.simulate`.

References
----------
.. [1] S. Talts, M. Betancourt, D. Simpson, A. Vehtari, A. Gelman, "Validating Bayesian inference
   algorithms with simulation-based calibration", 2018, arXiv:1804.06788. Algorithms 1 and 2.
.. [2] T. Säilynoja, M. Schmitt, P.-C. Bürkner, A. Vehtari, "Posterior SBC: simulation-based
   calibration checking conditional on data", 2025, arXiv:2502.03279.
"""

import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import random
from jaxtyping import PRNGKeyArray

from ppl import about, keys, weights
from ppl.algebra import Stack
from ppl.calling import CallableModule
from ppl.diagnostics.calibration import judge, table_of
from ppl.diagnostics.findings import Verdict
from ppl.diagnostics.rhat_ess import chain_statistics
from ppl.draws import Draws
from ppl.energy import Energy, Position, TargetError
from ppl.inference import sample, sample_batch
from ppl.precision import full_precision
from ppl.program import Program, from_numpyro
from ppl.ranks import Fit, Quantities, rank
from ppl.sampler import MarkovKernel, Sampler
from ppl.simulate import Generated, Simulator, replicate_batch, simulate_batch
from ppl.start import NO_START
from ppl.structure import listed
from ppl.template import describe

BATCH = 50  # simulations that are run, and checkpointed, together
SAMPLES = 250  # draws in each chain, where the user names no number: ranks need no more


@dataclass(frozen=True, eq=False, repr=False)
class Calibration:
    """What a calibration found.

    Attributes
    ----------
    ranks
        pandas DataFrame, a row a simulation and a column a test quantity: the rank of the truth
        among the draws as a fraction, strictly between 0 and 1, uniform where all is right.
    effective
        The same for the number of thinned draws behind each rank.
    fits
        DataFrame, a row a simulation: largest R-hat, least effective size, divergences, stuck
        chains, and ``failed``, why the fit failed or ``""``.
    table
        DataFrame, a row a test quantity: p-value (adjusted for the number of quantities), shift
        and spread of the draws, verdict in words.
    judgement
        The verdict with its reasons, advice and checks apart.
    about
        How the calibration was run, by name.
    """

    ranks: Any
    effective: Any
    fits: Any
    table: Any
    judgement: Verdict
    about: dict[str, Any]

    @property
    def passed(self) -> bool | None:
        """Whether nothing speaks against sampler and model; None where there is too little."""
        return {"good": True, "caution": True, "bad": False, "unknown": None}[self.judgement.status]

    @property
    def verdict(self) -> str:
        """The judgement in words: headline, why, what to do."""
        lines = [self.judgement.headline, *(f"- {text}" for text in self.judgement.reasons)]
        return "\n".join([*lines, *(f"To do: {text}" for text in self.judgement.advice)])

    def report(self, path: str | Path) -> Path:
        """Write one self-contained HTML page: verdict, rank plots with bands, tables."""
        from ppl.report.calibration import report

        return report(self, path)

    def __str__(self) -> str:
        return self.verdict

    def __repr__(self) -> str:
        return f"Calibration: {self.judgement.headline} See .verdict, .table and .report(path)."


@full_precision
def calibrate(
    model: Any,
    sampler: Any,
    *args: Any,
    rng_key: Any = 0,
    num_simulations: Any = 200,
    quantities: Quantities | None = None,
    around_data: bool = False,
    generator: Any = None,
    num_samples: int | None = None,
    num_chains: int | None = None,
    num_warmup: int | None = None,
    false_alarms: Any = 0.01,
    progress: bool = True,
    checkpoint: str | Path | None = None,
    **kwargs: Any,
) -> Calibration:
    """Check a model and a sampler against data simulated from the model.

    Parameters
    ----------
    model
        A NumPyro model, with its arguments in ``args`` and ``kwargs``; a target that can simulate:
        `from_numpyro`, or one with exact draws such as `from_distribution`, for which the truth is
        an exact draw; or any object with ``simulate(rng_key) -> (position, target)``, see
        `ppl.simulate.Simulator`. Of a NumPyro model's data only shapes and dtypes matter, except
        what it computes with them: see `ppl.simulate` for what becomes of lags and regressors.
    sampler
        Any sampler, with the settings it will be used with.
    rng_key
        As in `sample`; simulation ``i`` uses ``fold_in(key, i)``.
    num_simulations
        Fits. 200 show a sampler that is off by a third of a posterior standard deviation, or by a
        quarter of its width, in one parameter; half of that where all parameters are off.
    quantities
        ``quantities(values) -> dict`` of further test quantities, where ``values`` holds the named
        values of one draw. Log likelihood, log prior and log density are always among them where
        the target has them, and so is every scalar of the draws.
    around_data
        Posterior SBC [2]_: truths are drawn by the sampler from the posterior of the given data,
        and each is to be recovered from these data and simulated ones together. It checks the
        sampler where it will be used, not everywhere the prior reaches; the prior may be improper.
    generator
        Another NumPyro model with the same arguments, whose latent and observed sites are drawn
        from; ``model`` is then what is fitted. Where it holds its data in factors, or to see what
        a wrong model does.
    num_samples, num_chains, num_warmup
        Of each fit, as in `sample`; 250 draws in each chain of a Markov kernel by default.
    false_alarms
        Probability at most of a failed verdict when all is right, over all quantities together.
    progress
        Show a bar for each batch of simulations.
    checkpoint
        Directory. A killed calibration that is called again goes on where it was; multiples of 50
        simulations may be extended.

    Returns
    -------
    Calibration
        ``.passed``, ``.verdict``, ``.ranks``, ``.table``, ``.fits`` and ``.report(path)``. Ctrl-C
        judges the batches that are complete.

    Raises
    ------
    TargetError
        If the model cannot simulate: numpyro.factor, an improper prior, nothing observed, data
        observed in a NumPyro scan.
    ValueError
        For sizes that make no sense.

    Differences from the paper
    --------------------------
    Ranks are not binned, and each quantity of each fit is thinned by its own effective size where
    algorithm 2 of [1]_ thins by one number. Posterior SBC draws its truths with the sampler under
    test, as in [2]_: a sampler that is wrong in the same way for both posteriors can pass.

    Examples
    --------
    >>> import jax.numpy as jnp, numpyro, numpyro.distributions as dist, ppl, samplers
    >>> def model(y):
    ...     mu = numpyro.sample("mu", dist.Normal(0, 1))
    ...     numpyro.sample("y", dist.Normal(mu, 1).expand([len(y)]).to_event(1), obs=y)
    >>> result = ppl.calibrate(model, samplers.MALA(step_size=0.1), jnp.zeros(5), progress=False)
    >>> result.passed
    True
    """
    _check_sizes(num_simulations, false_alarms)
    rng_key = keys.as_key(rng_key)
    simulator = _simulator(model, args, kwargs, generator, around_data=around_data)
    if isinstance(sampler, MarkovKernel) and num_samples is None:
        num_samples = SAMPLES
    started = about.now()
    key_truth, key_fit, key_rank = (random.fold_in(rng_key, use) for use in range(3))
    sizes: dict[str, Any] = {
        "num_samples": num_samples,
        "num_chains": num_chains,
        "num_warmup": num_warmup,
    }
    folder = None if checkpoint is None else Path(checkpoint)
    notes: list[str] = []
    truths = None
    if around_data:
        truths = _around(
            simulator, sampler, key_truth, num_simulations, sizes, progress, folder, notes
        )
    fits: list[Fit] = []
    last: Draws | None = None
    # Batches of one size: one program serves all of them. The last one may have some to spare.
    size = math.ceil(num_simulations / math.ceil(num_simulations / BATCH))
    for first in range(0, num_simulations, size):
        numbers = np.arange(first, first + size)
        stack, positions = _targets(simulator, key_truth, numbers, truths)
        kept = min(size, num_simulations - first)
        try:
            draws = sample_batch(
                sampler, stack, random.fold_in(key_fit, first), **sizes,
                progress=f"simulations {first} to {first + kept - 1}" if progress else False,
                checkpoint=None if folder is None else folder / f"simulations-{first:05d}",
            )  # fmt: skip
        except KeyboardInterrupt:
            draws = []
        except TargetError as error:
            if NO_START not in str(error):
                raise
            raise TargetError(
                f"{error}\n  This is of one of the simulations {first} to {first + kept - 1}: "
                "data drawn from the prior can be more extreme than any real ones. Narrow the "
                "prior, or calibrate around the data (around_data=True)."
            ) from error
        if len(draws) < size or draws[0].run.stopped == "interrupted":
            if not fits:
                raise KeyboardInterrupt("interrupted before the first batch was complete")
            notes.append(f"Interrupted: {len(fits)} of {num_simulations} simulations were run.")
            break
        for i in range(kept):
            truth = jax.tree.map(lambda x: np.asarray(x)[i], positions)  # noqa: B023
            key = random.fold_in(key_rank, first + i)
            fits.append(rank(draws[i], truth, quantities, key))
        last = draws[0]
    assert last is not None
    settings = _settings(last, sampler, simulator, rng_key, started) | {
        "false_alarms": false_alarms,
        "around_data": around_data,
        "generator": None if generator is None else about.describe_target(simulator.generator),
    }
    return _result(fits, false_alarms, notes, settings)


def _check_sizes(num_simulations: Any, false_alarms: Any) -> None:
    whole = isinstance(num_simulations, int | np.integer) and not isinstance(num_simulations, bool)
    if not whole or num_simulations < 1:
        raise ValueError(f"num_simulations must be a positive integer; got {num_simulations!r}")
    if not isinstance(false_alarms, float) or not 0 < false_alarms < 1:
        raise ValueError(f"false_alarms must be a number between 0 and 1; got {false_alarms!r}")


# What is simulated ----------------------------------------------------------------------------


def _simulator(model: Any, args: tuple, kwargs: dict, generator: Any, *, around_data: bool) -> Any:
    """The target or simulator of what the user gave; refuse what cannot simulate."""
    if isinstance(model, Sampler) or (isinstance(model, type) and issubclass(model, Sampler)):
        raise TypeError("the model comes first: ppl.calibrate(model, sampler, *args)")
    if isinstance(model, Stack):
        raise TargetError("calibrate takes one model or target; got a stack of targets")
    ready = isinstance(model, Energy) or isinstance(model, Simulator)
    if ready and (args or kwargs):
        raise TargetError(
            f"{type(model).__name__} holds its data already; arguments go with a NumPyro model: "
            f"got {len(args)} of them and the keywords {', '.join(kwargs) or 'none'}"
        )
    if not ready and not callable(model):
        raise TargetError(
            "calibrate takes a NumPyro model with its arguments, a target that can simulate, or an "
            f"object with simulate(rng_key) -> (position, target); got {type(model).__name__}"
        )
    target = model if ready else from_numpyro(model, *args, **kwargs)
    if generator is not None:
        target = _generated(target, generator)
    elif isinstance(target, Energy):
        capability = "replicate" if around_data else "simulate"
        if capability not in target.offers:
            raise TargetError(f"calibrate cannot simulate: {target.refuse(capability)}")
    if around_data and not (isinstance(target, Energy) and "replicate" in target.offers):
        raise TargetError(
            "around_data=True draws new data given draws from the posterior of the observed ones: "
            "it takes a NumPyro model with its data, without generator="
        )
    return target


def _generated(target: Any, generator: Any) -> "Generated":
    if not isinstance(target, Program):
        raise TargetError("generator= goes with a NumPyro model to fit, or a from_numpyro target")
    if not isinstance(generator, Program):
        generator = from_numpyro(generator, *target.args, **target.kwargs)
    if "simulate" not in generator.offers:
        raise TargetError(f"calibrate cannot simulate: {generator.refuse('simulate')}")
    same = jax.tree.structure((generator.args, generator.kwargs))
    if same != jax.tree.structure((target.args, target.kwargs)):
        raise TargetError("generator= must take the same arguments as the model that is fitted")
    known = generator.structure.named("latent", "deterministic", "discrete")
    if missing := [name for name in target.latent_names if name not in known]:
        raise TargetError(
            f"generator {generator.structure.name} draws no {listed(missing)}, which model "
            f"{target.structure.name} infers; it draws {listed(known)}"
        )
    return Generated(target, generator)


def _targets(
    simulator: Any, rng_key: PRNGKeyArray, numbers: np.ndarray, truths: Position | None
) -> tuple[Stack, Position]:
    own = jax.vmap(random.fold_in, (None, 0))(rng_key, jnp.asarray(numbers, jnp.uint32))
    if truths is None:
        positions, stack = simulate_batch(simulator, own)
        return stack, positions
    within = np.minimum(numbers, len(jax.tree.leaves(truths)[0]) - 1)
    positions = jax.tree.map(lambda x: jnp.asarray(x[within]), truths)
    return replicate_batch(simulator, positions, own), positions


def _around(
    target: Any,
    sampler: Sampler,
    rng_key: PRNGKeyArray,
    number: int,
    sizes: dict[str, Any],
    progress: bool,  # noqa: FBT001
    folder: Path | None,
    notes: list[str],
) -> Position:
    """Nearly independent positions from the posterior of the observed data."""
    sizes = dict(sizes)
    if isinstance(sampler, MarkovKernel):
        sizes["num_samples"] = max(1000, math.ceil(10 * number / (sizes["num_chains"] or 4)))
    where = None if folder is None else folder / "data"
    draws = sample(sampler, target, rng_key, **sizes, progress=progress, checkpoint=where)
    flat = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), draws.positions)
    if draws.log_weights is not None:
        worth = float(weights.ess(draws.pooled_log_weights().ravel()))
        flat = jax.tree.map(lambda x: x[0], draws.resample(rng_key, number).positions)
    elif draws.run.kind == "markov":
        parts = [chain_statistics(x.reshape(*x.shape[:2], -1)) for x in draws.values.values()]
        sizes_ = np.concatenate([np.fmin(p.ess_bulk, p.ess_tail) for p in parts])
        worth = float(np.nanmin(sizes_)) if np.isfinite(sizes_).any() else 0.0
    else:
        worth = float(draws.num_chains * draws.num_samples)
    if worth < number:
        notes.append(
            f"The {number} truths are draws from the posterior of the data worth {worth:.0f} "
            "independent ones: ranks depend on each other, and the verdict is too confident."
        )
    total = len(jax.tree.leaves(flat)[0])
    evenly = np.linspace(0, total - 1, number).round().astype(int)
    return jax.tree.map(lambda x: x[evenly], flat)


# The result -----------------------------------------------------------------------------------


def _result(
    fits: list[Fit], level: float, notes: list[str], settings: dict[str, Any]
) -> Calibration:
    import pandas as pd

    # A quantity that never differs from its truth (a fixed entry of a matrix) has nothing to test.
    keep = np.any([fit.varies for fit in fits], axis=0)
    labels = [label for label, kept in zip(fits[0].labels, keep, strict=True) if kept]
    joint = np.array(fits[0].joint)[keep]
    ranks = pd.DataFrame(np.stack([fit.rank[keep] for fit in fits]), columns=labels)
    effective = pd.DataFrame(
        np.stack([fit.effective[keep] for fit in fits]).astype(int), columns=labels
    )
    facts = pd.DataFrame([fit.facts for fit in fits])
    for frame in (ranks, effective, facts):
        frame.index.name = "simulation"
    table = table_of(ranks, joint, level)
    judgement = judge(table, effective, facts, level, settings, notes)
    return Calibration(ranks, effective, facts, table, judgement, settings)


def _settings(
    draws: Draws, sampler: Sampler, simulator: Any, rng_key: PRNGKeyArray, started: str
) -> dict[str, Any]:
    run = draws.run
    return {
        "target": about.describe_target(getattr(simulator, "fitted", simulator)),
        "template": describe(draws.target.template),
        "sampler": about.describe(sampler),
        "sampler_name": run.sampler_name,
        "exactness": run.exactness,
        "num_chains": draws.num_chains,
        "num_samples": draws.num_samples,
        "num_warmup": run.num_warmup,
        "rng_key": about.key_data(rng_key),
        "versions": run.versions,
        "started": started,
        "ended": about.now(),
    }


sys.modules[__name__].__class__ = CallableModule
