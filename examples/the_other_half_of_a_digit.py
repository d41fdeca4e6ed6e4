"""
The other half of a digit
=========================

Of a handwritten digit the lower half is missing, and the upper half is noisy. A diffusion prior of
digits fills in the rest, in as many ways as there are methods; none of them is exact. How near do
they come, how sure are they, and how often are they right?
"""

# %%
# The prior ships with the library and has not seen these digits. What is measured is 32 of 64
# pixels, with noise: a matrix that picks them.

import os

import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits

import ppl
import samplers

smoke = os.environ.get("SMOKE") == "1"
num_digits, num_draws, scale = (2, 8, 10) if smoke else (3, 64, 1)
images = load_digits().images
held_out = np.random.default_rng(0).permutation(len(images))[:449]
truth = images[held_out[:num_digits]] / 8 - 1
noise = 0.2
seen = np.eye(64)[:32]
rng = np.random.default_rng(1)
data = truth.reshape(-1, 64)[:, :32] + noise * rng.normal(size=(num_digits, 32))

# %%
# One problem a digit, the same for every method. They differ in their data only, so that one
# program serves them all.

prior = samplers.digits_prior()
problems = ppl.stack(
    ppl.posterior(prior, ppl.LinearGaussian(seen, jnp.asarray(y), noise, template=prior.template))
    for y in data
)
methods = {
    "PiGDM": samplers.PiGDM(num_steps=200 // scale),
    "TMPD": samplers.TMPD(
        solver=samplers.DDPM(), num_steps=100 // scale, max_cg_steps=10, trusted_below=0.1
    ),
    "DPS": samplers.DPS(zeta=0.5, num_steps=200 // scale),
    "DiffPIR": samplers.DiffPIR(num_steps=100 // scale),
    "DDS": samplers.DecomposedDiffusion(num_steps=50 // scale),
    "DDRM": samplers.DDRM(num_steps=100 // scale),
    "DAPS": samplers.DAPS(num_steps=50 // scale, num_ode_steps=4),
    "PnP-DM": samplers.PnPDM(num_steps=50 // scale, num_inner_steps=10),
    "RED-diff": samplers.REDDiff(num_steps=300 // scale),
    "FPS-SMC": samplers.FPSSMC(num_particles=8, num_steps=50 // scale),
    "STSL": samplers.STSL(trusted_below=0.1, num_steps=600),
}

# %%
# Each takes some seconds to compile. These run here; a name more in the list and another one does.
# The page :doc:`/images_restored` has figures of all.

shown = ["PiGDM", "TMPD", "DPS", "DiffPIR", "DDRM"]
if smoke:
    shown = ["PiGDM", "DDRM"]

# %%
# `MCGDiff` has weights and evidence; its draws are one cloud of particles, of which few are left
# where 32 numbers are seen. It gets its turn below, with two of them.
#
# Of each method: the error of its mean (peak signal-to-noise ratio, on missing pixels), how often
# the truth lies within the central 90 % of its draws, how far its draws are from the data in units
# of the noise, and what a draw costs.


def judge(draws, x, y):
    missing, inside = draws[:, 4:], draws[:, :4].reshape(len(draws), -1)
    error = np.mean((missing.mean(0) - x[4:]) ** 2)
    low, high = np.quantile(missing, [0.05, 0.95], axis=0)
    covered = np.mean((low <= x[4:]) & (x[4:] <= high))
    residual = np.sqrt(np.mean((inside - y) ** 2)) / noise
    return error, covered, residual


print("method     PSNR/dB  covered  residual/noise  denoisers a draw")
found = {}
for name in shown:
    method = methods[name]
    runs = ppl.sample_batch(method, problems, num_samples=num_draws, progress=False)
    found[name] = np.stack([np.asarray(run["x"][0]) for run in runs])
    error, covered, residual = np.mean(
        [judge(*each) for each in zip(found[name], truth, data, strict=True)], axis=0
    )
    calls = runs[0].num_evaluations[1] // method.batch_size
    print(f"{name:10} {10 * np.log10(4 / error):7.1f} {covered:8.2f} {residual:15.2f} {calls:17}")

# %%
# Draws of the first digit: the top is the data, and the bottom is what each method makes of it.

figure, axes = plt.subplots(len(found), 10, figsize=(8, 0.9 * len(found)), layout="constrained")
for line, (name, draws) in zip(axes, found.items(), strict=True):
    shown = [truth[0], draws[0].mean(0), *draws[0][:8]]
    line[0].set_title(f"truth, mean, draws: {name}", loc="left", fontsize=7)
    for axis, image in zip(line, shown, strict=True):
        axis.imshow(image, cmap="gray_r", vmin=-1.2, vmax=1.2)
        axis.set_axis_off()

# %%
# Two numbers a digit, the mean of the upper and of the lower half: a problem for particles. Several
# clouds tell how much one of them is worth, and the evidence how unlike a digit the data are.

halves = np.repeat(np.eye(2), 32, axis=1) / 32
cloud = samplers.MCGDiff(num_particles=64 if smoke else 512, num_steps=100 // scale)
for name, image in {
    "a digit": truth[0],
    "a half-black square": np.sign(np.arange(64) - 31.5),
}.items():
    seen = ppl.LinearGaussian(halves, halves @ image.reshape(-1), 0.05, template=prior.template)
    run = ppl.sample(cloud, ppl.posterior(prior, seen), num_chains=4, progress=False)
    print(f"log evidence of {name}: {run.log_evidence.value:.1f}")

# %%
# The average digit knows nothing of the data.

average = np.mean((images.mean(0)[4:] / 8 - 1 - truth[:, 4:]) ** 2)
best = min(np.mean((draws.mean(1) - truth)[:, 4:] ** 2) for draws in found.values())
print(
    f"the best mean is at {10 * np.log10(4 / best):.1f} dB, the average digit at "
    f"{10 * np.log10(4 / average):.1f} dB"
)
