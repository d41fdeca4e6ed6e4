"""Calibration against a loop of separate NumPyro fits, eight schools, NUTS, 200 simulations."""

import time

import jax
import numpy as np
import pytest
from jax import random
from numpyro.infer import MCMC
from numpyro.infer import NUTS as NumPyroNUTS

import ppl
from compilations import count_compilations
from models.programs import eight_schools
from ppl.calibrate import Calibration
from samplers.mcmc.nuts import NUTS

SIMULATIONS, SIZES = 200, {"num_warmup": 500, "num_samples": 250, "num_chains": 4}


def _calibrate(key: int) -> Calibration:
    return ppl.calibrate(
        eight_schools.model, NUTS(), rng_key=key, num_simulations=SIMULATIONS, progress=False,
        **SIZES, **eight_schools.data(),
    )  # fmt: skip


def _numpyro(i: int, **options: bool) -> np.ndarray:
    """One fit as a NumPyro user writes it: simulated data, a new MCMC, its draws."""
    data = eight_schools.data()
    y = np.random.default_rng(i).normal(size=8).astype(np.float32) * 15
    mcmc = MCMC(
        NumPyroNUTS(eight_schools.model), progress_bar=False, chain_method="vectorized",
        **SIZES, **options,
    )  # fmt: skip
    mcmc.run(random.key(i), **(data | {"y": y}))
    return np.asarray(mcmc.get_samples()["theta"])


@pytest.mark.parametrize("options", [{}, {"jit_model_args": True}], ids=["default", "jitted"])
def test_two_hundred_simulations_against_separate_fits(options):
    """Ours with all it does: simulation, fits, ranks, tests, and, the first time, compilation.

    A loop of 200 fits of the peer takes minutes: five are timed, and the loop is 40 times these.
    With ``jit_model_args`` the peer does not trace the model anew, if its user knows of it.
    """
    jax.clear_caches()
    began = time.perf_counter()
    with count_compilations() as count:
        _calibrate(0)
    first, programs = time.perf_counter() - began, count.compilations
    began = time.perf_counter()
    with count_compilations() as count:
        result = _calibrate(1)
    later = time.perf_counter() - began
    assert count.compilations == 0
    _numpyro(0, **options)
    began = time.perf_counter()
    for i in range(1, 6):
        _numpyro(i, **options)
    loop = SIMULATIONS * (time.perf_counter() - began) / 5
    print(
        f"\nours {first:.1f} s with compilation ({programs} programs), {later:.1f} s without; "
        f"{SIMULATIONS} separate NumPyro fits {options or ''} {loop:.0f} s (from 5): ratios "
        f"{loop / first:.0f} and {loop / later:.0f}; {result.judgement.headline}"
    )
    assert result.passed is True
    if not options:
        assert loop >= 20 * first
