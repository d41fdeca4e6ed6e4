"""Mixtures of round Gaussians: what says one, checked."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


def mixture(
    means: Any, sds: Any, weights: Any
) -> tuple[Float[Array, "k d"], Float[Array, " k"], Float[Array, " k"]]:
    """Means, standard deviations and log-shares.

    Parameters
    ----------
    means
        One row for each component, (components, d).
    sds
        Standard deviations, one for each component or one for all.
    weights
        Shares of the components, which are normalized; None for equal ones.

    Raises
    ------
    ValueError
        For means that are no table, standard deviations or weights that are not positive, or
        numbers of them that differ.
    """
    table = np.asarray(means, np.float64)
    if table.ndim != 2:
        raise ValueError(f"means have the shape (components, d); got {table.shape}")
    shares = np.ones(len(table)) if weights is None else np.asarray(weights, np.float64)
    widths = np.broadcast_to(np.asarray(sds, np.float64), np.shape(sds) or (len(table),))
    for name, values in (("sds", widths), ("weights", shares)):
        if values.shape != (len(table),) or not np.all(values > 0):
            raise ValueError(
                f"{name} are {len(table)} positive numbers, one a component; got {values}"
            )
    array = lambda x: jnp.asarray(x, float)
    return array(table), array(widths), array(np.log(shares / shares.sum()))
