"""
Diffusion without a network: modes that chains do not leave
===========================================================

A diffusion sampler turns noise into draws by the score of each noise level, which is usually
learned. Where an energy is at hand it can be estimated instead, at every step, by importance
sampling: nothing is trained, and modes far apart are weighed while noise still covers them all.
"""

# %%
# Two modes, ten standard deviations apart, with shares of 30 and 70 %.

import os

import numpy as np

import ppl
import samplers
from models.targets.gaussian_mixture import GaussianMixture

smoke = os.environ.get("SMOKE") == "1"
target = GaussianMixture([[-5.0, 0.0], [5.0, 0.0]], 1.0, [0.3, 0.7])
num_draws, inner = (128, 16) if smoke else (1024, 128)


def share(draws):
    return float(np.mean(np.asarray(draws["x"])[..., 0] < 0))


# %%
# Reverse diffusion Monte Carlo, from a Gaussian about as wide as the whole target. Its price is in
# evaluations: some hundred at each of fifty steps of each draw.

reverse = ppl.sample(
    samplers.ReverseDiffusionMC(samplers.InnerImportance(inner), scale=5.0),
    target,
    num_samples=num_draws,
    progress=False,
)
evaluations = max(reverse.num_evaluations)
print(f"ReverseDiffusionMC: {share(reverse):.3f} after {evaluations:,} evaluations")

# %%
# As many evaluations in 64 chains of MALA. Each stays in the mode that it fell into, so that shares
# are those of the starts.

chains = ppl.sample(
    samplers.MALA(),
    target,
    num_chains=64,
    num_samples=max(evaluations // 64 // 50, 10),
    thin=50,
    num_warmup=200,
    progress=False,
)
print(f"MALA: {share(chains):.3f}")

# %%
# The Schrödinger-Föllmer process starts at a point and arrives after unit time. With one ensemble
# for all draws, whose density is known, it costs few evaluations; its draws are a little too wide.

follmer = ppl.sample(
    samplers.SchrodingerFollmer(samplers.FollmerEnsemble(256 if smoke else 2048), scale=5.0),
    target,
    num_samples=num_draws,
    progress=False,
)
evaluations = max(follmer.num_evaluations)
print(f"SchrodingerFollmer: {share(follmer):.3f} after {evaluations:,} evaluations; known: 0.300")
