"""
Protein-like sequences by walk-jump
===================================

Zinc fingers are protein domains of 23 amino acids; a curated family of them has 145 members. Are
there others like them? Sequences are isolated points, which no gradient connects. With noise they
are samples of one smooth law: a walk explores it, and a jump by a denoiser returns to sequences.
"""

# %%
# The family, as one-hot arrays. In each member two cysteines (C) and two histidines (H) hold a zinc
# ion. Nothing of this is told to the sampler.

import os
from pathlib import Path

import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import ppl
import samplers
from models.targets import zinc_finger

family = zinc_finger.one_hots()
print(*zinc_finger.sequences()[:3], sep="\n")

# %%
# Energy and denoiser are learned from the family; each draw is a walk from noise, and one jump.

smoke = os.environ.get("SMOKE") == "1"
walk_jump = samplers.WalkJump(num_updates=800, num_rows=64)
if smoke:
    walk_jump = samplers.WalkJump(num_updates=5, num_rows=8, num_steps=5)
draws = ppl.sample(walk_jump, ppl.from_samples(family), num_samples=256, progress=False)
made = draws["x"][0]
print("made:", *map(zinc_finger.letters, made[:5]), sep="\n")

# %%
# Are they copies? The share of places that agree with the nearest member says no: made sequences
# are about as far from the family as its members are from each other. Whether one of them folds
# and binds zinc, only a laboratory can tell.

agree = np.einsum("ilv,jlv->ij", made, family) / 23
among = np.einsum("ilv,jlv->ij", family, family) / 23 - np.eye(len(family))
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
bins = np.arange(24.5) / 23
left.hist(among.max(1), bins, density=True, color="0.7", label="family")
left.hist(agree.max(1), bins, density=True, histtype="step", label="made")
left.set_xlabel("share of places as in the nearest member")
left.legend()
right.plot(family.mean(0).max(1), "o", color="0.5", label="family")
right.plot(made.mean(0).max(1), "x", label="made")
right.set_xlabel("place")
right.set_ylabel("share of the most frequent amino acid")
Path("out").mkdir(exist_ok=True)
plt.savefig("out/sequences_by_walk_jump.svg")

# %%
# How far may such draws be off? Where all sequences can be listed, nothing has to be learned. Six
# places, two letters, and a density that likes equal neighbors: with a drawn jump a walk-jump sweep
# is exact; with the likeliest letters, as above, neighbors are equal too often.


def alike(x, strength):
    return strength * jnp.sum(x[1:] * x[:-1])


few = ppl.from_log_density(alike, jnp.zeros((6, 2), jnp.int32), 1.0)
start = np.eye(2, dtype=np.int32)[[0] * 6]
share = {}
for name, sweep in {
    "drawn": samplers.WalkJumpGibbs(sigma=0.7),
    "likeliest": samplers.WalkJumpGibbs(sigma=0.7, argmax=True),
}.items():
    size = {"num_warmup": 100, "num_samples": 50 if smoke else 2000}
    sweeps = ppl.sample(sweep, few, init=start, progress=False, **size)["x"]
    share[name] = (sweeps[..., 1:, :] * sweeps[..., :-1, :]).sum(-1).mean()
known = np.exp(1) / (1 + np.exp(1))
print(f"equal neighbors: drawn {share['drawn']:.3f}, likeliest {share['likeliest']:.3f}; "
      f"known {known:.3f}")  # fmt: skip

# %%
# The four amino acids that hold the zinc ion are where they belong:

places = [
    made[:, place, zinc_finger.LETTERS.index(letter)]
    for place, letter in zinc_finger.LIGANDS.items()
]
held = np.all(places, axis=0).mean()
print(f"made sequences that can hold zinc: {held:.2f}; known 1.00 of the family")
