"""
Calibrate a model and a sampler
===============================

Does a sampler recover what a model generates? Draw parameters from the prior and data given them,
fit, and see where the truth ranks among the draws: uniformly, if model and sampler are right [1]_.
Here a hierarchy is calibrated as its author should have written it, and as it was written.

.. [1] S. Talts et al., "Validating Bayesian inference algorithms with simulation-based
   calibration", 2018, arXiv:1804.06788.
"""

# %%
# Counts in ten groups, whose log rates are partially pooled. With ``reuse = 1`` the prior of their
# mean looks at the data, which then count twice: a slip that neither R-hat nor divergences show.

import os
from pathlib import Path

import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import numpyro
import numpyro.distributions as dist

import ppl
import samplers


def counts(y, reuse):
    guess = jnp.log(jnp.mean(y) + 0.5)
    center = reuse * guess + (1 - reuse) * 1.0
    mean = numpyro.sample("mean", dist.Normal(center, 1.0 - 0.8 * reuse))
    spread = numpyro.sample("spread", dist.HalfNormal(0.5))
    with numpyro.plate("group", len(y)):
        effect = numpyro.sample("effect", dist.Normal(0.0, 1.0))
        numpyro.sample("y", dist.Poisson(jnp.exp(mean + spread * effect)), obs=y)


# %%
# All simulations are fitted by one compiled program. Of the data only shapes matter, and what the
# model computes with them. The verdict says what would have been seen.

y = jnp.full(10, 3)
sizes = {"num_simulations": 200, "num_warmup": 300, "num_samples": 250, "progress": False}
if os.environ.get("SMOKE") == "1":
    sizes |= {"num_simulations": 20, "num_warmup": 50, "num_samples": 50}
right = ppl.calibrate(counts, samplers.NUTS(), y, 0.0, rng_key=0, **sizes)
print(right.verdict)

# %%
# With the slip: each fit is given its own data, and so a prior centered at them.

wrong = ppl.calibrate(counts, samplers.NUTS(), y, 1.0, rng_key=0, **sizes)
print(wrong.verdict)
print(f"report: {wrong.report(Path('out') / 'calibration.html')}")

# %%
# Where the truths rank, as an empirical distribution function minus the uniform one.

u = np.linspace(0, 1, 101)
plt.figure(figsize=(6, 3), layout="constrained")
for result, label in ((right, "as it should be"), (wrong, "data used twice")):
    ranks = np.sort(result.ranks["mean"])
    plt.plot(u, np.searchsorted(ranks, u) / len(ranks) - u, label=label)
plt.axhline(0, color="0.6", linewidth=1)
plt.xlabel("rank of the true mean among the draws")
plt.ylabel("ECDF difference")
plt.legend()
plt.savefig("out/calibration.svg")

# %%
# Uniform ranks have a variance of 1 / 12; truths that crowd at both ends have more.

variances = {name: r.ranks["mean"].var() for name, r in (("right", right), ("wrong", wrong))}
print(f"variance of the ranks: {variances['right']:.3f}, {variances['wrong']:.3f}; uniform: 0.083")
