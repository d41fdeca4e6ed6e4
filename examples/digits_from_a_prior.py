"""
Digits from a prior that ships
==============================

A diffusion prior of handwritten digits comes with the library: a small network, trained for two
minutes on three quarters of scikit-learn's 8 x 8 digits. What does it draw, and what does it make
of an image that noise has all but covered?
"""

# %%
# It loads at once. Any solver draws from it; its draws are biased, and say so.

import os

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import ppl
import samplers

smoke = os.environ.get("SMOKE") == "1"
prior = samplers.digits_prior()
solver = samplers.DiffusionSampler(samplers.DPMSolverPP(order=2), num_steps=10 if smoke else 25)
draws = ppl.sample(solver, prior, num_samples=128, progress=False)
images = np.asarray(draws["x"][0])
print("calls of the network a draw:", draws.num_evaluations[1] // len(images))

# %%
# Pixels lie between -1, paper, and 1, ink, though nothing holds them there.

inside = np.mean(np.abs(images) < 1.1)
print(f"pixels within a tenth of the scale: {inside:.1%}")

# %%
# A drawn digit, under noise as large as the scale itself, and what is to be expected beneath: the
# mean over all digits that may be there. It is the best guess, hence nearer than any shrinkage.

noise = jax.random.normal(jax.random.key(1), images.shape)
noisy = jnp.asarray(images + noise)
denoised = jax.vmap(lambda y: prior.denoise(y, 1.0))(noisy)
average = np.mean(images, axis=0)
errors = {"denoised": denoised, "the average digit": average, "the noisy image": noisy}
for name, guess in errors.items():
    print(f"root mean square error of {name}: {np.sqrt(np.mean((guess - images) ** 2)):.2f}")

# %%
# Draws; and a few of them, noisy and denoised.

figure, axes = plt.subplots(4, 12, figsize=(8, 3), layout="constrained")
rows = [images[:12], images[12:24], noisy[:12], denoised[:12]]
names = ["draws", "draws", "noisy", "denoised"]
for line, row, name in zip(axes, rows, names, strict=True):
    line[0].set_title(name, loc="left", fontsize=8)
    for axis, image in zip(line, row, strict=True):
        axis.imshow(image, cmap="gray_r", vmin=-1.2, vmax=1.2)
        axis.set_axis_off()
