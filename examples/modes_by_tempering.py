"""
Modes by tempering: a posterior that chains get wrong
=====================================================

A source is to be located by receivers that hear how loud it is, hence how far away. They stand in a
line, and cannot tell on which side of it the source lies; a prior that leans to one side makes it a
little likelier. A chain tells of the side it started on.
"""

# %%
# Five receivers on the x-axis. Where the source lies above or below, they hear the same.

import os

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist

import ppl
import samplers

smoke = os.environ.get("SMOKE") == "1"
receivers = jnp.linspace(-4.0, 4.0, 5)
NOISE = 0.1


def loudness(x, y):
    return 10.0 / (1.0 + (x - receivers) ** 2 + y**2)


def source(heard):
    x = numpyro.sample("x", dist.Normal(0.0, 3.0))
    y = numpyro.sample("y", dist.Normal(0.5, 3.0))
    with numpyro.plate("receiver", len(receivers)):
        numpyro.sample("heard", dist.Normal(loudness(x, y), NOISE), obs=heard)


heard = loudness(1.0, 3.0) + NOISE * jnp.array([0.3, -0.8, 0.5, -0.2, 0.9])
target = ppl.from_numpyro(source, heard)

# %%
# The truth, by adding up the density over a fine grid.

x, y = np.meshgrid(np.linspace(-4, 5, 600), np.linspace(-6, 6, 800), indexing="ij")
expected = 10.0 / (1.0 + (x[..., None] - np.asarray(receivers)) ** 2 + y[..., None] ** 2)
log_density = -0.5 * (((np.asarray(heard) - expected) / NOISE) ** 2).sum(-1)
log_density += -0.5 * (x / 3) ** 2 - 0.5 * ((y - 0.5) / 3) ** 2
density = np.exp(log_density - log_density.max())
known = density[y > 0].sum() / density.sum()
print(f"above the line: {known:.3f}")

# %%
# Four chains stay on the side that they start on; what they say is how the starts fell. R-hat sees
# that the chains disagree. It cannot say who is right.

chains = ppl.sample(
    samplers.NUTS(), target, num_samples=100 if smoke else 1000, num_warmup=300, progress=False
)
for share in np.mean(chains["y"] > 0, axis=1):
    print(f"a chain of NUTS: {share:.3f}")

# %%
# Particles start as draws of the prior, on both sides, and are led to the posterior one temperature
# after the other. Between the modes they are weighed, not moved: the shares come out right, and the
# evidence with them.

size = 512 if smoke else 4096
particles = ppl.sample(samplers.TemperedSMC(num_particles=size), target, progress=False)
weights = ppl.weights.probabilities(particles.log_weights[0])
print(f"TemperedSMC: {np.sum(weights * (particles['y'][0] > 0)):.3f}")
value, error = particles.log_evidence[:2]
print(f"log evidence {value:.2f} +- {error:.2f}")

# %%
# How it got there: inverse temperatures, the effective sample size that each one left, and how many
# moves by HMC were worth their cost.

history = particles.history
for b, ess, moves in zip(
    history["inverse_temperature"][0], history["ess"][0], history["num_moves"][0], strict=True
):
    print(f"b = {b:.2e}   ESS {ess:6.0f}   {moves} moves")

# %%
# Annealed importance sampling walks the same path and copies nobody: its weights are independent,
# so that it knows its error, and uneven, so that it needs more particles or a longer path.

annealed = ppl.sample(samplers.AIS(num_particles=size, num_temperatures=50), target, progress=False)
weights = ppl.weights.probabilities(annealed.log_weights[0])
print(f"AIS: {np.sum(weights * (annealed['y'][0] > 0)):.3f}")
print(f"log evidence {annealed.log_evidence.value:.2f} +- {annealed.log_evidence.std_error:.2f}")

# %%
# Parallel tempering runs chains at all temperatures at once, and lets neighbors trade places. The
# one at the prior starts afresh in every scan; what it finds travels to the posterior, and the
# shares are those of a chain that crosses. Its notes say how often that happened.

ladders = ppl.sample(
    samplers.ParallelTempering(num_temperatures=10),
    target,
    num_samples=200 if smoke else 2000,
    num_warmup=100 if smoke else 500,
    progress=False,
)
print(ladders)
print(f"ParallelTempering: {np.mean(ladders['y'] > 0):.3f}; known: {known:.3f}")
