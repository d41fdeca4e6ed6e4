"""
Imaging with error bars
=======================

A photograph, blurred by a 9 x 9 square and with noise of sd 0.01. Which image was it, and where is
the answer sure? The likelihood is smooth; the prior, a total variation, has kinks that gradients
cannot see and a proximal map that can.
"""

# %%
# The target says which part is which. The largest curvature L of the smooth part sets the scale of
# all step sizes.

import os
from pathlib import Path

import matplotlib.pyplot as plt

import ppl
import samplers
from models.inverse.deconvolution import deconvolution
from samplers.langevin.skrock import longest_step

problem = deconvolution()
target = ppl.composite(problem.likelihood, samplers.TotalVariation2D(15.0, tolerance=0.02))
curvature = problem.largest_curvature
smoke = os.environ.get("SMOKE") == "1"

# %%
# Two biased samplers, of which the first takes far longer steps, and an exact one. The others begin
# where it ends: from the blurred image they would be a long time on the way.

methods = {
    "SK-ROCK": (samplers.SKROCK(step_size=0.8 * longest_step(10) / (2 * curvature)), 500, 1),
    "MYULA": (samplers.MYULA(step_size=1 / (4 * curvature)), 1000, 10),
    "P-MALA": (samplers.ProximalMALA(step_size=1 / (32 * curvature)), 4000, 15),
}
images, start = {}, problem.observation
for name, (sampler, num_warmup, thin) in methods.items():
    size = {"num_warmup": num_warmup, "num_samples": 1000, "thin": thin}
    if smoke:
        size = {"num_warmup": 20, "num_samples": 20}
    draws = ppl.sample(sampler, target, rng_key=0, num_chains=1, init=start, progress=False, **size)
    start = draws["x"][0, -1]
    images[name] = draws["x"][0].mean(0), draws["x"][0].std(0)

# %%
# The posterior mean is the estimate, the standard deviation of a pixel its error bar: edges, whose
# place the blur hides, are where the picture is least sure.

figure, axes = plt.subplots(2, 4, figsize=(9, 4.8), layout="constrained")
shown = {"truth": (problem.truth, problem.observation), **images}
for column, (name, (above, below)) in zip(axes.T, shown.items(), strict=True):
    column[0].imshow(above, cmap="gray", vmin=0, vmax=1)
    column[1].imshow(below, cmap="gray")
    column[0].set_title(name)
    column[1].set_title("observation" if name == "truth" else "sd")
for axis in axes.flat:
    axis.set_axis_off()
Path("out").mkdir(exist_ok=True)
plt.savefig("out/imaging_with_error_bars.svg")

# %%
# All three gain more than 5 decibels. MYULA has the error bars of the exact kernel; SK-ROCK's are a
# little too small, the price of its long steps.

before = problem.decibels(problem.observation)
for name, (mean, sd) in images.items():
    gain, ratio = problem.decibels(mean) - before, (sd / images["P-MALA"][1]).mean()
    print(f"{name}: {gain:.1f} dB above the observation's {before:.1f}, sd {ratio:.2f} of P-MALA's")
