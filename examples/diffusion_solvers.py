"""
Which solver, at how many evaluations?
======================================

A diffusion prior is a denoiser at every noise level. A draw solves an equation from noise to data,
and every call of the denoiser, a large network in practice, is a cost. Which solver brings a draw
nearest to the exact solution with few calls? On a mixture of Gaussians the denoiser is a formula,
so the answer is exact.
"""

# %%
# The prior: any denoiser on any noise path. Here it is the mixture's own.

import os
from pathlib import Path

import jax
import matplotlib.pyplot as plt
import numpy as np

import ppl
import samplers
from models.targets.gaussian_mixture import GaussianMixture

data = GaussianMixture([[-1.2, 0.4], [1.0, -0.6], [0.3, 1.3]], [0.25, 0.3, 0.2], [0.3, 0.5, 0.2])
prior = samplers.DiffusionPrior(samplers.EDM(), data.denoise, data.template)

# %%
# Draws are those of any other sampler; they are biased, and say so.

num_samples = 256 if os.environ.get("SMOKE") == "1" else 4096
draws = ppl.sample(
    samplers.DiffusionSampler(num_steps=20), prior, num_samples=num_samples, progress=False
)
print("evaluations of the denoiser a draw:", draws.num_evaluations[1] // num_samples)

# %%
# The same noise always: deterministic solvers then differ from a fine solution by their own error.

solvers = {
    "DDIM": samplers.DDIM(),
    "DPM-Solver++ 2M": samplers.DPMSolverPP(),
    "DEIS": samplers.DEIS(order=3),
    "iPNDM": samplers.IPNDM(),
    "UniPC-3": samplers.UniPC(),
    "Heun": samplers.Heun(),
}
budgets = [6, 10, 20, 50]


def solve(solver, evaluations):
    """Draws with this many calls of the denoiser."""
    steps = (evaluations - 1) // solver.evaluations_per_step + 1
    sampler = samplers.DiffusionSampler(solver, num_steps=steps)
    return np.asarray(sampler.on(prior.path).draw(jax.random.key(0), prior, 256)[0])


truth = solve(samplers.UniPC(), 500)
errors = {
    name: [np.sqrt(np.mean((solve(solver, n) - truth) ** 2)) for n in budgets]
    for name, solver in solvers.items()
}

# %%
# The error of each, and the draws.

figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3.2), layout="constrained")
for name, error in errors.items():
    left.loglog(budgets, error, "o-", label=name)
left.set(xlabel="evaluations of the denoiser", ylabel="error of a draw")
left.set_xticks(budgets, [str(budget) for budget in budgets])
left.minorticks_off()
left.legend()
right.scatter(*draws["x"][0].T, s=1)
right.set(title="draws in 20 steps", aspect="equal")
Path("out").mkdir(exist_ok=True)
figure.savefig("out/diffusion_solvers.svg")

# %%
# At every budget a multistep solver is ahead, by more the larger the budget: a
# first-order solver needs ten times the evaluations for a tenth of the error. Heun's method costs
# two evaluations a step, which few steps cannot afford.

for name, error in errors.items():
    print(f"{name:16s}", *(f"{value:8.1e}" for value in error))
ratio = errors["DDIM"][-1] / errors["UniPC-3"][-1]
print(f"with 50 evaluations DDIM is {ratio:.0f} times as far off as UniPC-3; expected: above 10")
