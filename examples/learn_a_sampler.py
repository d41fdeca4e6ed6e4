"""
Can a sampler be learned from an energy alone?
==============================================

No data, no draws: only a function that says how good a point is. A diffusion sampler learns the
drift of a random path from a simple law to the target, by the ratio of two path densities that it
can evaluate. Four of them differ in the path: a Brownian motion from a point (PIS [1]_), a
stationary process reversed (DDS [2]_, DIS [3]_), Langevin steps while the target is faded in
(CMCD [4]_). The target has four modes that no local chain crosses, and a known log Z to judge by.

.. [1] Q. Zhang and Y. Chen, "Path integral sampler", ICLR 2022, arXiv:2111.15141.
.. [2] F. Vargas, W. Grathwohl and A. Doucet, "Denoising diffusion samplers", ICLR 2023,
   arXiv:2302.13834.
.. [3] J. Berner, L. Richter and K. Ullrich, "An optimal control perspective on diffusion-based
   generative modeling", TMLR 2024, arXiv:2211.01364.
.. [4] F. Vargas, S. Padhy, D. Blessing and N. Nuesken, "Transport meets variational inference",
   ICLR 2024, arXiv:2307.01050.
"""

# %%
# Four Gaussians, each 0.55 wide, at the corners of a square.

import os

import numpy as np

import ppl
import samplers
from models.targets.gaussian_mixture import GaussianMixture

target = GaussianMixture([[2, 2], [2, -2], [-2, 2], [-2, -2]], 0.55)
truth = float(target.log_normalizer)

# %%
# An update is one Adam step on 128 paths. Training goes on until the weights of the paths are worth
# more than six tenths of their number, or the updates are spent.

smoke = os.environ.get("SMOKE") == "1"
short = {"num_steps": 3, "num_updates": 3} if smoke else {"num_steps": 24, "num_updates": 300}
short["enough_ess"] = 0.6
learners = {
    "PIS": samplers.PIS(**short),
    "DDS": samplers.DDS(**short),
    "DIS": samplers.DIS(fastest=6.0, **short),
    "CMCD": samplers.CMCD(objective=samplers.VarGrad(), **short),
}
draws = {
    name: ppl.sample(sampler, target, rng_key=1, num_samples=4096)
    for name, sampler in learners.items()
}

# %%
# Draws carry weights, which correct what training has left undone: whatever was learned, weighted
# averages converge and the mean weight is an unbiased estimate of Z.

for name, each in draws.items():
    weights = ppl.weights.probabilities(each.log_weights[0])
    shares = np.bincount(np.asarray(target.component(each["x"][0])), weights, minlength=4)
    print(
        f"{name:>5}: {each.history['loss'].shape[1]} updates, effective share "
        f"{ppl.weights.ess(each.log_weights[0]) / 4096:.2f}, modes {np.round(shares, 3)}, "
        f"{each.num_evaluations[1]:,} gradients"
    )

# %%
# A trained sampler proposes to a Metropolis chain as well, which then jumps between the modes.

chain = samplers.IndependenceMetropolis(draws["CMCD"].sampler)
walk = ppl.sample(chain, target, 2, num_samples=50 if smoke else 500, num_warmup=0)
print(f"accepted {walk.stats['acceptance_rate'].mean():.2f} of the proposals")

# %%
# It gives an SMC its first population as well. Resampled by their weights and moved, the draws have
# equal weights and forget what the paths could not reach.

smc = samplers.TemperedSMC(64 if smoke else 1024, samplers.MALA(), start=draws["CMCD"].sampler)
cloud = ppl.sample(smc, target, 3)
counts = np.bincount(np.asarray(target.component(cloud["x"][0])), minlength=4)
print(f"modes {counts / counts.sum()}, log Z {cloud.log_evidence.value:.3f}, truth {truth:.3f}")

# %%
# What is judged: log Z, which an isolated mode that was missed would lower by log(4 / 3).

for name, each in draws.items():
    evidence = each.log_evidence
    print(f"{name:>5}: log Z {evidence.value:.3f} +- {evidence.std_error:.3f}, truth {truth:.3f}")
