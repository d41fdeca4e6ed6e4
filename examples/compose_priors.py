"""
Multiply, anneal and guide priors
=================================

Two diffusion priors, each of a mixture on the line. What is likely under both? What would
classifier-free guidance draw, if it drew what it says? Adding scores is not enough: the noised
product is not the product of the noised. Feynman-Kac correctors (Skreta et al., 2025) give each
particle the weight that makes it so, and the mass of the product comes along.
"""

# %%
# The priors. Their densities are known, and hence the truth: a sum over a grid.

import os

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import scipy.stats

import ppl
import samplers

smoke = os.environ.get("SMOKE") == "1"
shares, means, sds = [(0.3, 0.7), (0.6, 0.4)], [(-2.0, 1.5), (-1.0, 2.5)], [(0.5, 0.7), (0.8, 0.6)]
grid = np.linspace(-6, 6, 4001)
priors, densities = [], []
for w, m, sd in zip(shares, means, sds, strict=True):
    denoiser = samplers.MixtureDenoiser(np.reshape(m, (2, 1)), sd, w)
    priors.append(samplers.DiffusionPrior(samplers.VPLinear(), denoiser, jnp.zeros(1)))
    densities.append(scipy.stats.norm.pdf(grid[:, None], m, sd) @ w)

# %%
# Three products of powers, by correctors and by the plain solver, which adds up the scores. The
# correctors run eight populations: a weight may go back to a few of the first particles, and then
# one population does not know its own error.

num_steps, num_particles = (40, 200) if smoke else (100, 5000)
corrector = samplers.FKCorrector(num_particles=num_particles, num_steps=num_steps)
plain = samplers.DiffusionSampler(samplers.DPMSolverPP(tau=1.0), num_steps=num_steps)
figure, axes = plt.subplots(1, 3, figsize=(9, 2.5), layout="constrained")
cases = {"product": (1.0, 1.0), "annealed": (2.0, 0.0), "guided, w = 2": (-1.0, 2.0)}
bins = np.linspace(-5, 5, 60)
print(f"{'':14}{'P(x < 0)':>9}{'corrected':>11}{'scores added':>14}{'log Z':>8}{'estimate':>16}")
for axis, (name, exponents) in zip(axes, cases.items(), strict=True):
    target = samplers.compose(priors, exponents)
    mass = densities[0] ** exponents[0] * densities[1] ** exponents[1]
    log_z = np.log(mass.sum() * (grid[1] - grid[0]))
    true = mass[grid < 0].sum() / mass.sum()

    draws = ppl.sample(corrector, target, num_chains=8, progress=False)
    x, weights = draws["x"].ravel(), jax.nn.softmax(draws.log_weights.ravel())
    naive = ppl.sample(plain, target, num_samples=num_particles, progress=False)["x"][0, :, 0]
    print(
        f"{name:14}{true:9.3f}{np.sum(weights * (x < 0)):11.3f}{np.mean(naive < 0):14.3f}"
        f"{log_z:8.2f}{draws.log_evidence.value:8.2f} +- {draws.log_evidence.std_error:.2f}"
    )
    axis.plot(grid, mass / mass.sum() / (grid[1] - grid[0]), "k", lw=1, label="truth")
    axis.hist(x, bins, weights=weights, density=True, alpha=0.5, label="corrected")
    axis.hist(naive, bins, density=True, histtype="step", label="scores added")
    axis.set_title(name, fontsize=9)
axes[0].legend(fontsize=7, frameon=False)
