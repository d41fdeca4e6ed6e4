"""
Does a learned sampler find all modes?
======================================

Objects that are built move by move have no gradient and often many modes, far apart under small
changes. A generative flow network learns to build each object with probability proportional to its
reward. On a small grid everything it has learned can be summed exactly.
"""

# %%
# The grid: cells of a square, reached by steps to the right and upward, with a high reward in each
# of its four corners and a desert in between. The checker walks through it first.

import os

import matplotlib.pyplot as plt
import numpy as np

import ppl
import samplers
from models.environments.hypergrid import Hypergrid
from ppl.state_graph import state_graph, total_variation
from samplers.gflownet.laws import terminal_law

grid = Hypergrid(num_dims=2, side=8, rewards=(0.1, 0.5, 2.0))
print(ppl.environment.check(grid))

# %%
# Trajectory balance, with a tenth of the moves at random for the first half of the training.

num_updates = 50 if os.environ.get("SMOKE") == "1" else 1000
gflownet = samplers.GFlowNet(
    objective=samplers.TrajectoryBalance(), policy=samplers.MLPPolicy(), num_updates=num_updates
)
draws = ppl.sample(gflownet, grid, rng_key=0, num_samples=4000, progress=False)
print(f"log Z {draws.log_evidence.value:.3f}, {draws.num_evaluations[0]} rewards")

# %%
# What it builds: the probability of every cell is a sum over the ways that lead there.

graph = state_graph(grid)
built, exact = terminal_law(draws.sampler, grid, graph), graph.exact_law()

fig, axes = plt.subplots(1, 2, figsize=(6, 3), sharex=True, sharey=True)
for ax, law, title in zip(axes, (exact, built), ("R / Z", "built"), strict=True):
    image = np.zeros((8, 8))
    image[tuple(graph.states.T)] = law
    ax.imshow(image, origin="lower", vmin=0, vmax=exact.max())
    ax.set_title(title)
fig.tight_layout()

# %%
# Each corner holds a quarter of the mass; so do the draws.

corner = 2 * (graph.states[:, 0] > 3) + (graph.states[:, 1] > 3)
print("mass of the corners:", np.bincount(corner, weights=built).round(3))

# %%
# The known value of log Z, and the distance of the two laws.

print(f"log Z is {np.log(np.exp(graph.log_reward).sum()):.3f}")
print(f"total variation {total_variation(built, exact):.3f} (0 is exact)")
