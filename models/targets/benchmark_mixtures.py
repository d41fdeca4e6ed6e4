"""The Gaussian mixtures that learned samplers are compared on, with the published constants.

==============  =================================================================  ==========
`gmm9`          means {-5, 0, 5}^2, variance 0.3, equal weights                    [1]
`gmm25`         means {-10, -5, 0, 5, 10}^2, variance 0.3, equal weights           [1]
`gmm40`         40 means, uniform on (-40, 40)^2, sd log(1 + e)                    [2, 3]
`gmm40_jax`     40 means, uniform on (-40, 40)^d, sd 1, d = 2 or 50                [4]
==============  =================================================================  ==========

Three tables of forty means go by one name. `gmm40` has those that PyTorch draws with seed 0;
`gmm40_jax` those that JAX drew with ``PRNGKey(0)`` when [4] was written. JAX draws others since its
flag ``jax_threefry_partitionable`` is on, so that a figure from newer code may be about
``JAX_MEANS_PARTITIONABLE``. Papers state log Z = 0, which is ``log_normalizer - d / 2 log(2 pi)``
here (see `GaussianMixture`).

References
----------
.. [1] Zhang and Chen, "Path integral sampler: a stochastic control approach for sampling", ICLR
   2022, arXiv:2111.15141. Nine modes; the 25 are of Sendera et al., arXiv:2402.05098.
.. [2] Midgley et al., "Flow annealed importance sampling bootstrap", ICLR 2023, arXiv:2208.01893.
.. [3] Akhound-Sadegh et al., "Iterated denoising energy matching for sampling from Boltzmann
   densities", ICML 2024, arXiv:2402.06121. In units of 1 / 50 of these.
.. [4] Blessing et al., "Beyond ELBOs: a large-scale evaluation of variational methods for
   sampling", ICML 2024, arXiv:2406.07423.
"""

import math
from pathlib import Path

import numpy as np

from models.targets.gaussian_mixture import GaussianMixture

with np.load(Path(__file__).parent / "data" / "gmm40.npz") as tables:
    TORCH_MEANS = tables["torch"]
    JAX_MEANS = tables["jax"]
    JAX_MEANS_PARTITIONABLE = tables["jax_partitionable"]
    JAX_MEANS_50 = tables["jax_50"]


def _grid(ticks: list[float]) -> GaussianMixture:
    means = np.stack(np.meshgrid(ticks, ticks, indexing="ij"), axis=-1).reshape(-1, 2)
    return GaussianMixture(means, math.sqrt(0.3))


def gmm9() -> GaussianMixture:
    """Nine modes on a grid, nine standard deviations apart."""
    return _grid([-5.0, 0.0, 5.0])


def gmm25() -> GaussianMixture:
    """Twenty-five modes on a grid, nine standard deviations apart."""
    return _grid([-10.0, -5.0, 0.0, 5.0, 10.0])


def gmm40() -> GaussianMixture:
    """Forty modes scattered on a square, the closest two 1.2 apart."""
    return GaussianMixture(TORCH_MEANS, math.log1p(math.e))


def gmm40_jax(num_dims: int = 2) -> GaussianMixture:
    """Forty modes scattered on a square, or on a cube of 50 dimensions.

    Raises
    ------
    ValueError
        For another number of dimensions.
    """
    tables = {2: JAX_MEANS, 50: JAX_MEANS_50}
    if num_dims not in tables:
        raise ValueError(
            f"the means of this mixture are published for d = 2 and d = 50; got {num_dims}"
        )
    return GaussianMixture(tables[num_dims], 1.0)
