"""The same runs on the GPU and on all cores of the CPU beside it, in one process.

A ratio above one says that the GPU is faster. Whole calls of `ppl.sample` are timed, the copies to
the host included; compilation is reported apart.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

import ppl
import samplers
from models.programs import breast_cancer
from paired import alternate

pytestmark = pytest.mark.gpu


def logistic() -> Any:
    """Logistic regression of 569 rows in 31 dimensions."""
    return ppl.from_numpyro(breast_cancer.model, **breast_cancer.data())


def mixture() -> Any:
    """Two modes in ten dimensions, tempered from a wide prior."""

    def log_ratio(x: Any) -> Any:
        near = jax.scipy.stats.norm.logpdf(x, 2.5, 0.7).sum() + jnp.log(0.7)
        far = jax.scipy.stats.norm.logpdf(x, -2.5, 0.7).sum() + jnp.log(0.3)
        return jnp.logaddexp(near, far) - jax.scipy.stats.norm.logpdf(x, 0, 3).sum()

    return ppl.posterior(dist.Normal(jnp.zeros(10), 3.0).to_event(1), log_ratio)


def digits() -> Any:
    """Prior of 8 x 8 digits: a small network."""
    return samplers.digits_prior()


CASES: dict[str, tuple[Callable[[], Any], Any, dict[str, Any]]] = {
    "NUTS, breast cancer, 4 chains": (logistic, samplers.NUTS(), {"num_warmup": 500}),
    "ChEES, breast cancer, 1,024 chains": (
        logistic,
        samplers.ChEES(),
        {"num_chains": 1024, "num_warmup": 300, "num_samples": 100},
    ),
    "MALA, breast cancer, 8,192 chains": (
        logistic,
        samplers.MALA(),
        {"num_chains": 8192, "num_warmup": 300, "num_samples": 100},
    ),
    "TemperedSMC, mixture, 4,096 particles": (mixture, samplers.TemperedSMC(4096), {}),
    "TemperedSMC, mixture, 262,144 particles": (mixture, samplers.TemperedSMC(262_144), {}),
    "DPM-Solver++ 2M, 20 steps, 4,096 digits": (
        digits,
        samplers.DiffusionSampler(samplers.DPMSolverPP(order=2), num_steps=20, batch_size=1024),
        {"num_samples": 4096},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_the_gpu_against_the_cpu_beside_it(case):
    target, sampler, sizes = CASES[case]

    def run(kind: str) -> Callable[[int], Any]:
        device = jax.devices(kind)[0]
        with jax.default_device(device):
            on = target()

        def once(seed: int) -> Any:
            with jax.default_device(device):
                draws = ppl.sample(sampler, on, seed, progress=False, **sizes)
            assert all(np.all(np.isfinite(x)) for x in draws.values.values())
            return draws["x"] if "x" in draws.values else None

        return once

    figures = alternate(run("gpu"), run("cpu"), pairs=2, label=case)
    assert figures.ratio > 0
