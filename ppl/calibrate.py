"""Simulation-based calibration: whether a sampler recovers what a model generates.

    theta* ~ p(theta),   y* ~ p(y | theta*),   theta_1, ..., theta_L ~ sampler for p(theta | y*)

If model and sampler are right, theta* and the L draws are exchangeable, so that for every test
quantity f the rank of f(theta*) among the f(theta_l) is uniform on 0, ..., L [1]_. Each simulation
gives one rank a quantity; `ppl.diagnostics.uniformity` tests them and
`ppl.diagnostics.calibration` says in words what is off.

Draws of a chain depend on each other, so each quantity is thinned to its effective number, fit by
fit. As L then differs, a rank r is kept as u = (r + v) / (L + 1) with v uniform on (0, 1), ties
broken at random: exactly uniform for any L.

References
----------
.. [1] S. Talts, M. Betancourt, D. Simpson, A. Vehtari, A. Gelman, "Validating Bayesian inference
   algorithms with simulation-based calibration", 2018, arXiv:1804.06788. Algorithms 1 and 2.
.. [2] M. Modrák, A. H. Moon, S. Kim, P. Bürkner, N. Huurre, K. Faltejsková, A. Gelman, A. Vehtari,
   "Simulation-based calibration checking for Bayesian computation: the choice of test quantities
   shapes sensitivity", Bayesian Analysis, 2023, arXiv:2211.02383.
.. [3] T. Säilynoja, M. Schmitt, P.-C. Bürkner, A. Vehtari, "Posterior SBC: simulation-based
   calibration checking conditional on data", 2025, arXiv:2502.03279.
"""

import math
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import random
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from ppl import about, keys, weights
from ppl.calling import CallableModule
from ppl.diagnostics.calibration import judge, tests_of
from ppl.diagnostics.convergence import MAX_SCALARS, Verdict, stuck_chains
from ppl.diagnostics.rhat_ess import chain_statistics
from ppl.diagnostics.table import entry_labels
from ppl.draws import Draws, host_generator
from ppl.energy import Energy, Position, Stack, TargetError, describe
from ppl.inference import sample, sample_batch
from ppl.program import Program, from_numpyro
from ppl.sampler import MarkovKernel, Sampler
from ppl.simulate import Fitted, Generated, Simulator, replicate_batch, simulate_batch
from ppl.structure import listed

BATCH = 50  # simulations that are run, and checkpointed, together
SAMPLES = 250  # draws in each chain, where the user names no number: ranks need no more
JOINT = ("log_likelihood", "log_prior", "log_density")

type Quantities = Callable[[dict[str, Array]], Mapping[str, Any]]


@dataclass(frozen=True)
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
    about: dict[str, Any] = field(repr=False)

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
        Posterior SBC [3]_: truths are drawn by the sampler from the posterior of the given data,
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
    test, as in [3]_: a sampler that is wrong in the same way for both posteriors can pass.

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
                progress=f"simulations {first + 1} to {first + kept}" if progress else False,
                checkpoint=None if folder is None else folder / f"simulations-{first:05d}",
            )  # fmt: skip
        except KeyboardInterrupt:
            draws = []
        if len(draws) < size or draws[0].run.stopped == "interrupted":
            if not fits:
                raise KeyboardInterrupt("interrupted before the first batch was complete")
            notes.append(f"Interrupted: {len(fits)} of {num_simulations} simulations were run.")
            break
        for i in range(kept):
            truth = jax.tree.map(lambda x: np.asarray(x)[i], positions)  # noqa: B023
            key = random.fold_in(key_rank, first + i)
            fits.append(_rank(draws[i], truth, quantities, key))
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


# Ranks ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Fit:
    """Ranks and diagnostics of one simulation; arrays have an entry a quantity."""

    labels: list[str]
    joint: list[bool]
    rank: Float[np.ndarray, " q"]
    effective: Float[np.ndarray, " q"]
    varies: np.ndarray
    facts: dict[str, Any]


def _rank(
    draws: Draws, truth: Position, quantities: Quantities | None, rng_key: PRNGKeyArray
) -> Fit:
    """Rank of the truth among the draws of one fit."""
    labels, joint, x = _evaluated(draws, truth, quantities)
    x, true = x[:-1].reshape(draws.num_chains, draws.num_samples, -1), x[-1]
    generator = host_generator(rng_key)
    facts, lengths = _diagnosed(draws, x, np.array(joint))
    less, equal, number = np.zeros(len(true)), np.zeros(len(true)), np.zeros(len(true))
    for columns, thinned in _thinned(draws, x, lengths, generator):
        less[columns] = (thinned < true[columns]).sum(axis=0)
        equal[columns] = (thinned == true[columns]).sum(axis=0)
        number[columns] = len(thinned)
    # Truth and ties are equally likely in any order: one uniform number breaks them and fills the
    # step between two ranks.
    v = generator.uniform(np.finfo(float).tiny, 1, len(true))
    rank = np.where(np.isfinite(true), (less + v * (equal + 1)) / (number + 1), np.nan)
    varies = (x != true).any(axis=(0, 1))
    return Fit(labels, joint, rank, number, varies, facts)


def _evaluated(
    draws: Draws, truth: Position, quantities: Quantities | None
) -> tuple[list[str], list[bool], Float[np.ndarray, "n q"]]:
    """Every test quantity of every draw, (chain, draw) flattened, and of the truth in the last row.

    Log likelihood and log density are those of the fitted target for the truth as well: functions
    of the parameters and the data, as [2]_ wants them.
    """
    together = jax.tree.map(
        lambda x, t: np.concatenate([x.reshape(-1, *x.shape[2:]), np.asarray(t)[None]]),
        draws.positions,
        truth,
    )
    names, kinds, values = _evaluate(draws.target, together, quantities)
    dims, coords = draws.labels
    total = sum(math.prod(x.shape[1:]) for x in values)
    stride = max(1, -(-total // MAX_SCALARS))
    labels: list[str] = []
    joint: list[bool] = []
    columns = []
    for name, kind, value in zip(names, kinds, values, strict=True):
        x = np.asarray(value)
        if np.iscomplexobj(x):
            x = np.stack([np.real(x), np.imag(x)], axis=-1)
        new = entry_labels(name, x.shape[1:], dims.get(name, []), coords)[::stride]
        labels += new
        joint += [kind == "joint"] * len(new)
        columns.append(x.reshape(len(x), -1)[:, ::stride].astype(np.float64))
    return labels, joint, np.concatenate(columns, axis=1)


@eqx.filter_jit
def _evaluate(
    target: Any, positions: PyTree, quantities: Quantities | None
) -> tuple[tuple[str, ...], tuple[str, ...], tuple[Array, ...]]:
    found: dict[str, str] = {}

    def one(position: Position) -> tuple[Array, ...]:
        found.clear()
        values: dict[str, Any] = dict(target.outputs(position))
        found.update(dict.fromkeys(values, "value"))
        more = dict(_densities(target, position))
        if quantities is not None:
            more |= _own(quantities(dict(values)), set(values) | set(more))
        for name, value in more.items():
            if name not in values:
                values[name], found[name] = value, "joint"
        return tuple(jnp.asarray(value) for value in values.values())

    values = jax.lax.map(one, positions, batch_size=1024)
    return tuple(found), tuple(found.values()), values


def _densities(target: Any, position: Position) -> Iterator[tuple[str, Array]]:
    """What the target knows about a position: where a wrong fit shows all at once.

    Of a model that was not the generator also what the generator knows. A prior that is left out,
    say, may leave the ranks of its parameter uniform (a flat prior of a location does), and is no
    term of the fitted density; the generator's log prior has it.
    """
    if "log_parts" in target.offers:
        log_prior, log_likelihood = target.log_parts(position)
        yield from zip(JOINT, (log_likelihood, log_prior, log_prior + log_likelihood), strict=True)
    elif "log_likelihood" in target.offers:
        yield "log_likelihood", target.log_likelihood(position)
    elif "log_density" in target.offers:
        yield "log_density", target.log_density(position)
    if isinstance(target, Fitted) and target.origin.latent_names == target.program.latent_names:
        names = (f"{name} of the generator" for name in JOINT[:2])
        yield from zip(names, target.log_parts_of_origin(position)[::-1], strict=True)


def _own(given: Any, taken: set[str]) -> dict[str, Any]:
    if not isinstance(given, Mapping):
        raise TargetError(
            f"quantities(values) must return a dict of numbers by name; got {type(given).__name__}"
        )
    if clash := [name for name in given if name in taken]:
        raise TargetError(f"quantities: {listed(clash)} is a name of the draws already; rename it")
    return dict(given)


def _diagnosed(
    draws: Draws, x: Float[np.ndarray, "chain draw q"], joint: np.ndarray
) -> tuple[dict[str, Any], Float[np.ndarray, " q"]]:
    """What says that a fit failed, and the effective number of draws of each quantity."""
    total = draws.num_chains * draws.num_samples
    facts: dict[str, Any] = {"r_hat": math.nan, "divergences": 0, "stuck": 0, "failed": ""}
    lengths = np.full(x.shape[2], float(total))
    if draws.log_weights is not None:
        lengths[:] = max(1.0, math.floor(weights.ess(draws.pooled_log_weights().ravel())))
    elif draws.run.kind == "markov":
        statistics = chain_statistics(x)
        lengths = np.fmin(statistics.ess_bulk, statistics.ess_tail)
        lengths = np.clip(np.nan_to_num(lengths, nan=draws.num_chains), 1, total)
        r_hat = np.nan_to_num(statistics.r_hat, nan=1.0, posinf=np.inf)
        facts["r_hat"], facts["stuck"] = float(r_hat.max()), len(stuck_chains(draws))
        if "energy" in draws.stats or "energy_change" in draws.stats:
            facts["divergences"] = int(np.sum(draws.stats.get("diverging", 0)))
    elif draws.run.kind == "particle":
        rows = [np.reshape(leaf, (total, -1)) for leaf in jax.tree.leaves(draws.positions)]
        lengths[:] = len(np.unique(np.concatenate(rows, axis=1), axis=0))
    finite = np.isfinite(x[:, :, ~joint]).all()
    if not finite:
        facts["failed"] = "draws that are not finite"
    elif facts["stuck"]:
        facts["failed"] = "a chain that never moved"
    elif facts["r_hat"] >= MAX_R_HAT:
        facts["failed"] = "chains that disagree"
    facts |= {"ess": float(lengths.min()), "draws": total}
    return facts, lengths


MAX_R_HAT = 1.2  # noise alone reaches 1.1 in one of many quantities of many short fits


def _thinned(
    draws: Draws,
    x: Float[np.ndarray, "chain draw q"],
    lengths: Float[np.ndarray, " q"],
    generator: np.random.Generator,
) -> Iterator[tuple[np.ndarray, Float[np.ndarray, "l k"]]]:
    """Draws that count as independent, by groups of quantities that are thinned alike."""
    chains, size, number = x.shape
    every = np.arange(number)
    if draws.run.kind != "markov":
        flat, keep = x.reshape(-1, number), int(lengths[0])
        if draws.log_weights is not None:
            # Stratified draws, as many as the weighted ones are worth: the error of a frequency
            # among them is then that of a binomial.
            log_weights = draws.pooled_log_weights().ravel()
            flat = flat[weights.stratified(generator, log_weights, keep)]
        elif keep < len(flat):
            flat = flat[generator.permutation(len(flat))[:keep]]
        yield every, flat
        return
    steps = np.minimum(np.ceil(chains * size / lengths), size).astype(int)
    for step in np.unique(steps):
        columns = every[steps == step]
        yield columns, x[:, step - 1 :: step, columns].reshape(-1, len(columns))


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
    table = tests_of(ranks, joint, level)
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
