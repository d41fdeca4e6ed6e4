"""
Kinks and walls
===============

Where a density ends at a wall, or has a kink, plain steps are too long near by and too short far
out. A mirror map moves walls to infinity and stretches kinks. How far off is a chain that steps in
its image, and what does a Metropolis test cost, where the truth is known?
"""

# %%
# Counts of events in six places, over times of observation. With a Gamma prior the rates have Gamma
# posteriors, on positive numbers; the barrier ``-log(rate)`` is a mirror map of these.

import os

import jax.numpy as jnp
import numpy as np
import pandas as pd

import ppl
import samplers

counts = np.array([5.0, 9.0, 14.0, 3.0, 30.0, 7.0], "float32")
times = np.array([94.3, 15.7, 62.9, 12.6, 31.4, 10.5], "float32")
shape, rate = 2.0 + counts, 1.0 + times
known_mean, known_sd = shape / rate, np.sqrt(shape) / rate


def rates(x, counts, times):
    return jnp.sum((counts + 1) * jnp.log(x) - (times + 1) * x)


target = ppl.from_log_density(rates, jnp.zeros(6), counts, times)

# %%
# Steps are as long as the distance to the wall: one step size serves rates that differ by a factor
# of ten. They are biased, most where the posterior is narrow beside its distance to the wall. The
# bias is of first order: with a quarter of the step, Monte Carlo error is what is left.

sizes = {"num_samples": 4000, "num_warmup": 500, "num_chains": 48}
if os.environ.get("SMOKE") == "1":
    sizes = {"num_samples": 200, "num_warmup": 50, "num_chains": 4}
table = {}
for h in (0.008, 0.002):
    kernel = samplers.MirrorLangevin(samplers.LogBarrier(), step_size=h)
    draws = ppl.sample(kernel, target, init=jnp.full(6, 0.5), **sizes, progress=False)
    assert (draws["x"] > 0).all()
    table[f"MirrorLangevin, h = {h}"] = {
        "worst error of a mean": np.abs(draws["x"].mean((0, 1)) / known_mean - 1).max(),
        "worst error of an sd": np.abs(draws["x"].std((0, 1)) / known_sd - 1).max(),
    }
print(pd.DataFrame(table).T.round(3).to_string())

# %%
# Kinks: Laplace densities whose scales differ by a factor of twenty. `MYULA` and `ProximalMALA`
# need steps for the narrowest, and the widest hardly move; a hyperbolic map knows each scale. With
# the Metropolis test `BregmanLangevin` is exact; without, smoothing and steps leave a bias,
# whatever the map.

kink_rates = np.arange(1.0, 21.0, dtype="float32")
flat = ppl.from_log_density(lambda x: 0.0 * jnp.sum(x), jnp.zeros(20))
sparse = ppl.composite(flat, samplers.L1(kink_rates))
scales = samplers.Hyperbolic(1 / kink_rates)
kernels = {
    "BregmanLangevin": samplers.BregmanLangevin(scales),
    "no test": samplers.BregmanLangevin(scales, step_size=0.01, metropolis=False),
    "ProximalMALA": samplers.ProximalMALA(),
    "MYULA": samplers.MYULA(step_size=1e-3),
}
table = {}
for name, kernel in kernels.items():
    draws = ppl.sample(kernel, sparse, **sizes, progress=False)
    table[name] = {
        "exactness": kernel.exactness,
        "worst error of a scale": np.abs(np.abs(draws["x"]).mean((0, 1)) * kink_rates - 1).max(),
        "smallest ess": draws.summary()["ess_bulk"].min(),
    }
print(pd.DataFrame(table).T.to_string())
error = table["BregmanLangevin"]["worst error of a scale"]
print(f"BregmanLangevin: worst error of a scale {error:.3f}; known 0")
