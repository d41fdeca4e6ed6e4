"""
Discrete latent sites: Gibbs sampling of a mixture
==================================================

Which of two groups does each measurement belong to? The assignments are integers, along which there
is no gradient. Gibbs sampling [1]_ takes turns: the assignments are drawn from their exact
conditionals, all at once, as given the rest each depends on its own measurement only; the
continuous sites are moved by HMC, with the assignments held fixed.

.. [1] S. Geman and D. Geman, "Stochastic relaxation, Gibbs distributions, and the Bayesian
   restoration of images", IEEE Trans. Pattern Anal. Mach. Intell. 6, 1984.
"""

# %%
# Sixty measurements of two groups, a third of them in the second one.

import os

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist

import ppl
import samplers

rng = np.random.default_rng(0)
group = (rng.uniform(size=60) < 1 / 3).astype(int)
y = np.where(group == 1, 2.0, -1.0) + rng.normal(size=60)


def model(y):
    share = numpyro.sample("share", dist.Beta(2, 2))
    low = numpyro.sample("low", dist.Normal(0, 3))
    gap = numpyro.sample("gap", dist.HalfNormal(3))  # the second group is the higher one
    with numpyro.plate("row", len(y)):
        z = numpyro.sample("z", dist.Bernoulli(share))
        numpyro.sample("y", dist.Normal(low + gap * z, 1.0), obs=y)


# %%
# ``from_numpyro_mixed`` keeps the discrete site in the position, as integers. ``Gibbs`` takes a
# kernel for each block of continuous sites, tunes each of them on its own, and enumerates the rest.

smoke = os.environ.get("SMOKE") == "1"
sizes = {"num_warmup": 100, "num_samples": 100} if smoke else {}
target = ppl.from_numpyro_mixed(model, y)
kernel = samplers.Gibbs({"share": samplers.RandomWalk(), ("low", "gap"): samplers.HMC()})
draws = ppl.sample(kernel, target, rng_key=1, **sizes)
print(draws.summary(["share", "low", "gap"], round_to=2))

# %%
# The probability that a measurement is in the second group is the mean of its assignment.

probability = draws["z"].mean(axis=(0, 1))
print(f"{np.mean((probability > 0.5) == group):.0%} of the measurements are assigned rightly")

# %%
# In this model the assignments can also be summed out by hand, and NUTS does the rest.


def marginal(y):
    share = numpyro.sample("share", dist.Beta(2, 2))
    low = numpyro.sample("low", dist.Normal(0, 3))
    gap = numpyro.sample("gap", dist.HalfNormal(3))
    weights = dist.Categorical(probs=jnp.stack([1 - share, share]))
    parts = dist.Normal(jnp.stack([low, low + gap]), 1.0)
    with numpyro.plate("row", len(y)):
        numpyro.sample("y", dist.MixtureSameFamily(weights, parts), obs=y)


reference = ppl.sample(samplers.NUTS(), ppl.from_numpyro(marginal, y), rng_key=2, **sizes)
mean, known = draws["gap"].mean(), reference["gap"].mean()
print(f"mean of the gap: {mean:.2f} by Gibbs, {known:.2f} by NUTS on the marginal model")
