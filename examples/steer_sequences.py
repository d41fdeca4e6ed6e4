"""
Sequences steered to a property
===============================

A zinc finger holds on to DNA by positive charges. Masked diffusion has learned a family of these
proteins; charge was not mentioned. Can its draws be steered to more of it, without training again?
A reward on whole sequences is enough: it need not have a gradient.
"""

# %%
# The network is one of our own, the logits of a Potts model: what each place likes by itself, and
# what it likes next to each token that is not masked. It takes the tokens and nothing else.

import os
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import ppl
import samplers
from models.targets import zinc_finger

smoke = os.environ.get("SMOKE") == "1"


class Potts(eqx.Module):
    alone: jax.Array
    pairs: jax.Array

    def __init__(self, rng_key, length, num_tokens):
        self.alone = jnp.zeros((length, num_tokens))
        self.pairs = jnp.zeros((length, num_tokens, length, num_tokens))

    def __call__(self, tokens):
        seen = jax.nn.one_hot(tokens, self.alone.shape[1])  # no row for the mask
        return self.alone + jnp.einsum("it,itju->ju", seen, self.pairs)


# %%
# It learns from 145 members of the family, by guessing masked tokens.

family = zinc_finger.one_hots().argmax(-1).astype(np.int32)
training = samplers.MaskedDiffusion(
    network=Potts, num_tokens=20, num_updates=5 if smoke else 500, num_rows=64, learning_rate=1e-2
)
learned = ppl.sample(training, ppl.from_samples(family), num_samples=2048, progress=False)
prior, plain = learned.sampler.prior, learned["x"][0]

# %%
# The reward is the charge: lysine and arginine have one each, aspartate and glutamate take one off.

charges = np.array([{"K": 1, "R": 1, "D": -1, "E": -1}.get(c, 0) for c in zinc_finger.LETTERS])
strength = 0.4


def charge(tokens, charges):
    return jnp.sum(charges[tokens])


target = ppl.tilt(prior, charge, jnp.asarray(charges, float), strength=strength)

# %%
# Two ways to steer with weights, which draw from the tilted law itself and know its log Z, and one
# without. Each is cheap: a call of the network and a reward for each token, of each candidate.

n = 16 if smoke else 512
found = {"plain": (plain, None)}
for name, sampler in {
    "FK steering": samplers.MaskedFKSteering(num_particles=n),
    "nested SVDD": samplers.MaskedNestedSVDD(num_particles=n // 4, num_candidates=4),
    "SVDD": samplers.MaskedSVDD(num_particles=n // 4, num_candidates=4),
}.items():
    draws = ppl.sample(sampler, target, progress=False)
    weights = None if draws.log_weights is None else draws.log_weights[0]
    found[name] = (draws["x"][0], weights)
    known = draws.log_evidence
    log_z = "" if known is None else f", log Z {known.value:.2f} +- {known.std_error:.2f}"
    print(f"{name}: {draws.num_evaluations[1]} calls of the network{log_z}")

# %%
# What they have in charge, and whether they can still hold a zinc ion: two cysteines and two
# histidines where they belong.

figure, axis = plt.subplots(figsize=(6, 3.2), layout="constrained")
bins = np.arange(-8.5, 14.5)
for name, (tokens, log_weights) in found.items():
    w = np.ones(len(tokens)) if log_weights is None else np.exp(log_weights - log_weights.max())
    w = w / w.sum()
    total = charges[tokens].sum(1)
    holds = [tokens[:, i] == zinc_finger.LETTERS.index(c) for i, c in zinc_finger.LIGANDS.items()]
    zinc = np.all(holds, axis=0)
    axis.hist(total, bins, weights=w, histtype="step", label=name)
    print(f"{name:12} charge {w @ total:5.2f}, can hold zinc: {w @ zinc:.2f}")
axis.set_xlabel("charge")
axis.legend()
Path("out").mkdir(exist_ok=True)
plt.savefig("out/steer_sequences.svg")

# %%
# The tilt is mild enough for plain draws to know its log Z too, as the mean of their weights.

log_z = np.log(np.mean(np.exp(strength * charges[plain].sum(1))))
steered = ppl.sample(samplers.MaskedFKSteering(num_particles=n), target, rng_key=1, progress=False)
print(f"log Z: steered {steered.log_evidence.value:.2f}; known from plain draws {log_z:.2f}")
