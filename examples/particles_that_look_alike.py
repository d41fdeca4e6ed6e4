"""
What does a sampler gain by knowing that particles look alike?
==============================================================

Four particles on a plane, whose distances have two preferred values: the energy stays what it is
when the cloud is turned, reflected, or its particles change places, so that each shape comes in
infinitely many copies. A perceptron has to learn each of them; an equivariant network [1]_ has the
symmetries in its form, and learns the shapes. Both are the drift of the same sampler, adjoint
sampling [2]_, with as many updates.

.. [1] V. G. Satorras, E. Hoogeboom and M. Welling, "E(n) equivariant graph neural networks", ICML
   2021, arXiv:2102.09844.
.. [2] A. Havens et al., "Adjoint sampling", ICML 2025, arXiv:2504.11713.
"""

# %%
# The sampler moves coordinates of the space where the mean of the particles is zero; draws come
# back as particles.

import os
from functools import partial

import matplotlib.pyplot as plt
import numpy as np
import numpyro.distributions as dist

import ppl
import samplers
from models.targets.particles import DoubleWellParticles

target = DoubleWellParticles()
smoke = os.environ.get("SMOKE") == "1"
num_updates, num_draws = (2, 64) if smoke else (800, 2048)
size = {"width": 8, "depth": 1} if smoke else {"width": 32, "depth": 2}

# %%
# A network is a function that makes one for a shape.

networks = {
    "perceptron": partial(samplers.MLP, **(size | {"width": 2 * size["width"]})),
    "equivariant": partial(samplers.EGNN, num_particles=4, num_space=2, **size),
}
draws = {}
for name, network in networks.items():
    sampler = samplers.AdjointSampling(
        scale=3.0, num_steps=3 if smoke else 30, num_updates=num_updates, network=network
    )
    draws[name] = ppl.sample(sampler, target, rng_key=1, num_samples=num_draws)

# %%
# Weights correct what either has not learned, at the price of draws: the share of them that the
# weights leave.

for name, each in draws.items():
    share = ppl.weights.ess(each.log_weights[0]) / num_draws
    print(f"{name:>11}: effective share {share:.3f}, log Z {each.log_evidence.value:.2f}")

# %%
# Distances between particles, of draws without their weights, beside those of tempered particles.

broad = dist.Normal(0, 3.0).expand(target.template.shape).to_event()
smc = samplers.TemperedSMC(64 if smoke else 1024, reference=broad)
draws["tempered"] = ppl.sample(smc, target, rng_key=2)
pairs = np.triu_indices(4, 1)
figure, axis = plt.subplots(figsize=(5, 3))
for name, each in draws.items():
    clouds = np.asarray(each["x"]).reshape(-1, 4, 2)
    apart = np.linalg.norm(clouds[:, :, None] - clouds[:, None], axis=-1)[:, *pairs]
    axis.hist(apart.ravel(), np.linspace(0, 9, 60), density=True, histtype="step", label=name)
axis.set(xlabel="distance of two particles", ylabel="density")
figure.legend(loc="outside upper center", ncols=3)
plt.show()

# %%
# Judged by log Z, of which tempered particles give another estimate.

truth = draws["tempered"].log_evidence.value
print(f"log Z {draws['equivariant'].log_evidence.value:.2f}, by tempering {truth:.2f}")
