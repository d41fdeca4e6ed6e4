"""
A diffusion prior from data
===========================

A data set says what is likely, but has no density. A network that takes noise off its rows is
enough to draw new ones, and is a prior for what is measured later. Here the data are points along
two moons; with them the network takes seconds.
"""

# %%
# The data: two thousand points, and which moon each is on.

import os
from functools import partial

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import ppl
import samplers
from ppl.diagnostics.energy_distance import energy_distance

smoke = os.environ.get("SMOKE") == "1"
rng = np.random.default_rng(0)
moon = rng.integers(0, 2, 4000)
angle = rng.uniform(0, np.pi, 4000)
points = np.stack([np.cos(angle) * (1 - 2 * moon) + moon, np.sin(angle) * (1 - 2 * moon)], 1)
points = (points + [0, 1] * moon[:, None] / 2 + 0.08 * rng.normal(size=(4000, 2))).astype("f")
train, held_out = points[:2000], points[2000:]

# %%
# Training is a sampler on the data set. ``labels`` make the prior one with conditions: the moon may
# be asked for, or not.

sampler = samplers.DenoisingDiffusion(
    partial(samplers.MLP, width=64, depth=2),
    num_updates=100 if smoke else 3000,
    labels=moon[:2000],
    solver=samplers.DiffusionSampler(samplers.DPMSolverPP(order=2), num_steps=15),
)
draws = ppl.sample(sampler, ppl.from_samples(train), num_samples=2000, progress=False)
loss = draws.history["loss"][0]
print(f"loss: {loss[:50].mean():.2f} at first, {loss[-50:].mean():.2f} at last")

# %%
# Are the draws like points that training has not seen? The distance between two halves of the data
# is what no sampler can be nearer than.

floor = energy_distance(train, held_out)
found = energy_distance(draws["x"][0], held_out)
print(f"squared energy distance to held-out points: {found:.5f}, of the data: {floor:.5f}")

# %%
# The trained sampler has the prior. It can be saved, conditioned, and asked what lies under noise.

draws.sampler.save("moons.eqx")
prior = ppl.load_sampler("moons.eqx", sampler.untrained(ppl.from_samples(train))).prior
upper = prior.given(0).sample(jax.random.key(1), 500)
middle = prior.denoise(jnp.array([0.0, 1.3]), 0.2)
print(f"a noisy point at (0, 1.3) was most likely near ({middle[0]:.2f}, {middle[1]:.2f})")

# %%
# Data, draws, and draws on the condition of the upper moon.

figure, axes = plt.subplots(1, 3, figsize=(8, 2.4), sharex=True, sharey=True, layout="constrained")
shown = {"held-out data": held_out, "draws": draws["x"][0], "draws, given the upper moon": upper}
for axis, (name, values) in zip(axes, shown.items(), strict=True):
    axis.plot(*np.asarray(values[:500]).T, ".", markersize=2)
    axis.set_title(name)
