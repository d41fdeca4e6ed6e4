"""
Sequences from a language model, under a reward
===============================================

A model writes sequences token by token; a reward says which ones are wanted. Their product is a law
that nothing draws from directly, because a reward is known at the end only. Metropolis-Hastings
keeps a prefix, lets the model write the rest anew, and compares rewards.
"""

# %%
# The model: a Markov chain over the letters a, b, c that stops with probability 0.2 after each.

import os
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import ppl
import samplers

letters, end, length = "abc", 3, 13
follows = np.array([[0.6, 0.1, 0.1, 0.2], [0.1, 0.6, 0.1, 0.2], [0.1, 0.1, 0.6, 0.2]])
start = np.array([[1 / 3, 1 / 3, 1 / 3, 0]])
with np.errstate(divide="ignore"):
    table = np.log(np.concatenate([start, follows, np.full((1, 4), 0.25)]))


def next_letter(table, tokens):
    """Row t: logits of letter t given letter t - 1; row 0 of the table begins a sequence."""
    before = jnp.concatenate([jnp.zeros(1, jnp.int32), tokens[:-1] + 1])
    return table[before]


model = ppl.SequenceModel(next_letter, table, length, end_token=end)

# %%
# The reward: half a nat for each letter b.

target = ppl.tilt(model, lambda tokens: jnp.sum(tokens == 1), strength=0.5)
num_samples = 200 if os.environ.get("SMOKE") == "1" else 5000
draws = ppl.sample(
    samplers.SequenceMetropolis(), target, num_chains=16, num_warmup=200, num_samples=num_samples,
    progress=False,
)  # fmt: skip
for tokens in draws["x"][:4, -1]:
    print("".join((letters + ".")[i] for i in tokens))

# %%
# How many letters b? The mean is known here: weigh every step by its reward, and sum over all
# sequences from the last place to the first (a forward-backward recursion).

gain = np.array([1, np.exp(0.5), 1])
ends, letters_left = np.ones(3), np.zeros(3)
for _ in range(length - 2):
    step = follows[:, :3] * gain
    letters_left = (step * (letters_left + np.eye(3)[1] * ends)).sum(1)
    ends = 0.2 + step @ ends
first = gain / 3
known = first @ (letters_left + np.eye(3)[1] * ends) / (first @ ends)

# %%
# Without the reward the model writes fewer of them.

count = (draws["x"] == 1).sum(2)
plain = (np.asarray(model.sample(jax.random.key(0), 20_000)) == 1).sum(1)
bins = np.arange(length + 1) - 0.5
plt.figure(figsize=(6, 3), layout="constrained")
plt.hist(plain, bins, density=True, color="0.7", label="model")
plt.hist(count.ravel(), bins, density=True, histtype="step", label="under the reward")
plt.xlabel("letters b in a sequence")
plt.legend()
Path("out").mkdir(exist_ok=True)
plt.savefig("out/sequences_by_metropolis.svg")
print(f"letters b: {plain.mean():.2f} by the model, {count.mean():.2f} rewarded; known {known:.2f}")
