"""
A language model without the letter e
=====================================

A reward says what is wanted of a sequence, but only at its end. Twisted sequential Monte Carlo
learns to tell early what will come of a prefix (after "th" there is mostly an e), steers the model
by it, and weighs what it draws, so that the answer is right however well it has learned.
"""

# %%
# The model: a small network that reads six letters and gives the next one, trained for a few
# seconds on eight sonnets of Shakespeare.

import os
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from jax import random

import ppl
import samplers
from models.texts import ALPHABET, sonnets, to_text, to_tokens

SMOKE = os.environ.get("SMOKE") == "1"
CONTEXT, LENGTH = 6, 32


class NextLetter(eqx.Module):
    embed: eqx.nn.Embedding
    hidden: eqx.nn.Linear
    out: eqx.nn.Linear

    def __init__(self, key, width=96):
        size, keys = len(ALPHABET), random.split(key, 3)
        self.embed = eqx.nn.Embedding(size, 12, key=keys[0])
        self.hidden = eqx.nn.Linear(12 * CONTEXT, width, key=keys[1])
        self.out = eqx.nn.Linear(width, size, key=keys[2])

    def __call__(self, letters):
        h = jax.vmap(self.embed)(letters).ravel()
        return self.out(jax.nn.gelu(self.hidden(h)))


# %%
# Training, by Optax.

text = jnp.asarray(to_tokens(sonnets()))
optimizer = optax.adamw(3e-3, weight_decay=0.1)


def loss_fn(net, letters):
    logits = jax.vmap(net)(letters[:, :-1])
    return optax.softmax_cross_entropy_with_integer_labels(logits, letters[:, -1]).mean()


@jax.jit
def train(net, rng_keys):
    def update(carry, key):
        net, state = carry
        first = random.randint(key, (256,), 0, len(text) - CONTEXT)
        loss, gradient = jax.value_and_grad(loss_fn)(
            net, text[first[:, None] + jnp.arange(CONTEXT + 1)]
        )
        updates, state = optimizer.update(gradient, state, net)
        return (optax.apply_updates(net, updates), state), loss

    (net, _), losses = jax.lax.scan(update, (net, optimizer.init(net)), rng_keys)
    return net, losses


net, losses = train(NextLetter(random.key(0)), random.split(random.key(1), 20 if SMOKE else 600))
print(f"loss: {losses[0]:.2f} nats a letter, then {losses[-1]:.2f}")

# %%
# As a target: rows of logits, and one row alone, as drawing asks for one at a time.


def next_row(net, tokens, t):
    padded = jnp.concatenate([jnp.zeros(CONTEXT, jnp.int32), tokens])
    return net(jax.lax.dynamic_slice(padded, (t,), (CONTEXT,)))


def all_rows(net, tokens):
    return jax.vmap(next_row, (None, None, 0))(net, tokens, jnp.arange(LENGTH))


model = ppl.SequenceModel(all_rows, net, LENGTH, row_fn=next_row)
for tokens in model.sample(random.key(2), 3):
    print(to_text(tokens))

# %%
# The reward: three nats less for each e.

E = ALPHABET.index("e")


def without(tokens, letter):
    return -jnp.sum(tokens == letter)


target = ppl.tilt(model, without, E, strength=3.0)

# %%
# Two ways to draw: from the model, with weights; and steered by twists. (Values, the mean rewards
# that can be hoped for, are a third: ``samplers.TwistedSMC(objective="value")``.)

runs = {
    "model": samplers.TwistedSMC(num_updates=0),
    "twists": samplers.TwistedSMC(
        num_updates=3 if SMOKE else 120, num_rollouts=128, learning_rate=5e-3
    ),
}
num_samples = 256 if SMOKE else 1024
draws = {
    name: ppl.sample(sampler, target, num_samples=num_samples, progress=False)
    for name, sampler in runs.items()
}
for name, drawn in draws.items():
    value, error = drawn.log_evidence[:2]
    print(f"{name}: log Z {value:.2f} +- {error:.2f}, weights worth "
          f"{ppl.weights.ess(drawn.log_weights[0]):.0f} of {num_samples} draws")  # fmt: skip
for tokens in draws["twists"].resample(0, 5)["x"][0]:
    print(to_text(tokens))

# %%
# The best of as many draws from the model do without an e as well; they are no draws of the target,
# which still writes like the model where it can.

plain = np.asarray(model.sample(random.key(3), num_samples))
best = plain[np.argsort((plain == E).sum(1))[: num_samples // 64]]
log_p = jax.vmap(model.log_density)
steered = draws["twists"].resample(1, num_samples)["x"][0]
bins = np.linspace(-90, -20, 36)
plt.figure(figsize=(6, 3), layout="constrained")
for name, tokens in {"model": plain, "best of 64": best, "twisted": steered}.items():
    plt.hist(np.asarray(log_p(tokens)), bins, density=True, histtype="step", label=name)
plt.xlabel("log-probability under the model")
plt.legend()
Path("out").mkdir(exist_ok=True)
plt.savefig("out/steer_a_language_model.svg")

# %%
# How good are the draws? The reward is at most 0, so that a draw of the model that is kept with
# probability exp(reward) is an exact draw of the target. With these, log Z is bounded from both
# sides, and so is the divergence of the draws from the target, in both directions.

many = np.asarray(model.sample(random.key(4), 2000 if SMOKE else 20_000))
phi = np.exp(-3.0 * (many == E).sum(1))
exact = many[np.random.default_rng(0).uniform(size=len(phi)) < phi][:64]
repeats = 8 if SMOKE else 48
bounds = ppl.diagnostics.log_evidence_bounds(
    draws["twists"].sampler, target, exact, num_repeats=repeats
)
print(f"twists: {bounds}")
unsteered = ppl.diagnostics.log_evidence_bounds(
    draws["model"].sampler, target, exact, num_repeats=repeats, log_z=bounds.log_z
)
print(f"model: {unsteered}")

# %%
# Log Z itself is known well enough from many draws of the model: it is the log mean of exp(reward).

error = phi.std() / phi.mean() / len(phi) ** 0.5
print(f"log Z between {bounds.lower.value:.2f} and {bounds.upper.value:.2f} by twists; "
      f"known {np.log(phi.mean()):.2f} +- {error:.2f}")  # fmt: skip
