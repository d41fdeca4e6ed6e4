"""Samplers on real models against long reference runs (posteriordb), by the rule of its README."""

import numpy as np
import pytest

import posteriordb
import ppl
from samplers.mcmc.adjusted_mclmc import AdjustedMCLMC
from samplers.mcmc.nuts import NUTS


def judge(case, sampler, num_samples=1000):
    """Draw, print the figures, and return them."""
    module, data, reference = posteriordb.load(case)
    target = ppl.from_numpyro(module.model, **data)
    draws = ppl.sample(sampler, target, 1, num_samples, 4, 1000, progress=False)
    table = draws.summary(sorted({name.partition("[")[0] for name in reference}))
    worst, where = posteriordb.largest(posteriordb.z_scores(draws.values, reference))[:2]
    figures = {
        "z": worst,
        "where": where,
        "r_hat": float(table["r_hat"].max()),
        "ess": float(np.minimum(table["ess_bulk"], table["ess_tail"]).min()),
        "divergences": int(np.sum(draws.stats.get("diverging", 0))),
        "gradients": draws.num_evaluations[1],
        "seconds": round(sum(draws.run.seconds[k] for k in ("start", "warmup", "sample")), 1),
    }
    print(f"\n{type(sampler).__name__}, {case}: {figures}", flush=True)
    return figures


# A Gaussian process with a stiff neck at small length scales: at the default acceptance of 0.8 a
# few dozen transitions diverge there and R-hat ends near 1.01, with NumPyro's NUTS as with ours;
# the report says so and advises what is done here.
NUTS_OF = {"gp_pois_regr-gp_pois_regr": NUTS(target_acceptance=0.98)}


@pytest.mark.slow
@pytest.mark.parametrize("case", posteriordb.cases())
def test_nuts_agrees_with_the_reference(case):
    figures = judge(case, NUTS_OF.get(case, NUTS()))
    assert figures["z"] < posteriordb.LIMIT
    assert figures["r_hat"] < 1.01
    assert figures["ess"] >= 400


# Where AdjustedMCLMC does not arrive in 1,000 + 1,000 steps: the Gaussian process's neck, and the
# local mode of Lotka-Volterra, 40 nats down, in which a chain of short steps stays.
HARD_FOR_ADJUSTED_MCLMC = {"gp_pois_regr-gp_pois_regr", "hudson_lynx_hare-lotka_volterra"}


@pytest.mark.slow
@pytest.mark.parametrize("case", posteriordb.cases())
def test_adjusted_mclmc_agrees_with_the_reference(case):
    figures = judge(case, AdjustedMCLMC())
    if case in HARD_FOR_ADJUSTED_MCLMC:
        # The failure shows: no run that missed is taken for a good one.
        assert figures["r_hat"] >= 1.01 or figures["z"] < posteriordb.LIMIT
        return
    assert figures["z"] < posteriordb.LIMIT
    assert figures["r_hat"] < 1.01
    assert figures["ess"] >= 400


def test_nuts_agrees_on_a_real_regression():
    """One case of the twelve in every run of the gate; `make test-slow` runs them all."""
    figures = judge("sblrc-blr", NUTS())
    assert figures["z"] < posteriordb.LIMIT
    assert figures["r_hat"] < 1.01
