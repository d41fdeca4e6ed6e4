"""Mixtures of round Gaussians: what says one, checked, and its denoiser.

    D(y) = E[x | x + sigma eps = y] = sum_k r_k (s_k^2 y + sigma^2 m_k) / (s_k^2 + sigma^2)
    r_k ~ w_k N(y; m_k, (s_k^2 + sigma^2) I)

Each component pulls by its share of the position, and shrinks toward its mean.
"""

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


def denoised(
    means: Float[Array, "k d"],
    sds: Float[Array, " k"],
    log_shares: Float[Array, " k"],
    position: Float[Array, " d"],
    sigma: Any,
) -> Float[Array, " d"]:
    """D above, of one position at a level of noise, which may be 0."""
    # One product with a matrix gives the logits, one the weighted sums and what they are divided
    # by. Relative to the mean of all, squares stay small; they lose digits beyond some thousand
    # widths.
    center = jnp.exp(log_shares) @ means
    x, means, widths = position - center, means - center, sds**2
    total = widths + sigma**2
    features = jnp.append(x, x @ x)
    slopes = jnp.concatenate([means, jnp.full_like(widths, -0.5)[:, None]], 1) / total[:, None]
    heights = log_shares - x.size / 2 * jnp.log(total) - jnp.sum(means**2, axis=1) / (2 * total)
    logits = jnp.matmul(slopes, features, precision="highest") + heights
    shares = jnp.exp(logits - jnp.max(logits))
    pulls = jnp.stack([widths / total, jnp.ones_like(total)], axis=1)
    pulls = jnp.concatenate([means * (sigma**2 / total)[:, None], pulls], axis=1)
    sums = jnp.matmul(shares, pulls, precision="highest")
    return center + (sums[:-2] + sums[-2] * x) / sums[-1]
