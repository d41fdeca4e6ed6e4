"""Calibration of samplers of inverse problems on Gaussian fields, whose posterior is known exactly.

    python tests/benchmarks/bench_inverse.py [mask] [blur] [fields=5] [method ..]
    python tests/benchmarks/bench_inverse.py gains

A random field of 64 x 64 pixels, a quarter of them seen, or blurred; 20 fields each, or fewer for
methods that take long, 99 draws of each posterior, compared with its exact mean and standard
deviations. The prior has its exact denoiser, so that what is wrong is the method's. A sampler joins
by its name in `SETTINGS`; all problems of a case run in one compiled program.

Each method's line goes to ``docs/inverse_fields.csv`` and takes in one field after another; one
that is there goes on with the fields that it lacks. The site makes its tables of them.
"""

import csv
import sys
import time
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from jax import random

import ppl
import samplers
from models.inverse.gaussian_field import GaussianField
from models.inverse.gaussian_posterior import gaussian_posterior
from models.inverse.operators import (
    Downsampling,
    FourierSampling,
    Masking,
    Radon,
    cartesian_mask,
    gaussian_blur,
    random_mask,
)
from ppl.diagnostics.against_gaussian import mean_error, sd_ratio
from ppl.diagnostics.crps import crps
from ppl.diagnostics.data_consistency import data_consistency
from ppl.diagnostics.interval_coverage import covered
from ppl.linear_operators import Dense
from ppl.sampler import ParticleSampler, Sampler
from samplers.diffusion.inverse.problem import Problem

NUM_DRAWS = 99  # of which the 5th and the 95th in order hold the truth 90 % of the time
NUM_FIELDS = 20
FIELDS_AT_ONCE = 2
LEVEL = 0.9
LIMIT = 4.9  # standard errors over the fields

# What a method is run with where its defaults do not say all.
SETTINGS: dict[str, dict[str, Any]] = {
    "PiGDM": {"num_steps": 200},
    "TMPD": {},
    "DPS": {},
    "DDRM": {},
    "DecomposedDiffusion": {},
    "DiffPIR": {},
    "DAPS": {},
    "PnPDM": {},
    "REDDiff": {},
    "STSL": {},
    "MCGDiff": {},
    "FPSSMC": {},
    "TDS": {},
    "Guidance": {},
}


def widened(likelihood: Any, rows: int) -> Any:
    """The same observation by a matrix, and zeros of nothing: problems of any number are alike."""
    a, more = likelihood.operator, rows - likelihood.num_observed
    left = np.zeros((rows, min(rows, a.matrix.shape[1])), a.matrix.dtype)
    left[: len(a.left), : a.left.shape[1]] = a.left
    zeros = jnp.zeros((more, a.matrix.shape[1]), a.matrix.dtype)
    matrix = jnp.concatenate([a.matrix, zeros])
    operator = Dense(matrix, jnp.asarray(left), a.values, a.right, a.template)
    observation = jnp.pad(likelihood.observation, (0, more))
    at = lambda likelihood: (likelihood.operator, likelihood.observation)
    return eqx.tree_at(at, likelihood, (operator, observation))


def available(num_draws: int = NUM_DRAWS) -> dict[str, Sampler]:
    """The samplers of `SETTINGS` that this library has, all draws of a problem at the same time."""
    made = {}
    for name, settings in SETTINGS.items():
        if name in samplers.__all__:
            given = {field.name for field in fields(getattr(samplers, name)) if field.init}
            together = {"batch_size": num_draws} if "batch_size" in given else {}
            made[name] = getattr(samplers, name)(**together, **settings)
    return made


# Gaussian fields ------------------------------------------------------------------------------


class FieldCase(NamedTuple):
    """Problems of one kind, and what is known of each: leading axis, the problem."""

    name: str
    targets: list[Any]
    truths: np.ndarray
    means: np.ndarray
    sds: np.ndarray
    exact: np.ndarray  # draws, (problem, draw, ...)
    first: int = 0


def seen_through(kind: str, size: int, rng_key: Any) -> tuple[tuple[int, ...], Any, float]:
    """Shape of the field, operator and noise; a mask is another one for each problem."""
    shape = (size, size)
    if kind == "mask":
        return shape, Masking(random_mask(rng_key, shape, 0.25)), 0.1
    if kind == "blur":
        return shape, gaussian_blur(shape, 1.5), 0.05
    if kind == "super-resolution":
        return shape, Downsampling(shape, 4), 0.05
    if kind == "tomography":
        return shape, Radon(size, 15), 0.5
    if kind == "resonance":
        return (2, *shape), FourierSampling(cartesian_mask(rng_key, shape, 4)), 0.05
    raise ValueError(f"no problem is called {kind!r}")


FACTORED: dict[tuple[str, int], Any] = {}  # posteriors, of which only the data differ


def field_case(
    kind: str,
    *,
    size: int = 64,
    num_fields: int = NUM_FIELDS,
    num_draws: int = NUM_DRAWS,
    rng_key: int = 0,
    first: int = 0,
) -> FieldCase:
    """Draw fields from the ``first`` on and their data, and what there is to know of them."""
    draw = eqx.filter_jit(lambda posterior, key: posterior.sample(key, num_draws))
    facts = eqx.filter_jit(lambda posterior: (posterior.mean, posterior.sd))
    rows, targets = [], []
    for i in range(first, first + num_fields):
        keys = random.split(random.fold_in(random.key(rng_key), i), 4)
        shape, operator, noise = seen_through(kind, size, keys[0])
        field = GaussianField(shape)
        truth = field.sample(keys[1], 1)[0]
        # Equations that are solved by conjugate gradients need no more digits than draws show.
        likelihood = ppl.LinearGaussian(operator, operator(truth), noise, tolerance=1e-3)
        likelihood = likelihood.observe(keys[2], truth)
        prior = samplers.DiffusionPrior(samplers.EDM(), field.denoise, field.template)
        targets.append(ppl.posterior(prior, likelihood))
        # Only a mask differs between problems: others are factored once.
        if kind in ("mask", "resonance") or (kind, size) not in FACTORED:
            FACTORED[kind, size] = gaussian_posterior(field, likelihood)
        posterior = FACTORED[kind, size].given(likelihood.observation)
        rows.append((truth, *facts(posterior), draw(posterior, keys[3])))
    truths, means, sds, exact = (np.stack(column) for column in zip(*rows, strict=True))
    return FieldCase(kind, targets, truths, means, sds, exact, first)


def draws_of(
    sampler: Any, case: Any, num_draws: int, rng_key: int = 0, first: int = 0
) -> tuple[np.ndarray, float]:
    """Draws of every problem, (problem, draw, ...), in one program, and what one of them cost.

    The cost is in evaluations of the denoiser, its transposed derivatives included. A function
    ``(case) -> draws`` takes part like a sampler, and costs nothing. A population is resampled to
    as many draws, equally weighted; one that is left without any weight has draws of NaN.
    """
    if not isinstance(sampler, Sampler):
        return sampler(case), 0.0
    size = {} if isinstance(sampler, ParticleSampler) else {"num_samples": num_draws}
    equal, calls = [], []
    for i, target in enumerate(case.targets, first):
        key = random.fold_in(random.key(rng_key), i)
        try:
            run = ppl.sample(sampler, target, key, progress=False, **size)
        except ppl.TargetError as error:
            print(error, file=sys.stderr)
            equal.append(np.full((num_draws, *target.template.shape), np.nan, np.float32))
            continue
        again = run.log_weights is not None or run["x"].shape[:2] != (1, num_draws)
        x = (run.resample(i, num_draws) if again else run)["x"]
        equal.append(x.reshape(num_draws, *x.shape[2:]))
        calls.append(run.num_evaluations[1] / num_draws)
    return np.stack(equal), float(np.mean(calls)) if calls else float("nan")


MEASURES = ("coverage", "sd ratio", "mean error", "residual", "crps ratio")


def measured(draws: np.ndarray, case: FieldCase) -> np.ndarray:
    """The measures of each problem, (problem, measure)."""
    rows = []
    for i, x in enumerate(draws):
        likelihood = case.targets[i].log_likelihood_fn
        best = crps(case.exact[i], case.truths[i]).mean()
        rows.append(
            (
                covered(x, case.truths[i], LEVEL).mean(),
                sd_ratio(x, case.sds[i]),
                mean_error(x, case.means[i], case.sds[i]),
                data_consistency(likelihood, x).mean(),
                crps(x, case.truths[i]).mean() / best,
            )
        )
    return np.array(rows)


def calibration(
    methods: Mapping[str, Any], case: FieldCase, *, num_draws: int = NUM_DRAWS, rng_key: int = 0
) -> pd.DataFrame:
    """The table: a row a method, for each measure its mean over the problems and its error.

    ``mean error`` is in posterior standard deviations, times the root of the number of draws: 1 is
    what independent exact draws have. ``calibrated`` says that all of them are right.
    """
    rows = {}
    for name, sampler in methods.items():
        began = time.perf_counter()
        draws, cost = draws_of(sampler, case, num_draws, rng_key, case.first)
        found = measured(draws, case)
        seconds = time.perf_counter() - began
        mean, error = found.mean(0), found.std(0, ddof=1) / np.sqrt(len(found))
        mean_size = np.sqrt(np.mean(found[:, 2] ** 2)) * np.sqrt(num_draws)
        row = dict(zip(MEASURES, mean, strict=True)) | {"mean error": mean_size}
        row |= {f"{name} s.e.": value for name, value in zip(MEASURES, error, strict=True)}
        rows[name] = row | {
            "calibrated": calibrated(row),
            "calls": cost,
            "seconds": seconds,
        }
        line = {measure: round(float(row[measure]), 4) for measure in MEASURES}
        print(case.name, name, line, f"{seconds:.0f} s", file=sys.stderr, flush=True)
    return pd.DataFrame.from_dict(rows, orient="index")


def calibrated(row: Mapping[str, float]) -> bool:
    """Whether a method is exact on Gaussians, as far as this can tell; NaN is not."""
    near = lambda name, value: abs(row[name] - value) <= LIMIT * row[f"{name} s.e."]
    return bool(
        near("coverage", LEVEL)
        and near("residual", 1.0)
        and 0.95 <= row["sd ratio"] <= 1.05
        and row["mean error"] <= 1.1
    )


def exact(case: FieldCase) -> np.ndarray:
    """Perturb and solve: what every method would be."""
    return case.exact


def narrow(case: FieldCase) -> np.ndarray:
    """A broken twin: standard deviations that are 10 % too small."""
    return case.means[:, None] + 0.9 * (case.exact - case.means[:, None])


def shifted(case: FieldCase) -> np.ndarray:
    """A broken twin: means off by a fifth of a standard deviation."""
    return case.exact + 0.2 * case.sds[:, None]


# The file -------------------------------------------------------------------------------------

TABLE = Path(__file__).parents[2] / "docs" / "inverse_fields.csv"
COLUMNS = (
    "case", "method", "draws are", "fields", "coverage", "coverage s.e.", "sd ratio", "mean error",
    "residual", "residual s.e.", "crps ratio", "calls", "seconds", "calibrated",
)  # fmt: skip
KNOWN = {"exact draws": exact, "narrow": narrow, "shifted": shifted}


def what(name: str) -> str:
    """What a method says of itself."""
    if name in KNOWN:
        return "exact" if name == "exact draws" else "broken"
    return getattr(samplers, name).exactness


def keep(path: Path, columns: tuple[str, ...], row: Mapping[str, Any], *same: str) -> None:
    """Write a line: in the place of that which agrees in these columns, or as the last."""
    lines = [list(columns)]
    if path.exists():
        with path.open(newline="") as file:
            lines = list(csv.reader(file))
    new = [f"{x:.4g}" if isinstance(x, float) else str(x) for x in (row[c] for c in columns)]
    alike = lambda line: all(line[i] == new[i] for i in map(columns.index, same))
    at = next((i for i, line in enumerate(lines) if same and alike(line)), len(lines))
    lines[at:] = [new, *lines[at + 1 :]]
    with path.open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(lines)


def line_of(path: Path, **same: str) -> dict[str, Any] | None:
    """The line with these entries, if there is one; what looks like a number is one."""
    if not path.exists():
        return None

    def value(entry: str) -> Any:
        try:
            return float(entry)
        except ValueError:
            return entry

    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            if all(row[name] == entry for name, entry in same.items()):
                return {name: row[name] if name in same else value(row[name]) for name in row}
    return None


def added(
    old: Mapping[str, Any] | None, new: Mapping[str, Any], count: str, errors: Mapping[str, str]
) -> dict[str, Any]:
    """One line for the problems of two; ``errors`` names that of each measure."""
    if old is None:
        return dict(new)
    n, m = int(old[count]), int(new[count])
    mean = lambda name: (n * old[name] + m * new[name]) / (n + m)
    line = dict(new) | {count: n + m, "calls": mean("calls")}
    line["seconds"] = old["seconds"] + new["seconds"]
    for name, error in errors.items():
        squares = sum(k * (k - 1) * one[error] ** 2 for k, one in ((n, old), (m, new)) if k > 1)
        squares += n * m / (n + m) * (old[name] - new[name]) ** 2
        line |= {name: mean(name), error: (squares / (n + m) / (n + m - 1)) ** 0.5}
    return line


def there(path: Path, *columns: str) -> set[tuple[str, ...]]:
    """These columns of the lines of a file."""
    if not path.exists():
        return set()
    with path.open() as file:
        return {tuple(row[name] for name in columns) for row in csv.DictReader(file)}


def more(kind: str, name: str, method: Any, first: int, number: int) -> dict[str, Any]:
    """The line of some fields."""
    case = field_case(kind, num_fields=number, first=first)
    row = calibration({name: method}, case).loc[name].to_dict()
    return row | {"case": kind, "method": name, "draws are": what(name), "fields": number}


def together(old: Mapping[str, Any] | None, new: Mapping[str, Any]) -> dict[str, Any]:
    """The line of the fields of both."""
    row = added(old, new, "fields", {name: f"{name} s.e." for name in ("coverage", "residual")})
    if old is not None:
        share = old["fields"] / row["fields"]
        mean = lambda name, power=1: share * old[name] ** power + (1 - share) * new[name] ** power
        row |= {"sd ratio": mean("sd ratio"), "crps ratio": mean("crps ratio")}
        row["mean error"] = mean("mean error", 2) ** 0.5
    return row | {"calibrated": calibrated(row)}


def main(*chosen: str) -> None:
    """Write the lines that are asked for, and to those that are there add what they lack."""
    kinds = [kind for kind in ("mask", "blur") if kind in chosen] or ["mask", "blur"]
    number = next((int(x.removeprefix("fields=")) for x in chosen if "=" in x), NUM_FIELDS)
    methods = KNOWN | available()
    wanted = [name for name in methods if name in chosen] or [*methods]
    for kind in kinds:
        for name in wanted:
            row = line_of(TABLE, case=kind, method=name)
            while (have := int(row["fields"]) if row else 0) < number:
                step = min(FIELDS_AT_ONCE, number - have)
                row = together(row, more(kind, name, methods[name], have, step))
                keep(TABLE, COLUMNS, row, "case", "method")
            jax.clear_caches()


def gains() -> None:
    """Largest gain of a gradient of `STSL`, and of whole steps of `TDS`: stable below 2."""

    @jax.jit
    def largest(problem: Problem, level: Any) -> jax.Array:
        denoise = lambda z: problem.denoise(z, level)  # linear and symmetric
        product = lambda z: denoise(problem.adjoint(problem.forward(denoise(z))))
        unit = lambda z: z / jnp.linalg.norm(z)
        start = unit(random.normal(random.key(0), problem.prior.point.shape))
        top = jax.lax.fori_loop(0, 60, lambda _, z: unit(product(z)), start)
        return jnp.vdot(top, product(top))

    for kind in ("mask", "blur"):
        (target,) = field_case(kind, num_fields=1, num_draws=2).targets
        for name, num_steps, softening in (("STSL", 1000, 0.0), ("TDS", 100, 1.0)):
            steps, found = samplers.STSL(num_steps=num_steps).resolve(target).steps, []
            for i in range(0, num_steps, num_steps // 50):
                level, after = jax.tree.map(lambda x, i=i: x[i], (steps.start, steps.end))
                softened = softening * level.kappa**2 / (1 + level.kappa**2)
                variance = target.log_likelihood_fn.noise_std**2 + softened
                squared = float(largest(Problem(target), level) / variance)
                found.append(((level.kappa**2 - after.kappa**2) * squared, level.kappa))
            print("{}, {}: {:.1f} at a noise of {:.1f}".format(kind, name, *max(found)))


if __name__ == "__main__":
    if sys.argv[1:] == ["gains"]:
        gains()
    else:
        main(*sys.argv[1:])
