"""
Growth of thirty rats: a hierarchical model, two samplers, one report
=====================================================================

Thirty young rats were weighed at five ages [1]_. Each rat grows along a line of its own, and the
thirty lines come from one population: how fast does the population grow, and how far may the
answer be trusted? The model is a NumPyro program with plates; it is fitted twice, with NUTS and
with microcanonical sampling, so that each may speak for the other.

.. [1] A. E. Gelfand, S. E. Hills, A. Racine-Poon and A. F. M. Smith, "Illustration of Bayesian
   inference in normal data models using Gibbs sampling", JASA 85, 1990, section 6.
"""

# %%
# The model and its data come with the library. ``from_numpyro`` makes a target of them: a density
# on the unconstrained space that every sampler of the library can run on.

import os
from pathlib import Path

import numpy as np

import ppl
import samplers
from models.programs import rats

data = rats.data()
target = ppl.from_numpyro(rats.model, **data).with_coords(rats.coords)

# %%
# Four chains of NUTS: warm-up finds the step size and the metric. (``SMOKE=1`` makes a short run,
# to see that the script works.)

smoke = os.environ.get("SMOKE") == "1"
sizes = {"num_warmup": 150, "num_samples": 100} if smoke else {}
draws = {"NUTS": ppl.sample(samplers.NUTS(), target, rng_key=1, **sizes)}

# %%
# A trajectory of microcanonical dynamics keeps its speed whatever the slope, and a Metropolis test
# makes it exact. It has nothing in common with NUTS but the target.

draws["AdjustedMCLMC"] = ppl.sample(samplers.AdjustedMCLMC(), target, rng_key=2, **sizes)

# %%
# The population's parameters: weight at day 22 (grams), growth (grams a day), how much rats
# differ in both, their correlation, and the scatter of a weighing.

population = ["mu_alpha", "mu_beta", "tau_alpha", "tau_beta", "rho", "sigma"]
for each in draws.values():
    print(f"\n{each}\n\n{each.summary(population).to_string(float_format='{:.4g}'.format)}")

# %%
# The report says in words whether each run may be trusted, shows the evidence, and puts the two
# samplers side by side: one page, to be opened in any browser.

path = Path("out") / "hierarchical_model.html"
ppl.report(draws, path)
print(f"\nreport: {path}")

# %%
# All rats were weighed on the same days. In such a balanced design the population's growth has a
# closed form, but for the weak prior: the least-squares slope through the mean weights.

slope, _ = np.polyfit(data["day"], data["weight"].mean(axis=0), 1)
print(f"\ngrowth in grams a day: {slope:.3f} by least squares")
for name, each in draws.items():
    row = each.summary("mu_beta").loc["mu_beta"]
    print(f"{row['mean']:.3f} by {name}, Monte Carlo error {row['mcse_mean']:.3f}")
