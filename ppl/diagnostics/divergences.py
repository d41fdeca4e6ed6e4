"""Where divergent draws concentrate.

A divergent trajectory met curvature that its step could not follow; the draws it left behind stand
near that place. For every scalar the draws are replaced by the normal scores of their ranks, which
makes the measure the same for a scale and its logarithm, and

    shift = mean score of the divergent draws - mean score of the others.

Null: divergences spread like all draws give shifts of about ``1 / sqrt(divergent draws)``, more
where they come in clusters. Limits: it looks at one scalar at a time, so that a corner that only
two together show is not seen; it needs five divergent draws.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from ppl.diagnostics.rhat_ess import normal_scores

MIN_DIVERGENCES = 5


class Shift(NamedTuple):
    """How the divergent draws of one scalar differ; medians in its own unit."""

    label: str
    shift: float
    median_divergent: float
    median_other: float

    @property
    def words(self) -> str:
        """One clause for a report."""
        side = "low" if self.shift < 0 else "high"
        return (
            f"{self.label} is {side} (median {self.median_divergent:.3g}, elsewhere "
            f"{self.median_other:.3g})"
        )


def concentration(
    labels: list[str],
    x: Float[np.ndarray, "chain draw d"],
    diverging: Bool[np.ndarray, "chain draw"],
) -> list[Shift]:
    """Shifts of all scalars that vary, largest first; none for fewer than five divergences."""
    flat, bad = x.reshape(-1, x.shape[2]), diverging.ravel()
    if bad.sum() < MIN_DIVERGENCES or bad.all():
        return []
    shifts = []
    for label, column in zip(labels, flat.T, strict=True):
        if not np.isfinite(column).all() or (column == column[0]).all():
            continue
        scores = normal_scores(column[None])[0]
        shift = float(scores[bad].mean() - scores[~bad].mean())
        medians = float(np.median(column[bad])), float(np.median(column[~bad]))
        shifts.append(Shift(label, shift, *medians))
    return sorted(shifts, key=lambda s: -abs(s.shift))
