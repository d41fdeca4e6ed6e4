"""Rank of a truth among the draws of one fit, quantity by quantity, and how well the fit went.

Draws of a chain depend on each other, so each quantity is thinned to its effective number, fit by
fit. As the number L of draws then differs, a rank r is kept as u = (r + v) / (L + 1) with v uniform
on (0, 1) and ties broken at random: exactly uniform for any L, where truth and draws are
exchangeable.

References
----------
.. [1] M. Modrák, A. H. Moon, S. Kim, P. Bürkner, N. Huurre, K. Faltejsková, A. Gelman, A. Vehtari,
   "Simulation-based calibration checking for Bayesian computation: the choice of test quantities
   shapes sensitivity", Bayesian Analysis, 2023, arXiv:2211.02383. Section 3: quantities of both
   parameters and data, such as the log likelihood.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from ppl import weights
from ppl.diagnostics.chain_findings import stuck_chains
from ppl.diagnostics.findings import MAX_SCALARS
from ppl.diagnostics.rhat_ess import chain_statistics
from ppl.diagnostics.table import entry_labels
from ppl.draws import Draws, host_generator
from ppl.energy import Position, TargetError
from ppl.simulate import Fitted
from ppl.structure import listed

JOINT = ("log_likelihood", "log_prior", "log_density")
MIN_WORTH = 10  # effective number of weighted draws of a fit
MAX_R_HAT = 1.2  # noise alone reaches 1.1 in one of many quantities of many short fits

type Quantities = Callable[[dict[str, Array]], Mapping[str, Any]]


@dataclass(frozen=True)
class Fit:
    """Ranks and diagnostics of one simulation; arrays have an entry a quantity."""

    labels: list[str]
    joint: list[bool]
    rank: Float[np.ndarray, " q"]
    effective: Float[np.ndarray, " q"]
    varies: np.ndarray
    facts: dict[str, Any]


def rank(
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
    of the parameters and the data, as [1]_ wants them.
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
        names = (f"{name} (generator)" for name in JOINT[:2])
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
        worth = float(weights.ess(draws.pooled_log_weights().ravel()))
        lengths[:] = max(1.0, math.floor(worth))
        facts["failed"] = "" if worth >= MIN_WORTH else "weights that few draws carry"
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
