"""When to stop: values for ``until=``. Each is a function of the draws so far.

The driver asks after 100, 150, 225, ... draws, not after each: looking often at a noisy measure
stops too early. What stops a run by its own draws biases it a little; a fixed length does not.

The training of a learned sampler is stopped the same way, after as many updates, by a batch of
draws from what has been learned: ``lambda draws: ppl.weights.ess(draws.log_weights[0]) > 500``. The
draws that come back are new ones, so that nothing is biased. A budget is that of each run.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ppl.diagnostics.rhat_ess import MIN_DRAWS, ess_bulk, ess_tail, rhat
from ppl.draws import Draws


def converged(r_hat: float | int = 1.01, ess: float | int = 400) -> Callable[[Draws], bool]:
    """Stop when every scalar has R-hat below ``r_hat`` and bulk and tail ESS of at least ``ess``.

    Scalars that never change are left out, unless all are; a draw that is not finite is not
    converged, and neither are fewer than four draws. One chain is compared with itself, half
    against half.

    Raises
    ------
    ValueError
        If ``r_hat`` is not above 1 or ``ess`` not positive; when asked about draws that are no
        Markov chains.
    """
    if not r_hat > 1:
        raise ValueError(f"r_hat must be above 1; got {r_hat}")
    if not 0 < ess < math.inf:
        raise ValueError(f"ess must be a positive number; got {ess}")

    def reached(draws: Draws) -> bool:
        if draws.run.kind != "markov":
            raise ValueError(
                f"converged() judges Markov chains; {draws.run.sampler_name} gives draws of kind "
                f"{draws.run.kind!r}. Use ppl.elapsed or ppl.evaluations"
            )
        if draws.num_samples < MIN_DRAWS:
            return False
        varying = False
        for x in draws.values.values():
            x = x.reshape(*x.shape[:2], -1)
            if not np.isfinite(x).all():
                return False
            x = x[:, :, (x != x[:1, :1]).any(axis=(0, 1))]
            if x.shape[2] == 0:
                continue
            varying = True
            # The cheapest first: most checks fail.
            good = (ess_bulk(x) >= ess).all() and (rhat(x) < r_hat).all()
            if not (good and (ess_tail(x) >= ess).all()):
                return False
        return varying

    return reached


@dataclass(frozen=True)
class Elapsed:
    """`elapsed`: true once ``seconds`` are over."""

    seconds: float | int

    def __call__(self, draws: Draws) -> bool:
        return draws.run.wall_seconds >= self.seconds


@dataclass(frozen=True)
class Evaluations:
    """`evaluations`: true once ``n`` evaluations are spent."""

    n: int

    def __call__(self, draws: Draws) -> bool:
        return max(draws.num_evaluations) >= self.n


def elapsed(seconds: float | int) -> Elapsed:
    """Stop when start, warm-up and sampling together took ``seconds``, compiling included.

    Time is the run's own (``draws.run.seconds``), so that time before a resume counts and time
    between does not. It is looked at between chunks: a run overshoots by up to one.

    Raises
    ------
    ValueError
        If ``seconds`` is not positive.
    """
    if not seconds > 0:
        raise ValueError(f"seconds must be positive; got {seconds}")
    return Elapsed(seconds)


def evaluations(n: int) -> Evaluations:
    """Stop when ``n`` evaluations are spent, warm-up included.

    Log-density and gradient evaluations are not added, since one usually brings the other: the
    larger of the two numbers counts.

    Raises
    ------
    ValueError
        If ``n`` is less than 1.
    """
    if not n >= 1:
        raise ValueError(f"n must be at least 1; got {n}")
    return Evaluations(n)
