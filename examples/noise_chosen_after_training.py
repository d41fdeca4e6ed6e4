"""
How much noise on the way? Chosen after training
================================================

Diffusion models run from noise to data; stochastic interpolants run from any law to any other, and
how much noise they add on the way is chosen when drawing, not when training. A flow adds none. What
does noise do to the errors of a network that was trained for half a minute?
"""

# %%
# Two laws, both known by their points only: a ring, and eight spots around it.

import os
from functools import partial

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import ppl
import samplers
from models.targets.gaussian_mixture import GaussianMixture
from ppl.diagnostics.energy_distance import energy_distance

smoke = os.environ.get("SMOKE") == "1"
angles = np.linspace(0, 2 * np.pi, 8, endpoint=False)
spots = GaussianMixture(3 * np.stack([np.cos(angles), np.sin(angles)], axis=1), 0.3)
ring = GaussianMixture(np.stack([np.cos(angles), np.sin(angles)], axis=1), 0.4)
train, held_out = spots.sample(jax.random.key(0), 6000).reshape(2, 3000, 2)

# %%
# Training fits two functions to random points between random pairs, one of each law. It does not
# ask how much noise there will be.

sampler = samplers.StochasticInterpolant(
    partial(samplers.MLP, width=64, depth=2),
    base=ring,
    num_updates=100 if smoke else 2000,
    num_steps=10 if smoke else 60,
)
draws = ppl.sample(sampler, ppl.from_samples(train), num_samples=2000, progress=False)
prior = draws.sampler.prior

# %%
# One training, five amounts of noise, in units of the data's variance.

found = {}
for noise in (0.0, 0.1, 0.5, 1.0, 2.0):
    x = np.asarray(prior.with_diffusion(noise).sample(jax.random.key(1), 2000))
    found[noise] = energy_distance(x, np.asarray(held_out[:2000]))
    print(f"noise {noise}: squared energy distance to held-out points {found[noise]:.4f}")
floor = energy_distance(np.asarray(train[:2000]), np.asarray(held_out[:2000]))
print(f"of the data themselves: {floor:.4f}")

# %%
# The same starts with more noise: the end has one law, the ways to it differ.

figure, axes = plt.subplots(1, 3, figsize=(8, 2.8), sharex=True, sharey=True, layout="constrained")
for axis, noise in zip(axes, (0.0, 0.5, 2.0), strict=True):
    x = prior.with_diffusion(noise).sample(jax.random.key(2), 1000)
    axis.plot(*np.asarray(ring.sample(jax.random.key(3), 500)).T, ".", markersize=1, color="0.8")
    axis.plot(*np.asarray(x).T, ".", markersize=2)
    axis.set(title="a flow" if noise == 0 else f"noise {noise}", aspect="equal")

# %%
# Every spot should hold an eighth of the draws.

nearest = jnp.argmin(jnp.sum((draws["x"][0][:, None] - spots.means) ** 2, axis=-1), axis=1)
shares = np.bincount(np.asarray(nearest), minlength=8) / len(nearest)
print(f"shares of the eight spots: {shares.min():.3f} to {shares.max():.3f}; expected: 0.125")
