"""
What else can a sampler learn from than whole paths?
====================================================

A diffusion sampler that is trained on the weights of its own paths has one number for each path,
needs the target's gradient at every step of it, and learns nothing of modes that no path has found.
Five answers to that: replay of ends that a local search has improved (trajectory balance [1]_), a
flow that tells of every piece of a path (DGFS [2]_), segments that are resampled in between (SCLD
[3]_); and regression on the gradient at the ends of paths, each of which is used many times, from a
point (adjoint sampling [4]_) or from a source as wide as the target, with a corrector for where
paths began (ASBS [5]_).

.. [1] M. Sendera et al., "Improved off-policy training of diffusion samplers", NeurIPS 2024,
   arXiv:2402.05098.
.. [2] D. Zhang et al., "Diffusion generative flow samplers", ICLR 2024, arXiv:2310.02679.
.. [3] J. Chen et al., "Sequential controlled Langevin diffusions", ICLR 2025, arXiv:2412.07081.
.. [4] A. Havens et al., "Adjoint sampling", ICML 2025, arXiv:2504.11713.
.. [5] G.-H. Liu et al., "Adjoint Schroedinger bridge sampler", NeurIPS 2025, arXiv:2506.22565.
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
truth = float(target.log_normalizer)

# %%
# Paths of 20 steps each; exploration noise is in the training of the first, and never in its
# weights. ASBS has two things to learn, which take turns, and gets twice the updates of adjoint
# sampling.

smoke = os.environ.get("SMOKE") == "1"
steps = {"num_steps": 3 if smoke else 20}
updates = {"num_updates": 2 if smoke else 200}
search = samplers.LocalSearch(every=50, num_chains=50, num_steps=20)
learners = {
    "replay": samplers.PIS(
        objective=samplers.TrajectoryBalance(),
        exploration=0.5,
        replay=samplers.Replay(capacity=2000, local_search=search),
        **steps,
        **updates,
    ),
    "pieces": samplers.DGFS(**steps, **updates),
    "segments": samplers.SCLD(num_segments=2 if smoke else 5, steps_per_segment=4, **updates),
    "ends, from a point": samplers.AdjointSampling(num_updates=2 if smoke else 800, **steps),
    "ends, from a Gaussian": samplers.ASBS(num_updates=2 if smoke else 1600, **steps),
}
draws = {
    name: ppl.sample(sampler, target, rng_key=1, num_samples=4096)
    for name, sampler in learners.items()
}

# %%
# The gradients that each of them has spent on training and draws, and what it found: those that
# learn from ends do with some ten thousand.

for name, each in draws.items():
    weights = ppl.weights.probabilities(each.log_weights[0])
    found = np.asarray(target.component(each["x"][0])) == 0
    print(
        f"{name:>21}: {each.num_evaluations[1]:>9,} gradients, effective share "
        f"{ppl.weights.ess(each.log_weights[0]) / 4096:.2f}, mass of the small mode "
        f"{weights[found].sum():.3f} (0.250)"
    )

# %%
# Judged by log Z: without the small mode it would be low by 0.288.

for name, each in draws.items():
    print(f"{name:>21}: log Z {each.log_evidence.value:.3f}, truth {truth:.3f}")
