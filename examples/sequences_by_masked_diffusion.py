"""
Protein-like sequences by masked diffusion
==========================================

Masked diffusion learns a law of sequences by guessing tokens that are hidden, any of them from any
others. Its draws begin at masks and are revealed place by place. How many calls of the network does
a draw need? And what does the law say of sequences that it has not seen?
"""

# %%
# Zinc fingers are protein domains of 23 amino acids; a curated family has 145 members. Tokens are
# amino acids, and 25 members are kept back. What each place holds, by itself, is the thing to beat.

import os
from functools import partial
from pathlib import Path

import jax
import matplotlib.pyplot as plt
import numpy as np
from jax import random

import ppl
import samplers
from models.targets import zinc_finger

smoke = os.environ.get("SMOKE") == "1"
tokens = np.random.default_rng(0).permutation(zinc_finger.one_hots().argmax(-1).astype(np.int32))
held_out, family = tokens[:25], tokens[25:]
shares = (np.eye(20)[family].sum(0) + 0.5) / (len(family) + 10)
print(f"bound by places: {-np.log(shares[np.arange(23), held_out]).sum(1).mean():.1f} nats")

# %%
# The network is a small transformer of the tokens alone, without a time. What it says of the
# members kept back is a bound: the mean over orders in which a sequence may be revealed.

network = partial(samplers.MaskedTransformer, width=32, depth=1)
training = samplers.MaskedDiffusion(
    network=network, num_tokens=20, num_updates=5 if smoke else 250, num_rows=64
)
learned = ppl.sample(training, ppl.from_samples(family), num_samples=256, progress=False)
prior = learned.sampler.prior
bound = jax.jit(jax.vmap(lambda key, row: prior.log_density_bound(key, row, 4)))
worth = -np.asarray(bound(random.split(random.key(0), 25), held_out))
print(f"bound by masked diffusion: {worth.mean():.1f} nats")
print(*("".join(zinc_finger.LETTERS[i] for i in row) for row in learned["x"][0][:3]), sep="\n")

# %%
# A grid of times has steps in which nothing is revealed. They need no call, since the network does
# not look at the time: what it said last still holds. The first-hitting sampler goes from one
# reveal to the next, a call each. Fewer calls than tokens are another law, whose tokens of one call
# do not know of each other.

calls = {}
for name, sampler in {
    "grid of 512 times": samplers.MaskedAncestral(num_steps=512, cached=False),
    "the same, cached": samplers.MaskedAncestral(num_steps=512),
    "first-hitting": samplers.FirstHitting(),
    "four tokens a call": samplers.FirstHitting(tokens_per_call=4),
}.items():
    n = 2 if smoke else 256
    draws = ppl.sample(sampler, prior, num_samples=n, progress=False)
    zinc = [draws["x"][0][:, i] == zinc_finger.LETTERS.index(c)
            for i, c in zinc_finger.LIGANDS.items()]  # fmt: skip
    calls[name] = draws.num_evaluations[1] / 256
    print(f"{name:18}  {calls[name]:5.1f} calls a draw, can hold zinc: "
          f"{np.all(zinc, axis=0).mean():.2f}")  # fmt: skip

# %%
# Of a zinc finger only the four places that hold the ion may be known. The law given these fills in
# the others, a call for each: what was known is seen by all of them.

known = np.full(23, 20)  # 20 is the mask
for i, c in zinc_finger.LIGANDS.items():
    known[i] = zinc_finger.LETTERS.index(c)
filled = ppl.sample(
    samplers.FirstHitting(), prior.given(known), num_samples=2 if smoke else 256, progress=False
)
print(f"{filled.num_evaluations[1] / 256:.0f} calls a draw; for example")
print(*("".join(zinc_finger.LETTERS[i] for i in row) for row in filled["x"][0][:3]), sep="\n")

# %%
# The picture: calls of the network for a draw, and what each place holds.

figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
left.barh(list(calls), list(calls.values()), color="0.6")
left.set_xscale("log")
left.set_xlabel("calls of the network a draw")
made = np.eye(20)[learned["x"][0]].mean(0)
right.plot(np.eye(20)[family].mean(0).max(1), "o", color="0.5", label="family")
right.plot(made.max(1), "x", label="made")
right.set_xlabel("place")
right.set_ylabel("share of the most frequent amino acid")
right.legend()
Path("out").mkdir(exist_ok=True)
plt.savefig("out/sequences_by_masked_diffusion.svg")
print(f"calls of a first-hitting draw: {calls['first-hitting']:.0f}; known 23, one a token")
