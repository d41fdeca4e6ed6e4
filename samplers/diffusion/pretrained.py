"""Priors that were trained elsewhere and ship with the library, as small tables of weights.

`digits_prior` is of the 8 x 8 digits of scikit-learn [1], grey values 0 to 16 scaled to [-1, 1]. It
saw three quarters of them, 1,348; ``docs/train_digits_prior.py`` trains it, and says how its draws
compare with the others. Weights are kept in half precision, without pickle.

References
----------
.. [1] Alpaydin and Kaynak, "Optical recognition of handwritten digits", UCI Machine Learning
   Repository, 1998, doi:10.24432/C50P49.
"""

from importlib.resources import files
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import random

from samplers.diffusion.losses import Preconditioned
from samplers.diffusion.paths import EDM
from samplers.diffusion.prior import DiffusionPrior
from samplers.networks import MLP

DIGITS: dict[str, Any] = {"width": 192, "depth": 3}
TEMPLATE = jax.ShapeDtypeStruct((8, 8), jnp.float32)


def digits_prior(**options: Any) -> DiffusionPrior:
    """Handwritten digits, 8 x 8 pixels in [-1, 1].

    Parameters
    ----------
    options
        ``sampler`` and ``density`` of `DiffusionPrior`.
    """
    with (files("samplers.diffusion") / "data" / "digits.npz").open("rb") as file:
        table = np.load(file, allow_pickle=False)
        weights = [jnp.asarray(table[name], jnp.float32) for name in table.files]
    return DiffusionPrior(EDM(), filled(_digits_denoiser(), weights), TEMPLATE, **options)


def _digits_denoiser() -> Preconditioned:
    """What the weights are filled into: shapes only."""

    def make(rng_key: Any) -> Preconditioned:
        network = MLP(rng_key, (8, 8), dtype=jnp.float32, **DIGITS)
        return Preconditioned(network, jnp.zeros((8, 8)), jnp.ones(()))

    return eqx.filter_eval_shape(make, random.key(0))


def filled(denoiser: Any, weights: list[Any]) -> Any:
    """The same with these weights, in the order of its leaves."""
    is_weight = lambda leaf: isinstance(leaf, jax.ShapeDtypeStruct)
    shapes, rest = eqx.partition(denoiser, is_weight)
    leaves, treedef = jax.tree.flatten(shapes)
    found, expected = [w.shape for w in weights], [leaf.shape for leaf in leaves]
    if found != expected:
        raise ValueError(f"weights have the shapes {found}; this network has {expected}")
    return eqx.combine(jax.tree.unflatten(treedef, weights), rest)
