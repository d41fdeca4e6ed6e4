"""
Does a sampler of strings find every mode as often as it should?
================================================================

Strings of bits are rewarded for being near one of some modes, exp(-Hamming distance). A chain that
changes a word at a time finds one mode, and stays. Particles that are tempered from chance to the
reward, and moved by that chain, keep their shares of all modes. A generative flow network whose
policy is a mixture learns to write strings from those that the chain has improved, and then draws
independent ones.
"""

# %%
# Words of four bits; the masses of the basins are known from strings that are drawn exactly.

import os

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import ppl
import samplers
from models.environments.bit_sequences import BitSequences, some_modes

strings = BitSequences(some_modes(num_modes=16, num_blocks=8), word=4)
log_z, _, masses = strings.truth(np.random.default_rng(0), 200_000)
smoke = os.environ.get("SMOKE") == "1"
num_draws, num_updates = (64, 10) if smoke else (4000, 450)

# %%
# Tempered particles. The reference writes each word with the same probability.

chain = samplers.SiteMetropolis(16)
uniform = ppl.SequenceModel(
    lambda logits, words: jnp.broadcast_to(logits, (16, 16)), jnp.zeros(16), 16
)
smc = samplers.TemperedSMC(num_draws, chain, reference=uniform, num_moves=16)
tempered = ppl.sample(smc, strings, rng_key=0, progress=False)

# %%
# The flow network. Every second update goes back to strings of a buffer, from which the chain
# makes 200 steps.

gflownet = samplers.GFlowNet(
    objective=samplers.VarGrad(),
    policy=samplers.MixturePolicy(num_components=48, spread=0.15),
    revisit=samplers.Revisit(kernel=chain, num_rounds=200, priority=samplers.ByReward(0)),
    num_updates=num_updates,
    learning_rate=0.03,
)
learned = ppl.sample(gflownet, strings, rng_key=0, num_samples=num_draws, progress=False)

# %%
# Basins of equal mass: how many draws fall into each, of the particles by their weights.

strings_of = {
    "tempered SMC": tempered.resample(jax.random.key(1), num_draws)["x"],
    "GFlowNet": learned["x"],
}
fig, ax = plt.subplots(figsize=(6, 3), layout="constrained")
for name, draws in strings_of.items():
    nearest, _ = strings.basins(np.asarray(draws).reshape(-1, 64))
    ax.plot(np.bincount(nearest, minlength=16) / num_draws, "o", label=name)
ax.plot(masses, "k_", markersize=12, label="known")
ax.set(xlabel="mode", ylabel="mass of its basin", ylim=(0, None))
ax.legend()

# %%
# The known value of log Z, and theirs.

for name, draws in {"tempered SMC": tempered, "GFlowNet": learned}.items():
    found = draws.log_evidence
    print(f"{name}: log Z {found.value:.3f} +- {found.std_error:.3f}, known {log_z:.3f}")
