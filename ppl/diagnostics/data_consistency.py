"""How well draws reproduce a linear observation: their misfit, in units of its noise.

    c(x) = |(y - A x) / noise_std|^2 / number of real numbers observed

For draws of the posterior its expectation over data is 1, since draw and data follow the law that
truth and data follow. Far below 1 the draws follow the noise; far above they miss the data. A
posterior mean lies below.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, PyTree

from ppl.linear_gaussian import LinearGaussian


def data_consistency(likelihood: LinearGaussian, draws: PyTree) -> Float[np.ndarray, " n"]:
    """``c`` of each of the draws, which are stacked along a leading axis."""
    likelihood.require_noise("data consistency")
    return np.asarray(_consistency(likelihood, jax.tree.map(jnp.asarray, draws)))


@eqx.filter_jit
def _consistency(likelihood: LinearGaussian, draws: PyTree) -> Any:
    return jax.lax.map(likelihood.misfit, draws) / likelihood.num_observed
