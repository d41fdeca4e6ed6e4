"""Logistic regression of tumor diagnoses on thirty measured features, d = 31.

    y_n ~ Bernoulli(logit = intercept + x_n . beta),   intercept, beta_k ~ Normal(0, 1)

The features are standardized (mean 0, variance 1 over the 569 tumors) and strongly correlated.
``y`` is 1 for a benign tumor, as scikit-learn has it.

Data: the breast cancer data of scikit-learn (BSD-3), a copy of "Breast Cancer Wisconsin
(Diagnostic)" of the UCI machine learning repository (CC BY 4.0), doi 10.24432/C5DW2B.

References
----------
.. [1] W. N. Street, W. H. Wolberg and O. L. Mangasarian, "Nuclear feature extraction for breast
   tumor diagnosis", SPIE 1905, 1993.
"""

import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from jax.typing import ArrayLike
from jaxtyping import Int, Num

from models.programs.read import read

MEASURES = [
    "radius",
    "texture",
    "perimeter",
    "area",
    "smoothness",
    "compactness",
    "concavity",
    "concave points",
    "symmetry",
    "fractal dimension",
]

dims = {"beta": ["feature"]}
coords = {
    "feature": [
        *(f"mean {measure}" for measure in MEASURES),
        *(f"{measure} error" for measure in MEASURES),
        *(f"worst {measure}" for measure in MEASURES),
    ]
}


def model(X: Num[ArrayLike, "tumor feature"], y: Int[ArrayLike, " tumor"]) -> None:
    """Diagnoses ``y`` (0 or 1) given the N x D matrix ``X`` of standardized features."""
    X = jnp.asarray(X, float)
    intercept = numpyro.sample("intercept", dist.Normal(0, 1))
    beta = numpyro.sample("beta", dist.Normal(0, 1).expand([X.shape[1]]).to_event(1))
    with numpyro.plate("tumor", len(X)):
        numpyro.sample("y", dist.Bernoulli(logits=intercept + X @ beta), obs=y)


def data() -> dict:
    """Return the standardized features and the diagnoses of 569 tumors."""
    return read("breast_cancer.npz")
