"""
Which arrows does a data set ask for?
=====================================

A directed acyclic graph over variables says which depend on which. Twenty men were weighed, and
asked for as many chin-ups and sit-ups as they could: with so few rows many graphs are plausible,
and the answer is the posterior probability of each arrow. Graphs have no gradient. They are built
arrow by arrow, by a generative flow network [1]_ or by a chain that takes a graph apart and builds
it anew.

.. [1] T. Deleu et al., "Bayesian structure learning with generative flow networks", UAI 2022,
   arXiv:2202.13903.
"""

# %%
# Four of the six columns. The BGe score of a graph is the marginal likelihood of a Gaussian with
# its independences.

import os

import matplotlib.pyplot as plt
import numpy as np

import ppl
import samplers
from models.environments import linnerud
from models.environments.dags import DAGs, bge
from ppl.state_graph import state_graph

names = ("weight", "waist", "chins", "situps")
graphs = DAGs(bge(linnerud.standardized(*names)))
smoke = os.environ.get("SMOKE") == "1"

# %%
# Trajectory balance on paths from the empty graph. Its draws are independent and weighted.

gflownet = samplers.GFlowNet(num_updates=20 if smoke else 1000, learning_rate=1e-2)
learned = ppl.sample(gflownet, graphs, rng_key=0, num_samples=4000, progress=False)
shares = ppl.weights.probabilities(learned.log_weights[0])
by_network = np.einsum("n,nij->ij", shares, learned["x"][0])

# %%
# The chain needs no training. Its proposals are arrows drawn uniformly, so it stays where it is for
# most of its steps.

chain = samplers.BackAndForth()
walked = ppl.sample(
    chain, graphs, rng_key=0, init=samplers.built, num_chains=16, num_warmup=200,
    num_samples=50 if smoke else 2000, progress=False,
)  # fmt: skip
by_chain = walked["x"].mean((0, 1))
print(f"accepted {walked.stats['acceptance_rate'].mean():.2f} of its proposals")

# %%
# There are 543 graphs of four variables, so that the posterior is a finite sum.

listed = state_graph(graphs)
exact = np.einsum("n,nij->ij", listed.exact_law(), listed.states)

fig, axes = plt.subplots(1, 3, figsize=(8, 3.6), sharey=True, layout="constrained")
for ax, arrows, title in zip(
    axes, (exact, by_network, by_chain), ("all graphs", "network", "chain"), strict=True
):
    ax.imshow(arrows, vmin=0, vmax=1, cmap="Greys")
    ax.set_title(title)
    ax.set_xticks(range(4), names, rotation=90)
    ax.set_yticks(range(4), names)

# %%
# Three pairs belong together: weight and waist, waist and sit-ups, chin-ups and sit-ups. Which way
# their arrows point, data of this kind hardly say.

for i, j in zip(*np.nonzero(np.triu(exact + exact.T > 0.8)), strict=True):
    print(f"{names[i]} - {names[j]}: {exact[i, j]:.2f} one way, {exact[j, i]:.2f} the other")
print(
    f"largest error of an arrow's probability: {np.abs(by_network - exact).max():.3f} by the "
    f"network, {np.abs(by_chain - exact).max():.3f} by the chain (known: 0)"
)
