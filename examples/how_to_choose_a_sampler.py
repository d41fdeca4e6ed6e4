"""
How to choose a sampler
=======================

Start with ``NUTS``: exact, with no settings, and with a verdict that says when it was the wrong
choice. Then ask of your target:

- *Two modes or more, far apart?* No chain crosses, each tells of its own mode only, and R-hat says
  so where the chains start in different ones. What gives modes their weights is a path from the
  prior: particles that are tempered along it (``TemperedSMC``; ``ImportanceSampling`` for a few
  parameters), or chains at all its temperatures (``ParallelTempering``, the one to run beside any
  other: its round trips say how often it began afresh).
- *The evidence?* Samplers with weights estimate it: ``Laplace``, ``Pathfinder``, ``GaussianVI``,
  ``ImportanceSampling``, where k-hat says how far to trust them; ``TemperedSMC`` and ``AIS``.
  ``ParallelTempering`` estimates it from below and from above; draws of any other chain have it
  from ``ppl.diagnostics.bridge_evidence``.
- *Hundreds of dimensions, strongly correlated?* ``NUTS`` learns a dense or low-rank metric;
  ``AdjustedMCLMC`` costs fewer gradients where every direction has the same scale.
- *Some hundred short chains (a GPU)?* ``ChEES`` and ``MEADS`` share what they learn.
- *Divergences?* A funnel: write the model in its other parametrization, or raise
  ``target_acceptance``.
- *Discrete latent variables?* ``Gibbs``, or enumeration.
- *Draws in a second, for a first look?* ``Pathfinder`` or ``Laplace``, corrected by their weights.
- *No gradient?* ``RandomWalk``; ten dimensions are many.

The rest of this page is what the advice rests on: equal budgets on targets whose answer is known.
"""

# %%
# ``ppl.compare`` gives every sampler the same number of evaluations, warm-up included, and the same
# starts, and judges the answers before it counts effective draws.

import os
import textwrap

import jax.numpy as jnp
import numpyro.distributions as dist
import pandas as pd

import ppl
import samplers
from models.targets.bimodal import bimodal
from models.targets.funnel import Funnel
from models.targets.gaussian import Gaussian
from models.targets.ill_conditioned import IllConditionedGaussian

smoke = os.environ.get("SMOKE") == "1"
budget, seeds = (8_000, 1) if smoke else (100_000, 2)

chosen = {
    "NUTS": samplers.NUTS(),
    "HMC": samplers.HMC(),
    "AdjustedMCLMC": samplers.AdjustedMCLMC(),
    "MCLMC": samplers.MCLMC(),
    "MALA": samplers.MALA(),
    "RandomWalk": samplers.RandomWalk(),
}
if smoke:
    chosen = {name: chosen[name] for name in ("MALA", "RandomWalk")}
columns = ["right", "ess_min_per_1000", "ess_min_per_second", "r_hat", "bias"]


def contest(target, names=tuple(chosen), others=None):
    entered = {name: chosen[name] for name in names} | (others or {})
    found = ppl.compare(target, entered, budget=budget, num_seeds=seeds, progress=False)
    for line in str(found.recommendation).splitlines():
        print(textwrap.fill(line, 88, subsequent_indent="    "))
    print(found.table[columns].to_string(float_format="{:.3g}".format))
    return found


# %%
# A round Gaussian in 50 dimensions: nothing to learn. Gradients pay: the random walk is far behind.

round_one = contest(Gaussian(50))

# %%
# Condition number 10,000, rotated: what counts is the metric.

if not smoke:
    contest(IllConditionedGaussian(), ("NUTS", "AdjustedMCLMC", "MALA"))

# %%
# Neal's funnel: no step size fits both its mouth and its neck. All who follow gradients at one step
# size have to be wrong or slow; believe the verdict, and change the parametrization.

if not smoke:
    contest(Funnel(), ("NUTS", "HMC", "MALA"))

# %%
# Two modes far apart: chains stay where they start, and what they agree on is not the answer. What
# walks a path to the target from a wide normal law finds both, at a price in effective draws.

wide = dist.Normal(jnp.zeros(2), 10.0).to_event(1)
tempered = {
    "ParallelTempering": samplers.ParallelTempering(num_temperatures=6, reference=wide),
    "TemperedSMC": samplers.TemperedSMC(num_particles=1024, reference=wide),
}
if not smoke:
    contest(bimodal(), ("NUTS", "RandomWalk"), tempered)

# %%
# In one line each, on the first target: effective draws per 1,000 evaluations.

gain = pd.Series({name: round_one.efficiency(name).mean() for name in chosen})
print(gain.round(2).to_string())
if not smoke:
    print(f"gradients against a random walk: {gain['NUTS'] / gain['RandomWalk']:.0f} times the ESS")
