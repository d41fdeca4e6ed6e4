"""
Resume a long run
=================

What happens to a run that is killed? With a checkpoint directory it goes on where it was, and
gives the draws of the run that was never interrupted, to the bit. The same directory extends a run
that turns out to be too short.
"""

# %%
# Any target and any sampler that keeps a state; here a regression on scikit-learn's breast-cancer
# data, which comes with the library.

import os
import tempfile
from pathlib import Path

import numpy as np

import ppl
import samplers
from models.programs import breast_cancer

target = ppl.from_numpyro(breast_cancer.model, **breast_cancer.data())
folder = Path(tempfile.mkdtemp()) / "run"
num_samples = 200 if os.environ.get("SMOKE") == "1" else 1000
sizes = {"num_chains": 2, "num_warmup": 200}

# %%
# A run that ends early stands for one that is killed: ``until`` is asked after 100, 150, 225, ...
# draws. Ctrl-C returns the draws so far in the same way; after ``kill -9`` or a power cut,
# ``ppl.load(folder)`` reads what had been drawn.

half = ppl.sample(
    samplers.NUTS(), target, rng_key=0, num_samples=num_samples, checkpoint=folder,
    until=lambda draws: True, **sizes,
)  # fmt: skip
print(f"{half.num_samples} draws in each chain, stopped: {half.run.stopped}")
print(f"on disk: {ppl.load(folder).num_samples}")

# %%
# The same call goes on from the directory. Another target, sampler or key would be refused.

whole = ppl.sample(
    samplers.NUTS(), target, rng_key=0, num_samples=num_samples, checkpoint=folder, **sizes
)
print(f"{whole.num_samples} draws in each chain, stopped: {whole.run.stopped}")

# %%
# The run that was never interrupted has the same draws.

straight = ppl.sample(samplers.NUTS(), target, rng_key=0, num_samples=num_samples, **sizes)
difference = max(np.abs(whole[name] - straight[name]).max() for name in whole)
print(f"largest difference from the uninterrupted run: {difference}; known: 0")
