"""Priors that were trained elsewhere and ship with the library, as small tables of weights.

`digits_prior` is of the 8 x 8 digits of scikit-learn [1], grey values 0 to 16 scaled to [-1, 1]. It
saw three quarters of them, 1,348; ``docs/train_digits_prior.py`` trains it, and says how its draws
compare with the others. `crops_prior` is of 32 x 32 crops of the photographs that come with
scikit-image [2], in grey and at half their resolution, of which it saw the left three quarters;
``docs/train_crops_prior.py`` trains and judges it. Weights are kept in half precision, without
pickle.

References
----------
.. [1] Alpaydin and Kaynak, "Optical recognition of handwritten digits", UCI Machine Learning
   Repository, 1998, doi:10.24432/C50P49.
.. [2] van der Walt et al., "scikit-image: image processing in Python", PeerJ 2, 2014,
   doi:10.7717/peerj.453.
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
from samplers.networks import MLP, UNet

DIGITS: dict[str, Any] = {"width": 192, "depth": 3}
CROPS: dict[str, Any] = {"channels": (24, 48), "patch": 2}


def digits_prior(**options: Any) -> DiffusionPrior:
    """Handwritten digits, 8 x 8 pixels in [-1, 1].

    Parameters
    ----------
    options
        ``sampler`` and ``density`` of `DiffusionPrior`.
    """
    return _loaded("digits.npz", MLP, (8, 8), DIGITS, options)


def crops_prior(**options: Any) -> DiffusionPrior:
    """Crops of photographs, 32 x 32 pixels in grey from -1, black, to 1, white.

    Parameters
    ----------
    options
        ``sampler`` and ``density`` of `DiffusionPrior`.
    """
    return _loaded("crops.npz", UNet, (32, 32), CROPS, options)


def _loaded(
    name: str, network: Any, shape: tuple[int, ...], sizes: dict[str, Any], options: dict[str, Any]
) -> DiffusionPrior:
    with (files("samplers.diffusion") / "data" / name).open("rb") as file:
        table = np.load(file, allow_pickle=False)
        weights = [jnp.asarray(table[key], jnp.float32) for key in table.files]
    template = jax.ShapeDtypeStruct(shape, jnp.float32)
    return DiffusionPrior(
        EDM(), filled(denoiser(network, shape, sizes), weights), template, **options
    )


def denoiser(network: Any, shape: tuple[int, ...], sizes: dict[str, Any]) -> Preconditioned:
    """What the weights are filled into: shapes only."""

    def make(rng_key: Any) -> Preconditioned:
        made = network(rng_key, shape, dtype=jnp.float32, **sizes)
        return Preconditioned(made, jnp.zeros(shape), jnp.ones(()))

    return eqx.filter_eval_shape(make, random.key(0))


def filled(empty: Any, weights: list[Any]) -> Any:
    """The same with these weights, in the order of its leaves."""
    is_weight = lambda leaf: isinstance(leaf, jax.ShapeDtypeStruct)
    shapes, rest = eqx.partition(empty, is_weight)
    leaves, treedef = jax.tree.flatten(shapes)
    found, expected = [w.shape for w in weights], [leaf.shape for leaf in leaves]
    if found != expected:
        raise ValueError(f"weights have the shapes {found}; this network has {expected}")
    return eqx.combine(jax.tree.unflatten(treedef, weights), rest)
