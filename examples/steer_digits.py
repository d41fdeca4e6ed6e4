"""
Steer a diffusion prior
=======================

A prior of handwritten digits draws all of them. Suppose that only digits of a certain amount of ink
are wanted, counted in dark pixels: a reward without a gradient. Feynman-Kac steering (Singhal et
al., 2025) lets particles run down the reverse chain and multiplies those whose denoised images
promise the reward. The draws are weighted, and the evidence is known.
"""

# %%
# The target: the prior, tilted by the reward. An image has its reward taken off for each dark pixel
# that is too many or too few.

import os

import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import ppl
import samplers

smoke = os.environ.get("SMOKE") == "1"
num_steps, num_particles = (10, 64) if smoke else (50, 512)
prior = samplers.digits_prior()


def dark_pixels(image):
    return jnp.sum(image > 0, axis=(-2, -1))


def thin(image):
    return -jnp.abs(dark_pixels(image) - 10.0)


target = ppl.tilt(prior, thin)

# %%
# Draws of the prior, and of the tilted one.

plain = samplers.DiffusionSampler(samplers.DDPM(), num_steps=num_steps)
before = ppl.sample(plain, prior, num_samples=num_particles, progress=False)
steering = samplers.FKSteering(num_particles=num_particles, num_steps=num_steps)
after = ppl.sample(steering, target, progress=False)
chosen = after.resample(0, num_particles)
for name, images in (("prior", before["x"][0]), ("steered", chosen["x"][0])):
    print(f"dark pixels of {name} draws: {np.mean(dark_pixels(images)):.1f}")

# %%
# The evidence is the mean of exp(reward) under the prior, which its draws tell as well; less and
# less so, the rarer what is wanted.

simple = np.log(np.mean(np.exp(np.asarray(thin(before["x"][0])))))
value, error = after.log_evidence.value, after.log_evidence.std_error
print(f"log evidence: {value:.2f} +- {error:.2f}; by draws of the prior: {simple:.2f}")

# %%
# Above draws of the prior, below the steered ones.

figure, axes = plt.subplots(4, 12, figsize=(8, 3), layout="constrained")
rows = [
    *np.reshape(before["x"][0][:24], (2, 12, 8, 8)),
    *np.reshape(chosen["x"][0][:24], (2, 12, 8, 8)),
]
for line, images in zip(axes, rows, strict=True):
    for axis, image in zip(line, images, strict=True):
        axis.imshow(image, cmap="gray_r", vmin=-1.2, vmax=1.2)
        axis.set_axis_off()
