"""An alarm for chains that disagree in clusters: several modes, each with its own chains.

Chains i and j stand apart by

    d_ij = max over scalars of |median_i - median_j| / (s_i + s_j),

where s is half the width of the central 68 % of a chain. Chains closer than 1 are linked, and the
connected sets are the clusters. Null: chains of one mode have d below about ``4 / sqrt(ESS)``, so
that with more than some 20 effective draws a chain all are one cluster. Limits: modes that every
chain visits, and modes that none has found, leave no trace; neither do modes that overlap.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float


class Clusters(NamedTuple):
    """Chains by cluster, largest first, and the scalar in which they stand apart most."""

    members: list[list[int]]
    label: str
    medians: list[float]

    @property
    def words(self) -> str:
        """One clause for a report."""
        return "; ".join(
            f"chain{'s' if len(chains) > 1 else ''} {', '.join(map(str, chains))} "
            f"around {self.label} = {median:.3g}"
            for chains, median in zip(self.members, self.medians, strict=True)
        )


def clusters(labels: list[str], x: Float[np.ndarray, "chain draw d"]) -> Clusters | None:
    """Find the clusters; None when all chains are one, or there is nothing to compare."""
    if x.shape[0] < 2 or x.shape[1] < 4 or x.shape[2] == 0:
        return None
    low, median, high = np.quantile(x, [0.16, 0.5, 0.84], axis=1)
    width = (high - low) / 2
    gap = np.abs(median[:, None] - median[None])
    # Chains that stand still on one value are not apart, on different values infinitely so.
    with np.errstate(divide="ignore", invalid="ignore"):
        apart = np.where(gap == 0, 0.0, gap / (width[:, None] + width[None]))
    apart = np.nan_to_num(apart, nan=0.0, posinf=np.inf)
    linked = apart.max(axis=2) < 1
    reach = linked
    for _ in range(len(x)):
        reach = (reach.astype(int) @ linked.astype(int)) > 0
    members = [np.flatnonzero(row).tolist() for row in np.unique(reach, axis=0)]
    if len(members) == 1:
        return None
    members.sort(key=lambda chains: (-len(chains), chains))
    between = np.ix_(members[0], [i for chains in members[1:] for i in chains])
    worst = int(apart[between].max(axis=(0, 1)).argmax())
    medians = [float(np.median(median[chains, worst])) for chains in members]
    return Clusters(members, labels[worst], medians)
