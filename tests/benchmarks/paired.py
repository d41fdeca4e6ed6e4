"""Speed against a peer, in alternating pairs.

The machine drifts, so ours and the peer's are measured next to each other, the order changing from
pair to pair, and only the ratio within a pair is used. A claim "not below the peer" is a claim on
the lower 95 % bound of the mean ratio, from a t-interval on its logarithm.

A case is a function in a file ``bench_*.py``; ``make bench`` runs them::

    def test_mala_is_not_below_blackjax():
        figures = alternate(ours, peer, work=smallest_ess, label="MALA, eight schools, ESS/s")
        assert figures.lower >= 0.95
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
import scipy.stats


@dataclass(frozen=True)
class Paired:
    """Rates are work per second, so that more is better; the ratio is ours over the peer's."""

    label: str
    ours: np.ndarray
    peer: np.ndarray
    ratio: float
    lower: float
    compile_ours: float | None
    compile_peer: float | None

    def __str__(self) -> str:
        def rate(rates: np.ndarray) -> str:
            return f"{np.median(rates):.4g}/s"

        line = (
            f"{self.label}: ours {rate(self.ours)}, peer {rate(self.peer)}, "
            f"ratio {self.ratio:.3f}, at least {self.lower:.3f} (95 %, {len(self.ours)} pairs)"
        )
        if self.compile_ours is None or self.compile_peer is None:
            return line
        return (
            f"{line}; compilation {self.compile_ours:.2f} s and {self.compile_peer:.2f} s, "
            "not counted"
        )


def alternate(
    ours: Callable[[int], Any],
    peer: Callable[[int], Any],
    *,
    pairs: int = 7,
    work: Callable[[Any], float] | None = None,
    warm: bool = True,
    label: str = "",
    clock: Callable[[], float] = time.perf_counter,
) -> Paired:
    """Run ``ours(i)`` and ``peer(i)`` for ``i = 1, ..., pairs``; print and return the figures.

    ``i`` is meant for the key, so that no two runs are the same. What a run returns is waited for
    inside the clock; ``work`` of it (an effective sample size, say) is computed outside and
    defaults to 1, one job. With ``warm`` each side first runs once with ``i = 0``: that run
    compiles and is reported apart, less the median of the later ones. Without, the first call
    counts like the others: for runs that start a process of their own.
    """
    if pairs < 2:
        raise ValueError(f"an interval needs at least two pairs; got {pairs}")

    def measure(run: Callable[[int], Any], i: int) -> tuple[float, float]:
        start = clock()
        result = jax.block_until_ready(run(i))
        seconds = clock() - start
        return seconds, 1.0 if work is None else float(work(result))

    first = [measure(run, 0)[0] for run in (ours, peer)] if warm else []
    seconds, done = np.empty((2, pairs)), np.empty((2, pairs))
    for i in range(pairs):
        sides = (0, 1) if i % 2 == 0 else (1, 0)
        for side in sides:
            seconds[side, i], done[side, i] = measure((ours, peer)[side], i + 1)
    rates = done / seconds
    ratio, lower = _lower_bound(np.log(rates[0] / rates[1]))
    compiled = [one - float(np.median(later)) for one, later in zip(first, seconds, strict=False)]
    figures = Paired(label, rates[0], rates[1], ratio, lower, *(compiled or (None, None)))
    print(figures, flush=True)
    return figures


def _lower_bound(log_ratios: np.ndarray) -> tuple[float, float]:
    """Geometric mean of the ratios and its one-sided 95 % bound."""
    n = len(log_ratios)
    mean, error = log_ratios.mean(), log_ratios.std(ddof=1) / math.sqrt(n)
    return math.exp(mean), math.exp(mean - float(scipy.stats.t.ppf(0.95, n - 1)) * error)
