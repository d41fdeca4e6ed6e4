"""Samplers of inverse problems where the posterior has modes, and is known exactly.

    python tests/benchmarks/bench_mixture.py [8] [80] [800] [digits] [problems=5] [method ..]
    python tests/benchmarks/bench_mixture.py particles [problems=5] [draws=250] [method ..]
    python tests/benchmarks/bench_mixture.py pooled
    python tests/benchmarks/bench_mixture.py shares

- the benchmark of 25 modes in 8, 80 and 800 dimensions, of which 1, 2 or 4 numbers are seen, 20
  problems each: all problems of one dimension run in one compiled program;
- **digits**: a kernel density of 1,697 handwritten digits, of which the upper half is seen of one
  that is not among them;
- **particles**: the methods that become exact as particles grow, and `FPSSMC`, at 64, 512 and
  4,096 of them;
- **pooled**: draws of one run of `MCGDiff`, and of eight together, each weighed by its evidence: of
  what runs differ in an eighth of the variance is left, of a bias all;
- **shares**: what share of the draws of `MCGDiff` a mode has, from run to run; it only prints.

Sliced Wasserstein distance to exact draws, beside that between two sets of exact draws: the floor.
Every prior has its exact denoiser, so that what is wrong is the method's. Each line goes to
``docs/inverse_mixture.csv`` as it comes, and lines that are there go on with the problems that they
lack, ``at_once=20`` or as many as it says; the site makes its tables of them.
"""

import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import random
from scipy.special import logsumexp

import ppl
import samplers
from bench_inverse import added, draws_of, keep, line_of, there, widened
from models.inverse.images import digits
from models.inverse.mixture_posterior import MixturePosterior, benchmark, kernel_density
from models.inverse.operators import Masking
from ppl.diagnostics.sliced_wasserstein import sliced_wasserstein
from ppl.sampler import ParticleSampler
from ppl.weights import stratified

TABLE = Path(__file__).parents[2] / "docs" / "inverse_mixture.csv"
COLUMNS = (
    "case",
    "method",
    "draws are",
    "problems",
    "draws",
    "distance",
    "s.e.",
    "calls",
    "seconds",
)
OBSERVED = (1, 2, 4)

# About 200 steps for each method; a draw of a particle method is one of 1,024 particles.
SETTINGS: dict[str, dict[str, Any]] = {
    "PiGDM": {"num_steps": 200},
    "TMPD": {"num_steps": 50},
    "DPS": {"num_steps": 200},
    "DDRM": {"num_steps": 200},
    "DecomposedDiffusion": {"num_steps": 200},
    "DiffPIR": {"num_steps": 200},
    "DAPS": {"num_steps": 50, "num_ode_steps": 5},
    "PnPDM": {"num_steps": 50, "num_inner_steps": 10},
    "REDDiff": {"num_steps": 200},
    "STSL": {"num_steps": 200},
    "Guidance": {"num_steps": 200},
    "MCGDiff": {"num_particles": 1024, "num_steps": 200, "data_variance": 128.0},
    "FPSSMC": {"num_particles": 20, "num_steps": 50},
    "TDS": {"num_particles": 1024, "num_steps": 200},
}


class MixtureCase(NamedTuple):
    """Problems of one shape, and two sets of exact draws of each."""

    name: str
    targets: list[Any]
    exact: np.ndarray
    again: np.ndarray


def mixture_case(
    num_dims: int,
    num_observed: int,
    *,
    num_problems: int = 20,
    num_draws: int = 1000,
    first: int = 0,
) -> MixtureCase:
    """Problems of the benchmark of 25 modes."""
    draw = eqx.filter_jit(lambda posterior, key: posterior.sample(key, num_draws))
    targets, sets = [], []
    # The modes spread with the root of the dimension, and the noise must cover them.
    path = samplers.EDM(t_min=0.01, t_max=40.0 * num_dims**0.5)
    for seed in range(first, first + num_problems):
        problem = benchmark(seed, num_dims, num_observed)
        prior = samplers.DiffusionPrior(path, problem.prior.denoise, problem.prior.template)
        targets.append(ppl.posterior(prior, widened(problem.likelihood, max(OBSERVED))))
        keys = random.split(random.key(seed))
        sets.append([draw(problem.posterior, key) for key in keys])
    exact, again = np.asarray(sets).swapaxes(0, 1)
    return MixtureCase(f"{num_dims}, {num_observed}", targets, exact, again)


def digits_case(
    *, num_problems: int = 20, num_draws: int = 200, sd: float = 0.1, first: int = 0
) -> MixtureCase:
    """Digits that the prior has not seen, by their upper half."""
    draw = eqx.filter_jit(lambda posterior, key: posterior.sample(key, num_draws))
    rows, _ = digits()
    prior = kernel_density(rows[:-100], sd)
    upper = Masking(np.arange(64) < 32)
    path = samplers.EDM(t_min=0.01, t_max=80.0)
    learned = samplers.DiffusionPrior(path, prior.denoise, prior.template)
    targets, sets = [], []
    for i in range(first, first + num_problems):
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


def joined(cases: list[MixtureCase]) -> MixtureCase:
    """All problems of some cases as one."""
    exact, again = (np.concatenate([getattr(c, x) for c in cases]) for x in ("exact", "again"))
    return MixtureCase("", [t for case in cases for t in case.targets], exact, again)


def lines(
    name: str, sampler: Any, cases: list[MixtureCase], rng_key: int = 0
) -> list[dict[str, Any]]:
    """A line of the file for each case; all problems run in one program."""
    began, every = time.perf_counter(), joined(cases)
    draws, calls = draws_of(sampler, every, every.exact.shape[1], rng_key)
    if isinstance(sampler, ParticleSampler):  # a draw is a particle, whatever is made of them
        calls = calls * every.exact.shape[1] / sampler.num_particles  # pyright: ignore[reportAttributeAccessIssue]
    seconds, found = (time.perf_counter() - began) / len(cases), []
    for case, x in zip(cases, np.split(draws, len(cases)), strict=True):
        # What has diverged is infinitely far.
        finite = [np.isfinite(one).all() for one in x]
        gaps = distances(x, case) if all(finite) else np.full(len(x), np.inf)
        error = gaps.std(ddof=1) / np.sqrt(len(gaps)) if all(finite) else np.inf
        says = "exact" if sampler is floor else sampler.exactness
        found.append(
            dict(
                zip(
                    COLUMNS,
                    (case.name, name, says, len(x), x.shape[1], gaps.mean(), error, calls, seconds),
                    strict=True,
                )
            )
        )
    return found


def made(name: str, num_draws: int, **others: Any) -> Any:
    """The sampler of a name, or exact draws; all draws of a problem at the same time."""
    if name == "exact draws":
        return floor
    kind = getattr(samplers, name)
    settings = SETTINGS[name] | others
    if not issubclass(kind, ParticleSampler):
        settings["batch_size"] = num_draws
    return kind(**settings)


# Each draw of `FPSSMC` is a run of as many.
PARTICLES = {
    f"{name}, {n}": (name, n) for name in ("MCGDiff", "TDS", "FPSSMC") for n in (64, 512, 4096)
}


def together(runs: list[ppl.Draws], num_draws: int, seed: int) -> np.ndarray:
    """Equally weighted draws of some runs, whose weights are relative to their evidence."""
    logs = [np.asarray(run.log_weights, np.float64).ravel() for run in runs]
    logs = [w - logsumexp(w) + run.log_evidence.value for w, run in zip(logs, runs, strict=True)]  # pyright: ignore[reportOptionalMemberAccess]
    chosen = stratified(np.random.default_rng(seed), np.concatenate(logs), num_draws)
    return np.concatenate([run["x"][0] for run in runs])[chosen]


def pooled(num_runs: int = 8, num_particles: int = 1024, num_draws: int = 250) -> None:
    """Lines of one run of `MCGDiff`, on the average, and of all together."""
    sampler = made("MCGDiff", num_draws, num_particles=num_particles)
    sizes = (1, num_runs)
    done = there(TABLE, "case", "method")
    for num_observed in (1, 4, 2):
        names = [f"MCGDiff, {size} x {num_particles}" for size in sizes]
        if all((f"8, {num_observed}", name) in done for name in names):
            continue
        case, began = mixture_case(8, num_observed, num_draws=num_draws), time.perf_counter()
        gaps = np.empty((len(sizes), len(case.targets)))
        for i, target in enumerate(case.targets):
            keys = random.split(random.fold_in(random.key(1), i), num_runs)
            runs = [ppl.sample(sampler, target, key, progress=False) for key in keys]
            calls = runs[0].num_evaluations[1] / num_particles
            for row, size in zip(gaps, sizes, strict=True):
                groups = [runs[at : at + size] for at in range(0, num_runs, size)]
                draws = [together(group, num_draws, at) for at, group in enumerate(groups)]
                row[i] = np.mean([sliced_wasserstein(x, case.exact[i], p=1) for x in draws])
        seconds = (time.perf_counter() - began) / num_runs
        for name, size, row in zip(names, sizes, gaps, strict=True):
            error = row.std(ddof=1) / np.sqrt(len(row))
            line = (case.name, name, sampler.exactness, len(row), num_draws, row.mean(), error)
            line = dict(zip(COLUMNS, (*line, calls, seconds * size), strict=True))
            keep(TABLE, COLUMNS, line)
            print(*line.values(), flush=True)


def shares(num_runs: int = 16) -> None:
    """Shares of the largest mode in runs of `MCGDiff`, on two problems with several of them."""
    for seed in (1, 2):
        problem = benchmark(seed, 8, 2)
        mode = int(np.argmax(problem.posterior.log_shares))
        (target,) = mixture_case(8, 2, num_problems=1, num_draws=10, first=seed).targets
        print(f"problem {seed}: {np.exp(problem.posterior.log_shares[mode]):.3f}")
        for settings in (
            {"num_particles": 1024}, {"num_particles": 8192},
            {"num_particles": 8192, "data_variance": 128.0},
        ):  # fmt: skip
            sampler = samplers.MCGDiff(num_steps=200, **settings)
            draws = ppl.sample(sampler, target, num_chains=num_runs, progress=False)
            w = np.asarray(draws.log_weights, np.float64)
            w = np.exp(w - w.max(1, keepdims=True))
            w = w / w.sum(1, keepdims=True)
            x = jnp.asarray(draws["x"].reshape(-1, 8))
            found = np.asarray(problem.prior.component(x)).reshape(w.shape) == mode
            mass = np.sum(w * found, axis=1)
            mean, sd = mass.mean(), mass.std(ddof=1)
            ess = np.mean(1 / np.sum(w**2, axis=1)) / w.shape[1]
            print(
                f"{settings}: mean {mean:.3f} ± {sd / np.sqrt(num_runs):.3f}, of a run "
                f"± {sd:.3f}, effective size {ess:.2f}"
            )


def option(chosen: tuple[str, ...], name: str, default: int) -> int:
    """The number in ``name=number``."""
    return next((int(x.split("=")[1]) for x in chosen if x.startswith(f"{name}=")), default)


def main(*chosen: str) -> None:
    """Write the lines that are asked for, and to those that are there add what they lack."""
    number = option(chosen, "problems", 20)
    at_once = option(chosen, "at_once", number)
    parts = [part for part in ("8", "80", "800", "digits", "particles") if part in chosen]
    for part in parts or ["8", "80", "800", "particles"]:
        n = option(chosen, "draws", {"800": 100, "digits": 200}.get(part, 250))
        methods = {name: (name, {}) for name in ("exact draws", *SETTINGS)}
        if part == "particles":
            methods = {k: (name, {"num_particles": m}) for k, (name, m) in PARTICLES.items()}
            if n != 250:  # fewer draws have another floor
                methods[f"exact draws, {n}"] = ("exact draws", {})
        for name in [name for name in methods if name in chosen] or [*methods]:
            kind, others = methods[name]
            sampler, cases = made(kind, n, **others), part_of(part, n)
            rows = [line_of(TABLE, case=case, method=name) for case in cases]
            while (have := int(rows[0]["problems"]) if rows[0] else 0) < number:
                new = [make(have, min(at_once, number - have)) for make in cases.values()]
                pairs = zip(rows, lines(name, sampler, new, have), strict=True)
                rows = [added(*pair, "problems", {"distance": "s.e."}) for pair in pairs]
                for row in rows:
                    keep(TABLE, COLUMNS, row, "case", "method")
                    print(*row.values(), flush=True)
            jax.clear_caches()


def part_of(part: str, num_draws: int) -> dict[str, Callable[[int, int], MixtureCase]]:
    """Cases of a part by their names: of so many problems from the first on."""
    if part == "digits":
        return {part: lambda at, n: digits_case(num_problems=n, num_draws=num_draws, first=at)}
    d = 8 if part == "particles" else int(part)
    case = lambda at, n, m: mixture_case(d, m, num_problems=n, num_draws=num_draws, first=at)
    return {f"{d}, {m}": partial(case, m=m) for m in OBSERVED}


if __name__ == "__main__":
    if sys.argv[1:] in (["shares"], ["pooled"]):
        {"shares": shares, "pooled": pooled}[sys.argv[1]]()
    else:
        main(*sys.argv[1:])
