"""
What a prior of photographs takes for noise
===========================================

A second prior that ships is of 32 x 32 crops of photographs: a small convolutional network that
has seen nine of them. What does it make of a photograph that noise has covered, and what of an
image that is none?
"""

# %%
# It loads at once. Draws are textures and edges; it has seen too little for objects.

import os

import jax
import matplotlib.pyplot as plt
import numpy as np

import ppl
import samplers
from models.inverse.images import photograph

smoke = os.environ.get("SMOKE") == "1"
prior = samplers.crops_prior()
solver = samplers.DiffusionSampler(
    samplers.DPMSolverPP(order=2), num_steps=5 if smoke else 20, batch_size=6
)
draws = ppl.sample(solver, prior, num_samples=6, progress=False)["x"][0]

# %%
# Four crops of a photograph, with three amounts of noise; and beside the expectation of the prior
# that of the best shrinkage of each crop toward its mean.

image = 2 * photograph("camera", 64) - 1
crops = np.stack([image[i : i + 32, j : j + 32] for i in (0, 32) for j in (0, 32)])
noise = np.asarray(jax.random.normal(jax.random.key(1), crops.shape))
denoise = jax.jit(jax.vmap(prior.denoise, (0, None)))
for sigma in (0.1, 0.25, 0.5):
    noisy = crops + sigma * noise
    mean, variance = crops.mean((1, 2), keepdims=True), crops.var((1, 2), keepdims=True)
    guesses = {
        "the prior": denoise(noisy, sigma),
        "shrinkage": mean + variance / (variance + sigma**2) * (noisy - mean),
    }
    errors = {name: np.sqrt(np.mean((x - crops) ** 2)) for name, x in guesses.items()}
    said = ", ".join(f"{name} {error:.3f}" for name, error in errors.items())
    print(f"noise {sigma}: root mean square error of {said}")

# %%
# The same pixels in another order are no photograph: part of them the prior takes for noise.

scrambled = np.random.default_rng(0).permuted(crops.reshape(4, -1), axis=1).reshape(crops.shape)
kept = [np.std(denoise(x + 0.25 * noise, 0.25)) / np.std(x) for x in (crops, scrambled)]
print(f"contrast kept: {kept[0]:.2f} (expected: 1), of pixels at random {kept[1]:.2f}")

# %%
# Draws; crops, noisy and denoised.

figure, axes = plt.subplots(3, 6, figsize=(7, 3.6), layout="constrained")
noisy = crops + 0.25 * noise
rows = [*draws, *crops, *noisy, *denoise(noisy, 0.25)]
for axis, shown in zip(axes.ravel(), rows, strict=True):
    axis.imshow(shown, cmap="gray", vmin=-1, vmax=1)
    axis.set_axis_off()
