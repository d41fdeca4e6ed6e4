"""Fitting again: new data through the public call, and many data sets at once."""

import time

import jax
import numpy as np
import pytest
from jax import random
from numpyro.infer import MCMC
from numpyro.infer import NUTS as NumPyroNUTS

import paired
import ppl
from models.programs import eight_schools
from samplers.mcmc.nuts import NUTS

SIZES = {"num_warmup": 200, "num_samples": 200}


def _data(i: int) -> dict:
    data = eight_schools.data()
    noise = np.random.default_rng(i).normal(size=8)
    return data | {"y": np.asarray(data["y"], np.float32) + noise.astype(np.float32)}


def _ours(i: int):
    target = ppl.from_numpyro(eight_schools.model, **_data(i))
    return ppl.sample(NUTS(), target, i, num_chains=4, progress=False, **SIZES)["theta"]


def _numpyro(**options):
    def run(i: int):
        mcmc = MCMC(
            NumPyroNUTS(eight_schools.model), num_chains=4, progress_bar=False, **SIZES, **options
        )
        mcmc.run(random.key(i), **_data(i))
        return mcmc.get_samples()["theta"]

    return run


@pytest.mark.filterwarnings("ignore:There are not enough devices")
@pytest.mark.parametrize(
    ("options", "asked"), [({"jit_model_args": True}, 15.0), ({}, 40.0)], ids=["jitted", "default"]
)
def test_refit_with_new_data(options, asked):
    figures = paired.alternate(
        _ours,
        _numpyro(**options),
        pairs=5,
        label=f"refit, eight schools, against NumPyro {options}",
    )
    assert figures.ratio >= asked


@pytest.mark.filterwarnings("ignore:There are not enough devices")
def test_a_hundred_data_sets_in_one_batch():
    targets = [ppl.from_numpyro(eight_schools.model, **_data(i)) for i in range(100)]
    stack = ppl.stack(targets)

    def batch(i: int):
        draws = ppl.sample_batch(NUTS(), stack, i, num_chains=4, progress=False, **SIZES)
        return [d.positions for d in draws]

    def loop(i: int):
        return [
            ppl.sample(NUTS(), t, i, num_chains=4, progress=False, **SIZES).positions
            for t in targets
        ]

    figures = paired.alternate(batch, loop, pairs=5, label="100 data sets, batch against a loop")
    assert figures.ratio >= 1 / 1.1
    began = time.perf_counter()
    for i in range(3):
        _numpyro()(i)
    separate = 100 * (time.perf_counter() - began) / 3
    ours = 1 / np.median(figures.ours)
    print(f"100 separate NumPyro fits: {separate:.0f} s (from 3), ours {ours:.2f} s, "
          f"ratio {separate / ours:.0f}")  # fmt: skip
    assert separate >= 20 * ours
    jax.clear_caches()
