"""A region of high density that one set of draws has visited and another has not.

A sampler that has missed a mode looks converged: its chains agree. Draws of another sampler that
has found the mode convict it, because the density there is known. The share is that of the finder's
draws y which lie

- farther from every draw x of the accused than ``FAR`` times the 99 % quantile of the distances
  between an x and the nearest x of another chain, and
- where the log-density is no lower than the 1 % quantile of log pi(x).

Positions are unconstrained, scaled by the standard deviations of x (those of y grow with the
distance between modes and would hide it). Null: for two sets of one
law the share is near 0 (the second factor is for that). A biased finder whose law is too wide is no
witness, as the density out there is low. Limits: distances concentrate in high dimension, so that
modes closer than about the distance of two draws are not told apart; a mode that is much narrower
than the accused's region may have high density and little mass, hence the share counts by the
finder's weight; a region neither has found leaves no trace.
"""

import numpy as np
from jaxtyping import Float

FAR = 2.0
MATERIAL = 0.02  # share from which on a region counts as missed
MAX_DRAWS = 1000


def missed_share(
    x: Float[np.ndarray, "chain n d"],
    log_density_x: Float[np.ndarray, "chain n"],
    y: Float[np.ndarray, "m d"],
    log_density_y: Float[np.ndarray, " m"],
) -> tuple[float, Float[np.ndarray, " d"]]:
    """Share of ``y`` in regions that ``x`` has missed, and the middle of them (NaN for none)."""
    nowhere = np.full(y.shape[1], np.nan)
    if len(x) < 2:
        half = x.shape[1] // 2
        x = x[:, : 2 * half].reshape(2, half, x.shape[2])
    scale = x.std(axis=(0, 1))
    scale = np.where(scale > 0, scale, 1.0)
    within = np.concatenate(
        [
            nearest(one / scale, np.concatenate([*x[:i], *x[i + 1 :]]) / scale)
            for i, one in enumerate(x)
        ]
    )
    flat = x.reshape(-1, x.shape[2])
    away = nearest(y / scale, flat / scale) > FAR * np.quantile(within, 0.99)
    high = log_density_y >= np.quantile(log_density_x, 0.01)
    found = away & high
    return float(found.mean()), np.median(y[found], axis=0) if found.any() else nowhere


def nearest(
    x: Float[np.ndarray, "n d"], y: Float[np.ndarray, "m d"], block: int = 256
) -> Float[np.ndarray, " n"]:
    """Distance of each ``x`` to the nearest ``y``."""
    middle = y.mean(axis=0)
    x, y = x - middle, y - middle
    squares = (y**2).sum(axis=1)
    parts = []
    for start in range(0, len(x), block):
        part = x[start : start + block]
        distances = (part**2).sum(axis=1)[:, None] + squares[None] - 2 * part @ y.T
        parts.append(distances.min(axis=1))
    return np.sqrt(np.maximum(np.concatenate(parts), 0.0))
