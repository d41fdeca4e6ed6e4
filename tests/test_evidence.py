"""The evidence of real models: samplers that have nothing in common but the target agree.

Errors are those of single runs: the spread of two or three runs is small by luck too often.
A sampler that reports the evidence joins by a line in ``SAMPLERS``.
"""

from itertools import combinations
from math import hypot

import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
import pytest

import ppl
import samplers
from models.programs import breast_cancer, eight_schools, seeds
from ppl.bayes_factor import evidence_of

SAMPLERS = {
    "TemperedSMC": (samplers.TemperedSMC(num_particles=8192), {}),
    "PersistentSMC": (samplers.PersistentSMC(), {}),
    "AIS": (samplers.AIS(num_particles=4096, num_temperatures=400), {}),
    "NestedSampling": (samplers.NestedSampling(), {}),
    "ParallelTempering": (samplers.ParallelTempering(), {"num_samples": 2000}),
    "NUTS, bridged": (samplers.NUTS(), {"num_samples": 2000}),
}


def germination(germinated, total, seed, extract):
    """Seeds on 21 plates, whose effects are drawn in units of their spread.

    All of the prior can be walked through: with effects drawn around their mean (`seeds`, `rats`)
    it is a funnel at high temperatures, where chains stick, and with priors as vague as theirs no
    draw of the prior comes near the data.
    """
    a = numpyro.sample("a", dist.Normal(0, 2).expand([4]).to_event(1))
    spread = numpyro.sample("spread", dist.HalfNormal(1))
    plate = numpyro.sample("plate", dist.Normal(0, 1).expand([len(seed)]).to_event(1))
    seed, extract = jnp.asarray(seed, float), jnp.asarray(extract, float)
    logits = a[0] + a[1] * seed + a[2] * extract + a[3] * seed * extract + spread * plate
    law = dist.Binomial(jnp.asarray(total), logits=logits).to_event(1)
    numpyro.sample("germinated", law, obs=jnp.asarray(germinated))


MODELS = {
    "eight_schools": (eight_schools.model, eight_schools.data),
    "breast_cancer": (breast_cancer.model, breast_cancer.data),
    "germination": (germination, seeds.data),
}


@pytest.mark.slow  # some minutes
@pytest.mark.parametrize("name", MODELS)
def test_samplers_agree_on_the_evidence(name):
    model, data = MODELS[name]
    target = ppl.from_numpyro(model, **data())
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
