"""
Many chains: ChEES and MEADS on an accelerator's terms
======================================================

NUTS decides at every step how far each chain goes; hundreds of chains side by side then wait for
the one that goes farthest. Two samplers are made for many chains instead. In ChEES-HMC [1]_ all
chains take the same number of leapfrog steps, and tune it together; in MEADS [2]_ every draw is one
leapfrog step, and step size and damping are read off the chains as they stand. The model is the
eight schools, whose answer is known from a long run elsewhere.

.. [1] M. D. Hoffman, A. Radul and P. Sountsov, "An adaptive-MCMC scheme for setting trajectory
   lengths in Hamiltonian Monte Carlo", AISTATS 2021.
.. [2] M. D. Hoffman and P. Sountsov, "Tuning-free generalized Hamiltonian Monte Carlo", AISTATS
   2022.
"""

# %%
# The numbers of chains, 64 and 128, are the samplers' own. With so many, a few hundred draws of
# each chain are plenty.

import os

import ppl
import samplers
from models.programs import eight_schools

smoke = os.environ.get("SMOKE") == "1"
target = ppl.from_numpyro(eight_schools.model, **eight_schools.data())
sizes = {"num_warmup": 100, "num_samples": 50} if smoke else {"num_warmup": 500}
draws = {
    "ChEES": ppl.sample(samplers.ChEES(), target, rng_key=1, **({"num_samples": 300} | sizes)),
    "MEADS": ppl.sample(samplers.MEADS(), target, rng_key=2, **sizes),
}

# %%
# What each of them tuned, and what it cost. A step is a gradient in every chain at once, which on
# an accelerator takes hardly longer than a gradient in one.

for name, each in draws.items():
    row = each.summary("tau").loc["tau"]
    steps = each.run.evaluations["sample"][1] / each.num_chains
    print(f"{name}: {each.run.sampler}")
    print(f"  tau {row['mean']:.2f}, ESS {row['ess_bulk']:.0f} in {steps:.0f} steps of all chains")

# %%
# The reference posterior of posteriordb has a mean of tau of 3.60.

for name, each in draws.items():
    row = each.summary("tau").loc["tau"]
    print(f"{name}: mean of tau {row['mean']:.2f} +- {row['mcse_mean']:.2f}; reference 3.60")
