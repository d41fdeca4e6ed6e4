"""
Bring your NumPyro model
========================

How does a NumPyro model become draws, a summary and a report? The model is that of the eight
schools [1]_: the effect of coaching on a test score, estimated in eight schools, each with its
standard error, partially pooled.

.. [1] D. B. Rubin, "Estimation in parallel randomized experiments", Journal of Educational
   Statistics 6, 1981.
"""

# %%
# The model is a plain NumPyro function. Data are its arguments; what it closes over would be
# compiled in as a constant.

import os
from pathlib import Path

import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpyro
import numpyro.distributions as dist

import ppl
import samplers


def eight_schools(y, sigma):
    mu = numpyro.sample("mu", dist.Normal(0, 5))
    tau = numpyro.sample("tau", dist.HalfCauchy(5))
    with numpyro.plate("school", len(y)):
        z = numpyro.sample("z", dist.Normal(0, 1))
        theta = numpyro.deterministic("theta", mu + tau * z)
        numpyro.sample("y", dist.Normal(theta, sigma), obs=y)


# %%
# ``with_coords`` gives the plate's entries names, which summary, report and ArviZ then show.

y = jnp.array([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])
sigma = jnp.array([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])
target = ppl.from_numpyro(eight_schools, y, sigma).with_coords({"school": list("ABCDEFGH")})
sizes = {"num_warmup": 200, "num_samples": 200} if os.environ.get("SMOKE") == "1" else {}
draws = ppl.sample(samplers.NUTS(), target, rng_key=0, **sizes)
print(draws)
print(draws.summary(["mu", "tau", "theta"]).to_string(float_format="{:.4g}".format))

# %%
# Prior, log likelihood and posterior predictive draws come along: ArviZ finds them in the tree,
# and the report uses them for its checks.

print(list(draws.to_arviz().children))
report = ppl.report(draws, Path("out") / "eight_schools.html")
print(f"report: {report}")

# %%
# Partial pooling: estimates (dots) and what the model makes of them (lines: 90 % intervals).

table = draws.summary("theta")
plt.figure(figsize=(6, 3), layout="constrained")
plt.plot(y, range(8), "o", label="estimate of the school alone")
plt.hlines(range(8), table["q5"], table["q95"])
plt.plot(table["mean"], range(8), "|", label="pooled")
plt.yticks(range(8), list("ABCDEFGH"))
plt.legend()
plt.savefig("out/eight_schools.svg")

# %%
# posteriordb's reference, ten long chains of Stan, has 4.41 as the mean of mu.

row = draws.summary("mu").loc["mu"]
print(f"mu: {row['mean']:.2f}, Monte Carlo error {row['mcse_mean']:.2f}; reference: 4.41")
