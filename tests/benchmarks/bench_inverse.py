"""Calibration of samplers of inverse problems, where the posterior is known exactly.

    python tests/benchmarks/bench_inverse.py tables.md [mask] [blur] [mixture] [digits] [names ..]

- **fields**: a Gaussian random field of 64 x 64 pixels, a quarter of them seen, or blurred; 20
  fields each, 99 draws of each posterior, compared with its exact mean and standard deviations;
- **mixture**: the benchmark of 25 modes in 8, 80 and 800 dimensions, observed in 1, 2 or 4 of
  them; sliced Wasserstein distance to exact draws, beside that between two sets of exact draws;
- **digits**: a kernel density of 1,697 handwritten digits, of which the upper half is seen of one
  that is not among them; judged as the mixture is.

Every prior has its exact denoiser, so that what is wrong is the method's. A sampler joins by its
name in `SETTINGS`; all problems of a case run in one compiled program.
"""

import sys
import time
from collections.abc import Iterator, Mapping
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
from models.inverse.images import digits
from models.inverse.mixture_posterior import MixturePosterior, benchmark, kernel_density
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
from ppl.diagnostics.sliced_wasserstein import sliced_wasserstein
from ppl.sampler import ParticleSampler, Sampler

NUM_DRAWS = 99  # of which the 5th and the 95th in order hold the truth 90 % of the time
NUM_FIELDS = 20
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


def field_case(
    kind: str,
    *,
    size: int = 64,
    num_fields: int = NUM_FIELDS,
    num_draws: int = NUM_DRAWS,
    rng_key: int = 0,
) -> FieldCase:
    """Draw fields and their data, and what there is to know of them."""
    draw = eqx.filter_jit(lambda posterior, key: posterior.sample(key, num_draws))
    facts = eqx.filter_jit(lambda posterior: (posterior.mean, posterior.sd))
    rows, factored, targets = [], None, []
    for i in range(num_fields):
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
        if factored is None or kind in ("mask", "resonance"):
            factored = gaussian_posterior(field, likelihood)
        posterior = factored.given(likelihood.observation)
        rows.append((truth, *facts(posterior), draw(posterior, keys[3])))
    truths, means, sds, exact = (np.stack(column) for column in zip(*rows, strict=True))
    return FieldCase(kind, targets, truths, means, sds, exact)


def draws_of(sampler: Any, case: Any, num_draws: int, rng_key: int = 0) -> tuple[np.ndarray, float]:
    """Draws of every problem, (problem, draw, ...), in one program, and what one of them cost.

    The cost is in evaluations of the denoiser, its transposed derivatives included. A function
    ``(case) -> draws`` takes part like a sampler, and costs nothing. A population is resampled to
    as many draws, equally weighted.
    """
    if not isinstance(sampler, Sampler):
        return sampler(case), 0.0
    size = {} if isinstance(sampler, ParticleSampler) else {"num_samples": num_draws}
    runs = ppl.sample_batch(sampler, ppl.stack(case.targets), rng_key, progress=False, **size)
    cost = float(np.mean([run.num_evaluations[1] for run in runs])) / num_draws
    equal = []
    for i, run in enumerate(runs):
        again = run.log_weights is not None or run["x"].shape[:2] != (1, num_draws)
        x = (run.resample(i, num_draws) if again else run)["x"]
        equal.append(x.reshape(num_draws, *x.shape[2:]))
    return np.stack(equal), cost


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
        draws, cost = draws_of(sampler, case, num_draws, rng_key)
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


# The mixture ----------------------------------------------------------------------------------


class MixtureCase(NamedTuple):
    """Problems of one shape, and two sets of exact draws of each."""

    name: str
    targets: list[Any]
    exact: np.ndarray
    again: np.ndarray


def mixture_case(
    num_dims: int, num_observed: int, *, num_problems: int = 20, num_draws: int = 1000
) -> MixtureCase:
    """Problems of the benchmark of 25 modes."""
    draw = eqx.filter_jit(lambda posterior, key: posterior.sample(key, num_draws))
    targets, sets = [], []
    # The modes spread with the root of the dimension, and the noise must cover them.
    path = samplers.EDM(t_min=0.01, t_max=40.0 * num_dims**0.5)
    for seed in range(num_problems):
        problem = benchmark(seed, num_dims, num_observed)
        prior = samplers.DiffusionPrior(path, problem.prior.denoise, problem.prior.template)
        targets.append(ppl.posterior(prior, problem.likelihood))
        keys = random.split(random.key(seed))
        sets.append([draw(problem.posterior, key) for key in keys])
    exact, again = np.asarray(sets).swapaxes(0, 1)
    return MixtureCase(f"{num_dims}, {num_observed}", targets, exact, again)


def digits_case(*, num_problems: int = 20, num_draws: int = 200, sd: float = 0.1) -> MixtureCase:
    """Digits that the prior has not seen, by their upper half."""
    draw = eqx.filter_jit(lambda posterior, key: posterior.sample(key, num_draws))
    rows, _ = digits()
    prior = kernel_density(rows[:-100], sd)
    upper = Masking(np.arange(64) < 32)
    path = samplers.EDM(t_min=0.01, t_max=80.0)
    learned = samplers.DiffusionPrior(path, prior.denoise, prior.template)
    targets, sets = [], []
    for i in range(num_problems):
        truth = jnp.asarray(rows[-100 + i].reshape(-1))
        likelihood = ppl.LinearGaussian(upper, upper(truth), 0.1).observe(random.key(i), truth)
        targets.append(ppl.posterior(learned, likelihood))
        posterior = MixturePosterior(prior, likelihood)
        sets.append([draw(posterior, key) for key in random.split(random.key(100 + i))])
    exact, again = np.asarray(sets).swapaxes(0, 1)
    return MixtureCase("digits", targets, exact, again)


def distances(draws: np.ndarray, case: MixtureCase) -> np.ndarray:
    """Sliced Wasserstein distance of order 1 to exact draws, of each problem."""
    pairs = zip(draws, case.exact, strict=True)
    return np.array([sliced_wasserstein(x, y, p=1) for x, y in pairs])


def floor(case: MixtureCase) -> np.ndarray:
    """A second set of exact draws."""
    return case.again


def mixture(methods: Mapping[str, Any], cases: list[MixtureCase]) -> pd.DataFrame:
    """Mean distance and the half-width of its 95 % interval, a row a method, a column a case."""
    table = {}
    for name, sampler in methods.items():
        row = {}
        for case in cases:
            found = distances(draws_of(sampler, case, case.exact.shape[1])[0], case)
            row[case.name] = found.mean()
            row[f"{case.name} ±"] = 1.96 * found.std(ddof=1) / np.sqrt(len(found))
            print(case.name, name, row[case.name], file=sys.stderr, flush=True)
        table[name] = row
    return pd.DataFrame.from_dict(table, orient="index")


# The page -------------------------------------------------------------------------------------


def label(name: Any) -> str:
    """A method and what it says of itself, as the first two cells of a row."""
    if name not in samplers.__all__:
        return f"{name} | {'exact' if 'exact' in str(name) else 'broken'}"
    return f"`{name}` | {getattr(samplers, name).exactness}"


def field_lines(table: pd.DataFrame, case: str) -> Iterator[str]:
    """A table of one kind of problem, in Markdown; what is calibrated is bold."""
    yield (
        f"| {case} | draws are | covers 0.90 | sd ratio | mean error | residual | CRPS | "
        "calls a draw |"
    )
    yield "| --- | --- | --- | --- | --- | --- | --- | --- |"
    for name, row in table.iterrows():
        cells = [
            f"{row['coverage']:.3f} ± {row['coverage s.e.']:.3f}",
            *(f"{row[key]:.2f}" for key in ("sd ratio", "mean error", "residual", "crps ratio")),
        ]
        mark = "**" if row["calibrated"] else ""
        marked = " | ".join(f"{mark}{cell}{mark}" for cell in cells)
        yield f"| {label(name)} | {marked} | {row['calls']:,.0f} |"


def mixture_lines(table: pd.DataFrame) -> Iterator[str]:
    """Distances, in Markdown."""
    cases = [name for name in table if not str(name).endswith("±")]
    yield "| dimensions, observed | draws are | " + " | ".join(map(str, cases)) + " |"
    yield "| --- | --- |" + " --- |" * len(cases)
    for name, row in table.iterrows():
        cells = [f"{row[case]:.2f} ± {row[f'{case} ±']:.2f}" for case in cases]
        yield f"| {label(name)} | " + " | ".join(cells) + " |"


def main(path: str, *chosen: str) -> None:
    """Write the tables, each after each of its methods."""
    kinds = [kind for kind in ("mask", "blur", "mixture", "digits") if kind in chosen]
    names = set(chosen) - set(kinds)
    shapes = [(d, m) for d in (8, 80, 800) for m in (1, 2, 4)]
    written = ""
    for kind in kinds or ["mask", "blur", "mixture", "digits"]:
        if kind in ("mask", "blur"):
            case, first, num_draws = field_case(kind), exact, NUM_DRAWS
        else:
            cases = [digits_case()] if kind == "digits" else [mixture_case(*s) for s in shapes]
            case, first, num_draws = cases, floor, cases[0].exact.shape[1]
        rows, lines = [], []
        known = {"exact draws": first}
        if kind in ("mask", "blur"):
            known |= {"narrow": narrow, "shifted": shifted}
        for name, method in (known | available(num_draws)).items():
            if names and name not in names:
                continue
            one = calibration if isinstance(case, FieldCase) else mixture
            rows.append(one({name: method}, case))  # pyright: ignore[reportArgumentType]
            table = pd.concat(rows)
            found = field_lines(table, kind) if kind in ("mask", "blur") else mixture_lines(table)
            lines = [*found, ""]
            Path(path).write_text(written + "\n".join(lines))
            jax.clear_caches()
        written += "\n".join([*lines, ""])


if __name__ == "__main__":
    main(*sys.argv[1:])
