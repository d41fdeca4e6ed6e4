"""
Approximate, then correct: Laplace and Pathfinder with importance weights
=========================================================================

A Gaussian approximation of a posterior costs a few hundred gradients where NUTS [1]_ takes tens of
thousands. How wrong is it? Its draws carry importance weights: they correct the answer as far as
they can, estimate the evidence, and their Pareto k-hat [2]_ says whether to believe either. The
data are measurements of tumors, benign or malignant, and the model is a logistic regression.

.. [1] M. D. Hoffman and A. Gelman, "The No-U-Turn Sampler", JMLR 15, 2014.
.. [2] A. Vehtari, D. Simpson, A. Gelman, Y. Yao and J. Gabry, "Pareto smoothed importance
   sampling", JMLR 25, 2024.
"""

# %%
# Ten measurements of each tumor, standardized; coefficients with a standard normal prior.

import os

import numpy as np

import ppl
import samplers
from models.programs import breast_cancer

data = breast_cancer.data()
target = ppl.from_numpyro(breast_cancer.model, X=data["X"][:, :10], y=data["y"])

# %%
# The mode alone is no draw: it says nothing of the spread. Laplace puts a Gaussian there;
# Pathfinder looks for the best Gaussian on the way to it, from several starts. NUTS gives the
# reference.

smoke = os.environ.get("SMOKE") == "1"
short = {"num_warmup": 150, "num_samples": 150} if smoke else {}
draws = {
    "MAP": ppl.sample(samplers.MAP(), target, rng_key=1),
    "Laplace": ppl.sample(samplers.Laplace(), target, rng_key=2, num_samples=4000),
    "Pathfinder": ppl.sample(samplers.Pathfinder(), target, rng_key=3, num_samples=4000),
    "NUTS": ppl.sample(samplers.NUTS(), target, rng_key=4, **short),
}

# %%
# What each of them says of one coefficient, and what it cost. ``summary`` weighs draws that have
# weights and adds their k-hat: below 0.7 the correction can be trusted.

for name, each in draws.items():
    row = each.summary(["beta"]).iloc[0]
    khat = f", k-hat {row['khat']:.2f}" if "khat" in row else ""
    print(
        f"{name:>10}: beta[0] {row['mean']:6.3f} +- {row['sd']:.3f}{khat}; "
        f"{each.num_evaluations[1]} gradients"
    )

# %%
# Without the weights Laplace is as wrong as its Gaussian; ``resample`` turns weighted draws into
# plain ones for whatever cannot use weights.

plain = draws["Laplace"]["beta"][0, :, 0].std()
resampled = draws["Laplace"].resample(5, 4000)["beta"][0, :, 0].std()
truth = draws["NUTS"]["beta"][..., 0].std()
print(f"sd of beta[0]: {plain:.3f} without weights, {resampled:.3f} with, {truth:.3f} by NUTS")

# %%
# Two ways to the same evidence.

one, two = (draws[name].log_evidence for name in ("Laplace", "Pathfinder"))
print(
    f"log evidence {one.value:.2f} by Laplace, {two.value:.2f} by Pathfinder; apart by "
    f"{abs(one.value - two.value):.2f}, error {np.hypot(one.std_error, two.std_error):.2f}"
)
