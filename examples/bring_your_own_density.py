"""
Bring your own density
======================

Can a density that is no probabilistic program be sampled? Any JAX function will do. Between 1875
and 1894, 122 men of ten Prussian army corps were killed by the kick of a horse, in 200 corps-years
[1]_. With a gamma prior the rate of deaths has a gamma posterior, so the answer is known.

.. [1] L. von Bortkiewicz, "Das Gesetz der kleinen Zahlen", Teubner, 1898.
"""

# %%
# Write the log-density as a function of the position and of the data, in the space you think in:
# here a positive rate. Terms that do not depend on the position may be left out.

import os
from pathlib import Path

import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from numpyro.distributions import constraints

import ppl
import samplers

SHAPE, RATE = 2.0, 1.0  # of the gamma prior


def log_posterior(position, deaths, corps_years):
    rate = position["rate"]
    log_prior = (SHAPE - 1) * jnp.log(rate) - RATE * rate
    return log_prior + jnp.sum(deaths * jnp.log(rate) - corps_years * rate)


# %%
# ``template`` is one position, ``support`` says where the density lives: the kernels then move on
# the real line, the log-Jacobian is added once, and draws come back positive. Data are passed, not
# closed over, so that other data of the same shape compile nothing anew.

deaths = np.repeat([0.0, 1.0, 2.0, 3.0, 4.0], [109, 65, 22, 3, 1])
target = ppl.from_log_density(
    log_posterior,
    {"rate": jnp.ones(())},
    deaths,
    np.ones_like(deaths),
    support={"rate": constraints.positive},
)

# %%
# Any sampler that needs no more than a density and its gradient runs on it.

sizes = {"num_warmup": 200, "num_samples": 200} if os.environ.get("SMOKE") == "1" else {}
draws = ppl.sample(samplers.NUTS(), target, rng_key=0, **sizes)
print(draws.summary(round_to=4).to_string())

# %%
# The draws and the known posterior, Gamma(2 + 122, 1 + 200).

shape, rate = SHAPE + deaths.sum(), RATE + len(deaths)
x = np.linspace(0.4, 0.85, 200)
log_density = (shape - 1) * np.log(x) - rate * x
density = np.exp(log_density - log_density.max())
plt.figure(figsize=(6, 3), layout="constrained")
plt.hist(draws["rate"].ravel(), bins=40, density=True, alpha=0.4, label="draws")
plt.plot(x, density / (density.sum() * (x[1] - x[0])), label="known posterior")
plt.xlabel("deaths in a corps and a year")
plt.legend()
Path("out").mkdir(exist_ok=True)
plt.savefig("out/bring_your_own_density.svg")

# %%
print(f"posterior mean: {draws['rate'].mean():.4f}; known: {shape / rate:.4f}")
