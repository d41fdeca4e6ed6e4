"""
Judge your run
==============

When may draws be trusted? In 1798 Cavendish weighed the Earth: 29 measurements of its density, in
units of the density of water [1]_. The same posterior is sampled well and badly, and the
diagnostics are asked what they see of it. Each of them has limits, and says them.

.. [1] H. Cavendish, "Experiments to determine the density of the Earth", Philosophical Transactions
   of the Royal Society 88, 1798.
"""

# %%
# The model: one true density, one error of the balance.

import os
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import numpyro
import numpyro.distributions as dist

import ppl
import samplers

MEASURED = """
5.50 5.61 4.88 5.07 5.26 5.55 5.36 5.29 5.58 5.65 5.57 5.53 5.62 5.29 5.44
5.34 5.79 5.10 5.27 5.39 5.42 5.47 5.63 5.34 5.46 5.30 5.75 5.68 5.85
"""
y = np.array(MEASURED.split(), np.float32)


def model(y):
    density = numpyro.sample("density", dist.Normal(5, 2))
    error = numpyro.sample("error", dist.HalfNormal(1))
    with numpyro.plate("measurement", len(y)):
        numpyro.sample("y", dist.Normal(density, error), obs=y)


target = ppl.from_numpyro(model, y)

# %%
# Three runs: one as it should be; one that goes on from there without a Metropolis test and with a
# step that is too large, which mixes very well, in a wrong law; and one that starts far away and is
# stopped too early.

smoke = os.environ.get("SMOKE") == "1"
sizes = {"num_warmup": 200, "num_samples": 500} if smoke else {"num_samples": 2000}
far = {"density": np.float32(20.0), "error": np.float32(2.0)}
good = ppl.sample(samplers.NUTS(), target, rng_key=0, **sizes)
runs = {
    "NUTS": good,
    "ULA, large step": ppl.sample(
        samplers.ULA(step_size=0.0015), target, rng_key=1, init=good, num_samples=10_000
    ),
    "MALA, too early": ppl.sample(
        samplers.MALA(step_size=0.003), target, rng_key=0, init=far, num_warmup=0, num_samples=200
    ),
}

# %%
# A verdict in words, its reasons, and what to do. R-hat finds the run that has not arrived. It
# cannot find the biased one, whose chains agree: for that the draws are compared with the gradient
# of the target. ``ppl.report(draws, "report.html")`` shows the same with figures.

judge = ppl.diagnostics.convergence.judge
for name, draws in runs.items():
    verdict = judge(draws)
    print(f"{name}: {verdict.status}. {verdict.headline}")
    for reason, advice in zip(verdict.reasons[:2], verdict.advice[:2], strict=False):
        print(f"  - {reason}\n    {advice}")

# %%
# The Stein test by itself: it needs no second run, only the target. What it cannot see is a mode
# that no draw has found.

stein = ppl.diagnostics.stein.stein_test
for name in ("NUTS", "ULA, large step"):
    test = stein(runs[name])
    print(f"{name}: Stein discrepancy {test.discrepancy:.3f}, p = {test.p_value:.3f}")

# %%
# Where there is a second run, a classifier is asked to tell the two apart: 1/2 is chance.

test = ppl.diagnostics.two_sample.classifier_test(runs["NUTS"], runs["ULA, large step"])
print(f"a classifier is right in {test.accuracy:.1%} of the draws, p = {test.p_value:.3f}")

# %%
# Draws that can be trusted may be asked about the model. Does the answer lean on the prior? Does
# one measurement decide it (k-hat above 0.7)?

print(ppl.diagnostics.sensitivity.power_scaling(good).round(3).to_string())
left_out = ppl.loo(good)
worst = int(np.argmax(left_out.pareto_k.to_numpy()))
print(f"largest k-hat {float(left_out.pareto_k[worst]):.2f}, of the measurement {y[worst]:.2f}")

# %%
# What the two runs say about the Earth: the large step widens the posterior.

plt.figure(figsize=(6, 3), layout="constrained")
for name in ("NUTS", "ULA, large step"):
    plt.hist(runs[name]["density"].ravel(), bins=60, density=True, histtype="step", label=name)
plt.axvline(5.513, color="k", linewidth=1, label="known today")
plt.xlabel("density of the Earth (water = 1)")
plt.legend()
Path("out").mkdir(exist_ok=True)
plt.savefig("out/judge_your_run.svg")

# %%
mean, sd = good["density"].mean(), good["density"].std()
print(f"density of the Earth: {mean:.2f} +- {sd:.2f}; known today: 5.51")
