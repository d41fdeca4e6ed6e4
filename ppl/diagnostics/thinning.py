"""Thin chains until what is left counts as independent, for tests whose null needs that.

    step = ceil(draws / ESS),   ESS the smallest of those of every mean and every variance

A chain thinned to its effective number still has some correlation between neighbors (0.14 for an
autoregression, whatever its own), less beyond. Permutation tests therefore take twice the step,
which leaves 0.02.
"""

import math
from typing import Any

import numpy as np
from jaxtyping import Float

from ppl.diagnostics.rhat_ess import ess_mean
from ppl.diagnostics.table import scalars
from ppl.draws import Draws


def effective_draws(x: Float[np.ndarray, "chain draw d"]) -> float:
    """Smallest effective number of draws, over means, variances and the squared radius.

    Variances count because antithetic chains have better means than independent draws. Scalars
    that do not vary are left out.
    """
    sd = x.std(axis=(0, 1))
    z = (x - x.mean(axis=(0, 1))) / np.where(sd > 0, sd, 1.0)
    features = np.concatenate([z, z**2, (z**2).sum(axis=2, keepdims=True)], axis=2)
    sizes = ess_mean(features)
    # A column may be constant, or too short to say.
    smallest = float(np.nanmin(sizes)) if np.isfinite(sizes).any() else math.inf
    return min(smallest, float(x.shape[0] * x.shape[1]))


def every(x: Float[np.ndarray, "chain draw d"], step: int) -> slice:
    """Slice of the draw axis that keeps every ``step``-th, the last one included."""
    return slice((x.shape[1] - 1) % step, None, step)


def independent_rows(x: Any, what: str, needed: int) -> tuple[list[str], Float[np.ndarray, "n d"]]:
    """Labels and nearly independent rows of draws.

    Parameters
    ----------
    x
        ``(n, d)``: rows that are independent already. ``(chain, draw, d)``: chains, thinned to
        half their effective number. `Draws`: their scalars, chains thinned, others as they are.
    what
        Name of the test, for messages.
    needed
        Rows it needs.

    Raises
    ------
    ValueError
        If too few are left, draws have weights or were resampled, or are not finite.
    """
    chains, labels = None, []
    if isinstance(x, Draws):
        if x.log_weights is not None or x.run.kind == "resampled":
            raise ValueError(
                f"the {what} takes draws of equal weight that are no copies of each other; these "
                + ("have log weights" if x.log_weights is not None else "were resampled")
            )
        labels, rows = scalars(x)
        chains = rows if x.run.kind == "markov" else None
        rows = rows.reshape(-1, rows.shape[2])
    else:
        rows = np.asarray(x, np.float64)
        if rows.ndim not in (2, 3):
            raise ValueError(
                f"the {what} takes draws of shape (n, d), or (chain, draw, d); got {rows.shape}"
            )
        if rows.ndim == 3:
            chains, rows = rows, rows.reshape(-1, rows.shape[2])
    if not np.isfinite(rows).all():
        raise ValueError(f"the {what} needs finite draws")
    if chains is not None and len(rows) >= needed:
        effective = effective_draws(chains)
        step = max(1, math.ceil(2 * len(rows) / max(effective, 1e-300)))
        if effective >= len(rows):
            step = 1
        rows = chains[:, every(chains, min(step, chains.shape[1]))].reshape(-1, rows.shape[1])
    if len(rows) < needed:
        left = " nearly independent" if chains is not None else ""
        raise ValueError(
            f"the {what} needs {needed} draws in each set; got {len(rows)}{left}: run longer"
        )
    return labels, rows


def two_sets(x: Any, y: Any, what: str, needed: int) -> tuple[np.ndarray, np.ndarray]:
    """Nearly independent rows of two sets of draws of the same scalars.

    Raises
    ------
    ValueError
        As `independent_rows`, and for sets of different scalars.
    """
    (names, first), (others, second) = (independent_rows(s, what, needed) for s in (x, y))
    if first.shape[1] != second.shape[1] or (names and others and names != others):
        raise ValueError(
            f"the {what} compares draws of the same scalars; got {_listed(names, first)} and "
            f"{_listed(others, second)}"
        )
    return first, second


def _listed(names: list[str], rows: np.ndarray) -> str:
    if not names:
        return f"{rows.shape[1]} scalars"
    more = "" if len(names) <= 5 else f" and {len(names) - 5} more"
    return ", ".join(names[:5]) + more
