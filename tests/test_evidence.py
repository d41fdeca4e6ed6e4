"""The evidence of real models: samplers that have nothing in common but the target agree.

Errors are those of single runs: the spread of two or three runs is small by luck too often.
A sampler that reports the evidence joins by a line in ``SAMPLERS``.
"""

from importlib import import_module
from itertools import combinations
from math import hypot

import pytest

import ppl
import samplers
from ppl.bayes_factor import evidence_of

SAMPLERS = {
    "TemperedSMC": (samplers.TemperedSMC(num_particles=8192), {}),
    "AIS": (samplers.AIS(num_particles=4096, num_temperatures=400), {}),
    "ParallelTempering": (samplers.ParallelTempering(), {"num_samples": 4000}),
    "NUTS, bridged": (samplers.NUTS(), {"num_samples": 2000}),
}
MODELS = ["eight_schools", "breast_cancer", "rats"]


@pytest.mark.slow  # some minutes
@pytest.mark.parametrize("name", MODELS)
def test_samplers_agree_on_the_evidence(name):
    module = import_module(f"models.programs.{name}")
    target = ppl.from_numpyro(module.model, **module.data())
    found = {}
    for sampler, (kernel, sizes) in SAMPLERS.items():
        draws = ppl.sample(kernel, target, rng_key=1, progress=False, **sizes)
        found[sampler] = evidence_of(draws)
        value, error = found[sampler][:2]
        evaluations = max(draws.num_evaluations)
        print(f"{name:14} {sampler:18} {value:9.3f} +- {error:.3f} {evaluations:12,} evaluations")
    assert all(estimate.std_error <= 0.2 for estimate in found.values())
    for (a, one), (b, other) in combinations(found.items(), 2):
        joint = hypot(one.std_error, other.std_error)
        assert abs(one.value - other.value) < 4 * joint, (a, b)
