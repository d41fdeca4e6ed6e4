"""The log-Gaussian Cox process of 1,600 cells by tempering and by learned samplers, each twice.

    python tests/benchmarks/bench_cox.py [row ...] [--in whitened plain] [--keys 0 1 2]

Twice: in the log-intensities f, and in whitened coordinates, where the prior is N(0, I). A line has
log Z of one key, with its error; the effective sample size of the weights; their mean in logarithms
w, the ELBO of learned samplers; and how far the posterior mean of f is from that of long chains of
HMC, in posterior sds, root mean square over the cells. n exact draws have 1 / sqrt(n) there. A
learned sampler draws 2,048 times with its weights; its error without them is the second number.

Lines are printed as they come, with evaluations and processor time.
"""

import argparse
import functools
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

import ppl
import samplers
from models.targets.log_gaussian_cox import covariance, intensities, log_gaussian_cox

LEARNED = 2048  # draws of a learned sampler


class Row(NamedTuple):
    """A sampler, the sizes of its run, and its keys; ``make`` is told the scale of the target."""

    make: Callable[[float], Any]
    sizes: dict[str, int] = {}  # noqa: RUF012
    num_keys: int = 3


def tempering(**options: Any) -> Row:
    """One metric for all: those of 1,600 dimensions cost more to learn than they are worth."""
    move = samplers.HMC(metric=samplers.Identity())
    return Row(lambda scale: samplers.ParallelTempering(move=move, **options),
               {"num_warmup": 300, "num_samples": 1500, "num_chains": 2}, 2)  # fmt: skip


def smc(num_keys: int = 4, **options: Any) -> Row:
    return Row(lambda scale: samplers.TemperedSMC(**options), {}, num_keys)


def learned(method: Callable[..., Any], **options: Any) -> Row:
    return Row(lambda scale: method(scale=scale, **options), {"num_samples": LEARNED})


SMALL = {"num_steps": 24, "num_paths": 32, "num_updates": 200}
PATH = samplers.ReverseKL(reparametrized=True)
ROWS: dict[str, Row] = {
    "TemperedSMC": smc(num_particles=256),
    "TemperedSMC-1024": smc(num_particles=1024, num_keys=2),
    "TemperedSMC-MALA": smc(num_particles=256, move=samplers.MALA()),
    "ParallelTempering": tempering(num_temperatures=16),
    "Laplace": Row(lambda scale: samplers.Laplace(), {"num_samples": LEARNED}),
    "PIS": learned(samplers.PIS, **SMALL),
    "DDS": learned(samplers.DDS, **SMALL),
    "CMCD": learned(samplers.CMCD, **SMALL),
    "PIS-path": learned(samplers.PIS, objective=PATH, **SMALL),
    "DDS-path": learned(samplers.DDS, objective=PATH, **SMALL),
    "CMCD-path": learned(samplers.CMCD, objective=PATH, **SMALL),
    "SCLD": learned(samplers.SCLD, num_particles=64, num_updates=100),
    "AdjointSampling": learned(samplers.AdjointSampling, num_updates=3000),
}


@functools.cache
def truth() -> tuple[np.ndarray, np.ndarray, float]:
    """Posterior mean and sd of f by long chains, and the error of the mean in sds."""
    target = log_gaussian_cox(whitened=True)
    draws = ppl.sample(
        samplers.HMC(), target, 99, num_warmup=300, num_samples=300, num_chains=16, progress=False
    )
    f = of_cells(np.asarray(draws["x"]), whitened=True)
    sd = f.std((0, 1))
    means = f.mean(1)
    error = np.sqrt(np.mean(means.var(0, ddof=1) / len(means) / sd**2))
    return means.mean(0), sd, float(error)


def of_cells(positions: np.ndarray, *, whitened: bool) -> np.ndarray:
    """Log-intensities of positions."""
    if not whitened:
        return positions
    factor = np.linalg.cholesky(covariance(40))
    return np.asarray(intensities(positions, factor))


def row(name: str, key: int, *, whitened: bool) -> str:
    """What a row has found with a key."""
    one, target = ROWS[name], log_gaussian_cox(whitened=whitened)
    mean, sd, _ = truth()
    off = lambda found: np.sqrt(np.mean(((found - mean) / sd) ** 2))
    began = time.process_time()
    # Without whitening, f is 3.9 +- 1.4 under its prior: its root mean square is 4.
    sampler = one.make(1.0 if whitened else 4.0)
    draws = ppl.sample(sampler, target, key, progress=False, **one.sizes)
    seconds = time.process_time() - began
    f = of_cells(np.asarray(draws["x"]).reshape(-1, mean.size), whitened=whitened)
    log_z = draws.log_evidence
    assert log_z is not None
    told = [f"log Z {log_z.value:.2f} +- {log_z.std_error:.2f}"]
    if draws.log_weights is None:
        told.append(f"mean off by {off(f.mean(0)):.3f}")
    else:
        w = draws.log_weights.ravel()
        told += [
            f"ESS {ppl.weights.ess(w):.0f}",
            f"mean of w {w.mean():.2f}",
            f"mean off by {off(ppl.weights.probabilities(w) @ f):.3f}",
            f"{off(f.mean(0)):.3f} without weights",
        ]
    if hasattr(draws.sampler, "communication"):
        found = draws.sampler.communication(draws.stats)
        told.append(f"{found.round_trips} round trips, barrier {found.barrier:.1f}")
    told.append(f"{max(draws.num_evaluations):,} evaluations")
    where = "whitened" if whitened else "plain"
    return f"{name}, {where}, key {key}: {'; '.join(told)}; {seconds:.0f} s"


def rows(
    names: Iterable[str] = tuple(ROWS),
    coordinates: Iterable[str] = ("whitened", "plain"),
    keys: Iterable[int] = (),
) -> Iterator[str]:
    """A line for each row and key."""
    began = time.process_time()
    yield f"HMC: mean known to {truth()[2]:.3f} sd; {time.process_time() - began:.0f} s"
    for name in names:
        for where in coordinates:
            for key in keys or range(ROWS[name].num_keys):
                yield row(name, key, whitened=where == "whitened")
            jax.clear_caches()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("names", nargs="*", choices=[[], *ROWS])
    parser.add_argument("--in", dest="coordinates", nargs="+", default=("whitened", "plain"))
    parser.add_argument("--keys", nargs="+", type=int, default=())
    asked = parser.parse_args()
    for line in rows(asked.names or ROWS, asked.coordinates, asked.keys):
        print(line, flush=True)
