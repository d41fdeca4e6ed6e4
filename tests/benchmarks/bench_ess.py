"""Effective draws per gradient: every Markov kernel on positions of floats, on three targets.

    make bench, or python tests/benchmarks/bench_ess.py table.md

- a Gaussian in 100 dimensions, rotated, with condition number 10^4; along its principal axes;
- logistic regression of the breast cancer data, in 31 dimensions;
- Neal's funnel in 10 dimensions: its log-scale v, and x / exp(v / 2), which is standard normal.

Each scalar is standardized by its true mean and standard deviation (for the regression, those of a
long NUTS run), so that the errors of a biased kernel stand beside its speed. An evaluation is a
gradient, with the log-density that comes along; for kernels without gradients a log-density. That
of a minibatch counts by its share of the data. Warm-up is not counted. Kernels without warm-up get
a step size from the smallest variance, which the other kernels are not told.
"""

import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from arviz_stats import rhat

import ppl
import samplers
from models.programs import breast_cancer
from models.targets.funnel import Funnel
from models.targets.ill_conditioned import IllConditionedGaussian
from peers import smallest_ess
from ppl.sampler import MarkovKernel
from samplers.langevin.skrock import longest_step

WARMUP, LONG, SHORT = 1000, 4000, 1000
WORST_RHAT = 1.1  # above, the chains disagree, and no effective sample size means anything


class Case(NamedTuple):
    """A target, what is judged, and what kernels without warm-up are told of its scales."""

    name: str
    target: Any
    scalars: Callable[[dict[str, np.ndarray]], np.ndarray]  # standardized, (chain, draw, scalar)
    smallest: float  # variance, of the narrowest direction
    composite: Any = None  # the same law, a part of it by its proximal map
    minibatches: Any = None  # the same law, rows of data left out


def gaussian() -> Case:
    target = IllConditionedGaussian(100, 1e4)
    rotation, sds = (np.asarray(a, np.float64) for a in (target.rotation, target.sds))
    # Half of the flattest precision is left to the proximal map.
    part = ppl.from_log_density(
        lambda x, target: target.log_density(x) + jnp.sum(x**2) / 4, target.template, target
    )
    composite = ppl.composite(part, samplers.Quadratic(0.5))
    scalars = lambda draws: draws["x"] @ rotation / sds
    return Case("Gaussian", target, scalars, sds.min() ** 2, composite)


def regression() -> Case:
    data = breast_cancer.data()
    target = ppl.from_numpyro(breast_cancer.model, **data)
    long = ppl.sample(samplers.NUTS(), target, 1, 5000, 4, progress=False)
    stack = lambda draws: np.concatenate([draws["intercept"][..., None], draws["beta"]], axis=-1)
    truth = np.asarray(stack(long), np.float64)
    mean, sd = truth.mean((0, 1)), truth.std((0, 1))
    covariance = np.cov(truth.reshape(-1, truth.shape[-1]).T)
    x, y = (jnp.asarray(data[name], float) for name in ("X", "y"))

    def likelihood(p: Any, x: Any, y: Any) -> Any:
        logits = p["intercept"] + x @ p["beta"]
        return jnp.sum(y * logits - jax.nn.softplus(logits))

    template = {"beta": jnp.zeros(30), "intercept": jnp.zeros(())}
    composite = ppl.composite(
        ppl.from_log_density(likelihood, template, x, y), samplers.Quadratic(1.0)
    )

    def rows(x: Any, y: Any) -> None:
        intercept = numpyro.sample("intercept", dist.Normal(0, 1))
        beta = numpyro.sample("beta", dist.Normal(0, 1).expand([30]).to_event(1))
        with numpyro.plate("tumor", 569) as i:
            numpyro.sample("y", dist.Bernoulli(logits=intercept + x[i] @ beta), obs=y[i])

    return Case(
        "regression",
        target,
        lambda draws: (stack(draws) - mean) / sd,
        np.linalg.eigvalsh(covariance).min(),
        composite,
        ppl.from_numpyro(rows, x, y),
    )


def funnel() -> Case:
    def scalars(draws: dict[str, np.ndarray]) -> np.ndarray:
        v = np.asarray(draws["v"], np.float64)[..., None]
        return np.concatenate([v / 3, draws["x"] / np.exp(v / 2)], axis=-1)

    # The narrowest direction that a chain should see: x where v is two sds below its mean.
    return Case("funnel", Funnel(10, 3.0), scalars, float(np.exp(-6)))


def kernel_of(name: str, case: Case) -> tuple[Any, Any, dict[str, Any]] | None:
    """Kernel, target and sizes; None where the method does not fit."""
    h = case.smallest / 4
    long, short = {"num_samples": LONG}, {"num_samples": SHORT}
    longer = {"num_samples": LONG, "thin": 10}
    # Without a metric, a chain that starts far out may never move: these start where others end.
    near = longer | {"init": samplers.PathfinderStart()}
    composite, minibatches = case.composite, case.minibatches
    stage = 0.8 * longest_step(10) * case.smallest / 2
    found = {
        "ULA": (lambda: samplers.ULA(h), case.target, longer),
        "SKROCK": (lambda: samplers.SKROCK(stage), case.target, long),
        "SGLD": (lambda: samplers.SGLD(h / 20, batch_size=57), minibatches, longer),
        "SGHMC": (
            lambda: samplers.SGHMC(h / 20, batch_size=57, friction=0.2), minibatches, longer
        ),
        "AdamLMC": (lambda: samplers.AdamLMC(h), case.target, longer),
        "MirrorLangevin": (
            lambda: samplers.MirrorLangevin(samplers.Hyperbolic(1.0), h), case.target, longer
        ),
        "BregmanLangevin": (
            lambda: samplers.BregmanLangevin(samplers.Euclidean()), composite, near
        ),
        "MYULA": (lambda: samplers.MYULA(h), composite, longer),
        "ProximalMALA": (samplers.ProximalMALA, composite, near),
        "EllipticalSlice": (
            samplers.EllipticalSlice,
            case.target if "log_parts" in case.target.offers else None,
            long,
        ),
    }  # fmt: skip
    trajectories = ("NUTS", "HMC", "AdjustedMCLMC")
    default = (
        getattr(samplers, name),
        case.target,
        short if name in trajectories else {"num_samples": 250} if name in ("ChEES", "MEADS")
        else long,
    )  # fmt: skip
    make, target, size = found.get(name, default)
    return None if target is None else (make(), target, size)


def names() -> list[str]:
    """Kernels on positions of floats that fit some target here."""
    # Some are as good as what is within (kernels, a proposal); the others move sequences or paths.
    within = {"Gibbs", "ParallelTempering", "IndependenceMetropolis"}
    other = within | {"BackAndForth", "SequenceMetropolis", "SiteMetropolis", "WalkJumpGibbs"}
    other |= {"ConditionalSMC", "ParticleMetropolis"}
    return [
        row.name
        for row in samplers.table()
        if issubclass(getattr(samplers, row.name), MarkovKernel) and row.name not in other
    ]


class Row(NamedTuple):
    """Smallest bulk-ESS per 1,000 evaluations; the worst errors of a mean and of an sd, in sds."""

    per_thousand: float
    mean_error: float
    sd_error: float
    r_hat: float
    seconds: float

    def __str__(self) -> str:
        bad = self.r_hat > WORST_RHAT
        speed = f"R-hat {self.r_hat:.2g}" if bad else f"{self.per_thousand:.2g}"
        return f"{speed} ({self.mean_error:.2f}, {self.sd_error:.2f})"


def measure(name: str, case: Case, rng_key: int = 0) -> Row | None:
    """One run; chains start at random, as a user's would, unless it says otherwise above."""
    found = kernel_of(name, case)
    if found is None:
        return None
    kernel, target, size = found
    began = time.perf_counter()
    draws = ppl.sample(kernel, target, rng_key, num_warmup=WARMUP, progress=False, **size)
    x = case.scalars(draws.values)
    spent = max(draws.run.evaluations["sample"])
    return Row(
        1e3 * smallest_ess({"x": x}) / spent,
        float(np.abs(x.mean((0, 1))).max()),
        float(np.abs(x.std((0, 1)) - 1).max()),
        max(float(rhat(x[..., i])) for i in range(x.shape[-1])),
        time.perf_counter() - began,
    )


def lines() -> Iterator[str]:
    """The table, in Markdown, a line at a time."""
    cases = [gaussian(), regression(), funnel()]
    yield "| kernel | draws are | " + " | ".join(case.name for case in cases) + " |"
    yield "| --- | --- |" + " --- |" * len(cases)
    for name in names():
        cells = []
        for case in cases:
            row = measure(name, case)
            jax.clear_caches()
            cells.append("-" if row is None else str(row))
            print(name, case.name, row and tuple(row), file=sys.stderr, flush=True)
        yield f"| `{name}` | {getattr(samplers, name).exactness} | " + " | ".join(cells) + " |"


def test_every_kernel_has_its_figures():
    """Only that each runs where it fits: the figures are for reading."""
    printed = list(lines())
    print("\n".join(printed))
    assert len(printed) == 2 + len(names())


if __name__ == "__main__":
    with Path(sys.argv[1]).open("w") as file:
        for line in lines():
            print(line, flush=True)
            print(line, file=file, flush=True)
