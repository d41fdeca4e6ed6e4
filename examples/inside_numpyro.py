"""
A kernel inside NumPyro
=======================

A program that is written around ``numpyro.infer.MCMC`` need not be rewritten to use another
sampler: a Markov kernel of this library takes the place of NumPyro's own. Rutherford and Geiger
counted alpha particles, 10,097 of them in 2,608 intervals of an eighth of a minute [1]_.

.. [1] E. Rutherford, H. Geiger, "The probability variations in the distribution of alpha
   particles", Philosophical Magazine 20, 1910.
"""

# %%
# Model and loop are NumPyro's; only the kernel is ours. Warm-up is run by this library, tuned over
# all chains together.

import os

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.infer import MCMC

import ppl
import samplers

intervals = np.array([57, 203, 383, 525, 532, 408, 273, 139, 45, 27, 10, 4, 0, 1, 1])
counts = np.repeat(np.arange(15), intervals)


def model(counts):
    rate = numpyro.sample("rate", dist.Gamma(1.0, 0.1))
    numpyro.deterministic("per_minute", 8 * rate)
    numpyro.sample("counts", dist.Poisson(rate), obs=counts)


num_samples = 300 if os.environ.get("SMOKE") == "1" else 2000
mcmc = MCMC(
    ppl.adapters.NumPyroKernel(samplers.MALA(), model),
    num_warmup=300, num_samples=num_samples, num_chains=4, chain_method="vectorized",
    progress_bar=False,
)  # fmt: skip
mcmc.run(jax.random.key(0), jnp.asarray(counts))
mcmc.print_summary()

# %%
# The other way round: an algorithm that you have built with BlackJAX runs here, with draws, report
# and verdict like any other. Its density comes from the target. It has no warm-up, so it is told
# its step size, and starts where NumPyro's run ended (a position is the log of the rate).

import blackjax  # noqa: E402

kernel = ppl.adapters.BlackJAX(
    lambda log_density, step_size: blackjax.barker(log_density, step_size), step_size=0.02
)
target = ppl.from_numpyro(model, jnp.asarray(counts))
draws = ppl.sample(
    kernel, target, rng_key=0, init=mcmc.last_state.z, num_warmup=100, num_samples=2 * num_samples
)
print(draws.summary(round_to=3).to_string())

# %%
# The posterior is known: Gamma(1 + 10097, 0.1 + 2608).

known = (1 + counts.sum()) / (0.1 + len(counts))
found = float(mcmc.get_samples()["rate"].mean())
print(f"rate: {found:.3f} in NumPyro's loop, {draws['rate'].mean():.3f} here; known: {known:.3f}")
