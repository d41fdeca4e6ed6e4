"""
Stochastic volatility: particles beside gradients
=================================================

How nervous was a market on a day? Returns of the euro in dollars through the crisis of 2008 tell it
in noise: their size is that of a hidden volatility, which wanders. The posterior has a volatility
for each day and three parameters that rule them. There are two ways to it: gradients on all of them
at once, or particles for the days and a random walk for the three.
"""

# %%
# The model ships with the library: as a NumPyro program, and as a state-space model whose path is
# the log-variance. A hundred days are enough here.

import os
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

import ppl
import samplers
from models.programs import stochastic_volatility as sv

smoke = os.environ.get("SMOKE") == "1"
days = slice(150, 250)
returns = sv.data()["returns"][days]

# %%
# With gradients: NUTS on the NumPyro program, 103 dimensions.

program = ppl.from_numpyro(sv.model, returns)
chains = ppl.sample(
    samplers.NUTS(target_acceptance=0.95), program, num_samples=100 if smoke else 1000,
    num_warmup=50 if smoke else 1000, progress=False,
)  # fmt: skip

# %%
# With particles: the prior of the parameters and a function that builds the state-space model at
# given ones. A filter of forty particles estimates the likelihood, without bias; that its estimate
# is noisy does no harm to what the chain draws. No gradient is taken.

target = ppl.StateSpacePosterior(sv.parameters, sv.state_space, returns)
particles = ppl.sample(
    samplers.ParticleMetropolis(num_particles=40), target, num_samples=200 if smoke else 4000,
    num_warmup=100 if smoke else 1000, progress=False,
)  # fmt: skip
print(f"proposals taken: {particles.stats['is_accepted'].mean():.2f}")

for name, draws in {"NUTS": chains, "particles": particles}.items():
    print(name)
    print(draws.summary(["mu", "phi", "sigma"], round_to=3))

# %%
# A third way alternates: ``Gibbs({"parameters": NUTS(), "path": ConditionalSMC()})`` moves the
# parameters given the path, and the path given them. It is exact as well, and slow where the path
# all but fixes its own parameters, as it does here.
#
# The volatility of each day, by particles, with what the other way says in dots.

volatility = np.exp(particles["x"] / 2)
low, middle, high = np.quantile(volatility, [0.05, 0.5, 0.95], axis=(0, 1))
dates = np.array(sv.coords["day"][days], "datetime64[D]")
figure, axes = plt.subplots(figsize=(7, 3))
axes.plot(dates, np.abs(returns), ".", color="0.7", label="size of the return, per cent")
axes.fill_between(dates, low, high, alpha=0.3)
axes.plot(dates, middle, label="volatility, with 90 %")
axes.plot(dates[::5], np.exp(np.median(chains["h"], (0, 1)) / 2)[::5], "k.", label="by NUTS")
axes.legend()
figure.autofmt_xdate()
figure.savefig(Path("stochastic_volatility.svg"))

# %%
# Do the two ways agree? Difference of the means over its Monte Carlo error.

for name in ("mu", "phi", "sigma"):
    ours, theirs = (draws.summary([name]).loc[name] for draws in (particles, chains))
    error = np.hypot(ours["mcse_mean"], theirs["mcse_mean"])
    print(f"{name}: {(ours['mean'] - theirs['mean']) / error:+.1f} standard errors apart, of 0")
