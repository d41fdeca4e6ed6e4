"""The progress bar of a run."""

import sys
import time
from typing import Any

import numpy as np
from jaxtyping import PyTree

from ppl.markov import Chains


class Bar:
    """A tqdm bar with one update a chunk; silent when off."""

    def __init__(self, total: int | None, name: str, on: Any):
        self.bar = None
        if on:
            from tqdm import tqdm

            self.bar = tqdm(total=total, desc=name, file=sys.stderr, mininterval=0.05)
        self.began = time.perf_counter()

    def __enter__(self) -> "Bar":
        return self

    def __exit__(self, *_: Any) -> None:
        if self.bar is not None:
            self.bar.close()

    def markov(self, steps: int, run: Chains) -> None:
        """Steps taken, the phase, and what a user watches for."""
        if self.bar is None:
            return
        warm = run.t < run.plan.num_warmup
        notes = {"phase": "warm-up" if warm else "sampling"}
        step_size = getattr(run.state.kernel, "step_size", None)
        if step_size is not None:
            notes["step size"] = f"{float(np.mean(np.asarray(step_size))):.3g}"
        if not warm:
            notes["divergences"] = str(run.tallies.divergences)
        self.bar.set_postfix(notes, refresh=False)
        self.bar.update(steps)

    def history(self, steps: int, infos: PyTree) -> None:
        """Steps taken and the latest infos (means over runs)."""
        if self.bar is None:
            return
        scalars = {n: float(np.mean(x)) for n, x in infos.items() if np.ndim(x) <= 1}
        self.bar.set_postfix(
            {n: f"{x:.4g}" for n, x in scalars.items() if n != "arrived"}, refresh=False
        )
        self.bar.update(steps)
