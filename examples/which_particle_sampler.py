"""
Which particle sampler
======================

Several ways to carry a population from the prior to the posterior, on a regression whose evidence
is known: the test scores of 434 children, by the IQ of their mothers [1]_. Each says what it found
for the evidence, how far it trusts that, and what it cost.

.. [1] A. Gelman, J. Hill, "Data analysis using regression and multilevel/hierarchical models",
   Cambridge University Press, 2007. Chapter 3.
"""

# %%
# A line with a normal prior in units of the noise, and an inverse-gamma prior of its variance. Then
# the data are jointly Student: log Z is a sum of gamma functions and determinants.

import os

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd
from scipy.special import gammaln

import ppl
import samplers
from models.programs import kidscore_momiq

smoke = os.environ.get("SMOKE") == "1"
data = kidscore_momiq.data()
score = np.asarray(data["kid_score"], float) / 100
iq = (np.asarray(data["mom_iq"], float) - 100) / 15
x = np.stack([np.ones_like(iq), iq], axis=1)
SHAPE, RATE = 2.0, 0.1


def line(score, x):
    variance = numpyro.sample("variance", dist.InverseGamma(SHAPE, RATE))
    width = 4.0 * jnp.sqrt(variance)
    beta = numpyro.sample("beta", dist.Normal(jnp.zeros(2), width).to_event(1))
    numpyro.sample("score", dist.Normal(x @ beta, jnp.sqrt(variance)), obs=score)


def log_evidence(score, x):
    n, precision = len(score), np.eye(2) / 16 + x.T @ x
    mean = np.linalg.solve(precision, x.T @ score)
    rate = RATE + (score @ score - mean @ precision @ mean) / 2
    shape = SHAPE + n / 2
    return (
        -n / 2 * np.log(2 * np.pi)
        - np.linalg.slogdet(16 * precision)[1] / 2
        + SHAPE * np.log(RATE)
        - shape * np.log(rate)
        + gammaln(shape)
        - gammaln(SHAPE)
    )


known = log_evidence(score, x)
target = ppl.from_numpyro(line, jnp.asarray(score), jnp.asarray(x))

# %%
# Tempered SMC moves particles until they have forgotten where they were, and keeps where they end.
# Waste-free SMC keeps the way as well: more particles for the same moves, as long as there is one
# mode. Persistent sampling keeps the particles of all temperatures, as draws of their mixture. AIS
# copies no particle, and needs a long path. Nested sampling knows no temperatures: it peels off the
# prior, and needs no gradient.

size = 512 if smoke else 4096
runs = {
    "TemperedSMC": samplers.TemperedSMC(num_particles=size),
    "WasteFreeSMC": samplers.WasteFreeSMC(num_particles=size, chain_length=16),
    "PersistentSMC": samplers.PersistentSMC(num_particles=size // 4),
    "AIS": samplers.AIS(num_particles=size // 4, num_temperatures=100),
    "NestedSampling": samplers.NestedSampling(num_live=100 if smoke else 500),
}
found = {name: ppl.sample(sampler, target, progress=False) for name, sampler in runs.items()}

# %%
# Side by side. The last column is the variance of log Z times the evaluations, in units of the
# first row: what matters when the budget is given.

rows = {}
for name, draws in found.items():
    value, error = draws.log_evidence[:2]
    rows[name] = {
        "log Z": value,
        "error": error,
        "off by": (value - known) / error,
        "evaluations": sum(draws.num_evaluations),
        "price": error**2 * sum(draws.num_evaluations),
    }
table = pd.DataFrame(rows).T
table["price"] /= table["price"].iloc[0]
print(table.to_string(float_format="{:.4g}".format))

# %%
value, error = found["WasteFreeSMC"].log_evidence[:2]
print(f"log evidence: {value:.3f} +- {error:.3f}; known: {known:.3f}")
