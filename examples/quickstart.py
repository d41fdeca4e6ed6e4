"""
Quickstart
==========

On the morning of 28 January 1986 it was 31 degrees Fahrenheit at the launch pad. In 23 flights
before, at 53 to 81 degrees, seals of the shuttle's boosters had been damaged on seven [1]_. How
probable was damage in that cold? A model, its draws, a verdict on them, and an answer.

.. [1] S. R. Dalal, E. B. Fowlkes, B. Hoadley, "Risk analysis of the space shuttle: pre-Challenger
   prediction of failure", JASA 84, 1989.
"""

# %%
# The model is a NumPyro program; its data are arguments. Logistic regression on the temperature,
# in tens of degrees from 70.

import os

import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import numpyro
import numpyro.distributions as dist

import ppl
import samplers


def seals(temperature, damage=None):
    level = numpyro.sample("level", dist.Normal(0, 3))
    slope = numpyro.sample("slope", dist.Normal(0, 3))
    logit = level + slope * (temperature - 70) / 10
    with numpyro.plate("flight", len(temperature)):
        numpyro.sample("damage", dist.Bernoulli(logits=logit), obs=damage)


temperature = jnp.array(
    [66.0, 70, 69, 68, 67, 72, 73, 70, 57, 63, 70, 78, 67, 53, 67, 75, 70, 81, 76, 79, 75, 76, 58]
)
damage = jnp.array([0, 1, 0, 0, 0, 0, 0, 0, 1, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1, 0, 1])

# %%
# A target is made once, and every sampler of the library runs on it. The key makes the run
# repeatable; warm-up, chains and compilation are taken care of.

target = ppl.from_numpyro(seals, temperature, damage)
sizes = {"num_warmup": 200, "num_samples": 200} if os.environ.get("SMOKE") == "1" else {}
draws = ppl.sample(samplers.NUTS(), target, rng_key=0, progress=False, **sizes)
print(draws.summary().to_string(float_format="{:.4g}".format))

# %%
# ``draws["slope"]`` is an array, chains by draws. What follows from the parameters follows from
# each draw: the curve of the probability of damage, with its uncertainty.

level, slope = draws["level"].ravel(), draws["slope"].ravel()
grid = np.linspace(30, 85, 100)
curves = 1 / (1 + np.exp(-level[:, None] - slope[:, None] * (grid - 70) / 10))
low, middle, high = np.quantile(curves, [0.05, 0.5, 0.95], axis=0)
plt.figure(figsize=(6, 3), layout="constrained")
plt.fill_between(grid, low, high, alpha=0.3, label="90 % of the draws")
plt.plot(grid, middle)
plt.plot(temperature, damage, "o", label="flights")
plt.axvline(31, linestyle=":", color="0.4")
plt.xlabel("temperature, degrees Fahrenheit")
plt.ylabel("probability of damage")
plt.legend()

# %%
# The report is one page: a verdict in words, what it rests on, and how to run it again.

print(ppl.report(draws, "out/seals.html"))

# %%
# Two parameters can be integrated on a grid, which gives the right answer to compare with.

a, b = np.meshgrid(np.linspace(-6, 6, 400), np.linspace(-9, 5, 400), indexing="ij")
logit = a[..., None] + b[..., None] * (np.asarray(temperature) - 70) / 10
log_density = -(a**2 + b**2) / 18 + (np.asarray(damage) * logit - np.logaddexp(0, logit)).sum(-1)
weight = np.exp(log_density - log_density.max())
known = (weight / (1 + np.exp(-(a - 3.9 * b)))).sum() / weight.sum()
at_launch = 1 / (1 + np.exp(-(level - 3.9 * slope)))
print(f"probability of damage at 31 degrees: {at_launch.mean():.3f}; known: {known:.3f}")
