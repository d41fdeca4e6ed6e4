"""
The evidence of a model
=======================

How probable are the data under a model, all its parameter values together? Between 1875 and 1894,
122 men of ten Prussian army corps were killed by the kick of a horse, in 200 corps-years [1]_. With
a gamma prior on the rate of deaths the evidence is known in closed form. Were the deaths more
uneven than chance has them? That is a question between two models of the same data: a Bayes factor.

.. [1] L. von Bortkiewicz, "Das Gesetz der kleinen Zahlen", Teubner, 1898.
"""

# %%
# The model, and its evidence, b^a / G(a) * G(a + s) / (b + n)^(a + s) / prod_i y_i!, where s is the
# sum of the n counts y_i, a and b are shape and rate of the prior, and G is the gamma function.

import math
import os

import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd

import ppl
import samplers
from models.programs import eight_schools

SHAPE, RATE = 2.0, 1.0


def horse_kicks(deaths):
    rate = numpyro.sample("rate", dist.Gamma(SHAPE, RATE))
    with numpyro.plate("corps_year", len(deaths)):
        numpyro.sample("deaths", dist.Poisson(rate), obs=deaths)


deaths = np.repeat([0, 1, 2, 3, 4], [109, 65, 22, 3, 1])
n, s = len(deaths), int(deaths.sum())
known = (
    SHAPE * math.log(RATE)
    - math.lgamma(SHAPE)
    + math.lgamma(SHAPE + s)
    - (SHAPE + s) * math.log(RATE + n)
    - sum(math.lgamma(y + 1) for y in deaths)
)

# %%
# Two samplers that know nothing of it. Importance sampling draws from the prior and weighs by the
# likelihood; Gaussian variational inference fits a normal law to the posterior of the log rate and
# weighs by what it missed. Both weights average to the evidence.

target = ppl.from_numpyro(horse_kicks, deaths)
short = {"num_updates": 300} if os.environ.get("SMOKE") == "1" else {}
runs = {
    "importance sampling": ppl.sample(
        samplers.ImportanceSampling(num_particles=8192), target, progress=False
    ),
    "variational": ppl.sample(
        samplers.GaussianVI(**short), target, num_samples=8192, progress=False
    ),
}

# %%
# The shape of the weights says how far an estimate may be trusted: k-hat below 0.7 is good, and the
# effective sample size says how many equally weighted draws they are worth.

rows = {
    name: {
        "log evidence": draws.log_evidence.value,
        "std error": draws.log_evidence.std_error,
        "mean rate": draws.summary().loc["rate", "mean"],
        "weighted ESS": ppl.weights.ess(draws.log_weights.ravel()),
        "k-hat": ppl.weights.pareto_khat(draws.log_weights.ravel()),
    }
    for name, draws in runs.items()
}
print(pd.DataFrame(rows).T.to_string(float_format="{:.4g}".format))

# %%
# The posterior itself is a gamma law, Gamma(a + s, b + n), from which exact draws can be had: the
# last word on every sampler that has to do without.

exact = ppl.sample(
    samplers.ExactDraws(),
    ppl.from_distribution(dist.Gamma(SHAPE + s, RATE + n)),
    num_samples=8192,
    progress=False,
)
print(f"mean rate of exact draws: {exact['x'].mean():.4f}; known: {(SHAPE + s) / (RATE + n):.4f}")

# %%
# Where the likelihood has a known maximum, here at the mean of the counts, exact draws can be had
# from the prior: each is kept with the probability that its likelihood is of the largest.

bound = float(dist.Poisson(deaths.mean()).log_prob(deaths).sum())
kept = ppl.sample(samplers.RejectionSampling(bound), target, progress=False)
print(f"mean rate of what is kept: {kept['rate'].mean():.4f}; {kept.num_evaluations[0]} proposals")
print(f"log evidence: {kept.log_evidence.value:.4f} +- {kept.log_evidence.std_error:.4f}")

# %%
# A second model: corps-years differ in their rates, by a gamma law whose spread is unknown. The
# Bayes factor takes both models and any sampler that knows the evidence.


def uneven_horse_kicks(deaths):
    rate = numpyro.sample("rate", dist.Gamma(SHAPE, RATE))
    concentration = numpyro.sample("concentration", dist.LogNormal(2.0, 1.0))
    with numpyro.plate("corps_year", len(deaths)):
        kicks = dist.GammaPoisson(concentration, concentration / rate)
        numpyro.sample("deaths", kicks, obs=deaths)


uneven = ppl.from_numpyro(uneven_horse_kicks, deaths)
particles = samplers.TemperedSMC(num_particles=256 if short else 2048)
print(ppl.bayes_factor(target, uneven, particles))

# %%
# Chains know no evidence of their own; bridge sampling finds it in their draws. Eight schools: does
# coaching help in all of them alike, or in each by itself?


def alike(y, sigma):
    mu = numpyro.sample("mu", dist.Normal(0, 5))
    with numpyro.plate("school", len(y)):
        numpyro.sample("y", dist.Normal(mu, sigma), obs=y)


schools = eight_schools.data()
models = [ppl.from_numpyro(model, **schools) for model in (alike, eight_schools.model)]
few = {"num_samples": 200, "num_warmup": 200} if short else {}
schools_factor = ppl.bayes_factor(*models, samplers.MALA(), **few)
print(schools_factor)
y, sigma = (np.asarray(schools[name], float) for name in ("y", "sigma"))
covariance = np.diag(sigma**2) + 25.0
log_density = -0.5 * (y @ np.linalg.solve(covariance, y))
log_density -= 0.5 * np.linalg.slogdet(2 * np.pi * covariance)[1]
bridged = schools_factor.evidences[0].value
print(f"all alike, by bridge sampling: {bridged:.3f}; known: {log_density:.3f}")

# %%
found = runs["variational"].log_evidence
print(f"log evidence: {found.value:.4f} +- {found.std_error:.4f}; known: {known:.4f}")
