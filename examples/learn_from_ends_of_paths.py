"""
What can a sampler learn from the ends of its paths alone?
==========================================================

To train a diffusion sampler on the weights of its paths takes the target's gradient at every step
of every path. Regression on the gradient at the ends takes one evaluation for each path, and each
end is used many times: adjoint sampling [1]_ from a point, and the same from a source as wide as
the target, with a corrector for where paths began (ASBS [2]_).

.. [1] A. Havens et al., "Adjoint sampling", ICML 2025, arXiv:2504.11713.
.. [2] G.-H. Liu et al., "Adjoint Schroedinger bridge sampler", NeurIPS 2025, arXiv:2506.22565.
"""

# %%
# Two modes of unequal weight, 0.6 wide and 5 apart: a quarter of the mass is in one of them.
# Samplers that learn from whole paths have the same target in another example.

import os

import numpy as np

import ppl
import samplers
from models.targets.gaussian_mixture import GaussianMixture

target = GaussianMixture([[1.8, 1.8], [-1.8, -1.8]], 0.6, [0.25, 0.75])
smoke = os.environ.get("SMOKE") == "1"
num_steps = 3 if smoke else 20

# %%
# ASBS has two things to learn, which take turns, and gets twice the updates.

learners = {
    "from a point": samplers.AdjointSampling(num_updates=2 if smoke else 800, num_steps=num_steps),
    "from a Gaussian": samplers.ASBS(num_updates=2 if smoke else 1600, num_steps=num_steps),
}
draws = {
    name: ppl.sample(sampler, target, rng_key=1, num_samples=4096)
    for name, sampler in learners.items()
}

# %%
# Some thousand gradients, and the weights of the draws are nearly even.

for name, each in draws.items():
    weights = ppl.weights.probabilities(each.log_weights[0])
    found = np.asarray(target.component(each["x"][0])) == 0
    print(
        f"{name:>15}: {each.num_evaluations[1]:>6,} gradients, effective share "
        f"{ppl.weights.ess(each.log_weights[0]) / 4096:.2f}, mass of the small mode "
        f"{weights[found].sum():.3f} (0.250)"
    )

# %%
# Judged by log Z: without the small mode it would be low by 0.288.

truth = float(target.log_normalizer)
for name, each in draws.items():
    print(f"{name:>15}: log Z {each.log_evidence.value:.3f}, truth {truth:.3f}")
