"""
The level of a river: filtering and smoothing
=============================================

The Nile brought less water after 1898 than before. A hundred yearly flows say so in noise. A level
that wanders from year to year, seen through the flows, is the simplest state-space model there is;
for it the Kalman filter is exact, and tells whether particles are.
"""

# %%
# Flow at Aswan from 1871 to 1970, in 10^8 cubic meters (Cobb 1978). Two years are taken out, to see
# what becomes of missing data.

import os
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import numpyro.distributions as dist

import ppl
import samplers

flow = np.array("""
1120 1160  963 1210 1160 1160  813 1230 1370 1140  995  935 1110  994 1020  960 1180  799  958 1140
1100 1210 1150 1250 1260 1220 1030 1100  774  840  874  694  940  833  701  916  692 1020 1050  969
 831  726  456  824  702 1120 1100  832  764  821  768  845  864  862  698  845  744  796 1040  759
 781  865  845  944  984  897  822 1010  771  676  649  846  812  742  801 1040  860  874  848  890
 744  749  838 1050  918  986  797  923  975  815 1020  906  901 1170  912  746  919  718  714  740
""".split(), float)  # fmt: skip
flow[[40, 41]] = np.nan
NOISE, DRIFT = 123.0, 38.0  # standard deviations of a flow, and of the level from year to year

# %%
# The model in three functions: where the level starts, how it moves, what is seen of it.

model = ppl.StateSpaceModel(
    lambda: dist.Normal(1000.0, 300.0),
    lambda t, level: dist.Normal(level, DRIFT),
    lambda t, level: dist.Normal(level, NOISE),
    flow,
)

# %%
# The particle filter goes through the years once. It gives the evidence, and in its history what
# was known of each year's level at that time.

size = 200 if os.environ.get("SMOKE") == "1" else 2000
filtered = ppl.sample(
    samplers.ParticleFilter(num_particles=size), model, num_chains=8, progress=False
)
weights = ppl.weights.probabilities(filtered.history["log_weights"][0])
then = (weights * filtered.history["particles.x"][0]).sum(-1)

# %%
# Its paths are of little use for the early years: all of them descend from a few particles.

print(f"distinct levels of 1871 among {size} paths: {len(np.unique(filtered['x'][0, :, 0]))}")

# %%
# Conditional SMC draws whole paths given all the data, with twenty particles: a Markov chain.

smoothed = ppl.sample(
    samplers.ConditionalSMC(num_particles=20), model, num_samples=size, num_warmup=50,
    progress=False,
)  # fmt: skip
level, spread = smoothed["x"].mean((0, 1)), smoothed["x"].std((0, 1))

# %%
# The Kalman filter of this model is a few lines, and its evidence is exact.

mean, variance, log_z, kalman = 1000.0, 300.0**2, 0.0, []
for y in flow:
    if not np.isnan(y):
        total = variance + NOISE**2
        log_z -= 0.5 * (np.log(2 * np.pi * total) + (y - mean) ** 2 / total)
        mean, variance = mean + variance / total * (y - mean), variance * NOISE**2 / total
    kalman.append(mean)
    variance += DRIFT**2

# %%
# What was known then, and what is known now.

years = np.arange(1871, 1971)
figure, axes = plt.subplots(figsize=(7, 3))
axes.plot(years, flow, ".", color="0.6", label="flow")
axes.plot(years, then, color="C1", label="filtered")
axes.fill_between(years, level - spread, level + spread, color="C0", alpha=0.3)
axes.plot(years, level, color="C0", label="smoothed, with sd")
axes.legend()
figure.savefig(Path("level_of_a_river.svg"))

# %%
# Numbers to compare: the evidence, and the filter against Kalman's in the worst year.

print(f"filter against Kalman: off by {np.abs(then - kalman).max():.1f} at most, of sd {NOISE:.0f}")
value, error = filtered.log_evidence[:2]
print(f"log evidence {value:.2f} +- {error:.2f}; exact {log_z:.2f}")
