"""Annealed importance sampling (AIS): a path of temperatures for each draw, one weight at its end.

    x_0 ~ r;   for t = 1..T:   log w += (b_t - b_{t-1}) V(x_{t-1}),   x_t ~ K_t(x_{t-1}, .)

with pi_b = r exp(b V), K_t invariant for pi_{b_t}, and V the log-likelihood where r is the prior.
The weight is that of importance sampling on the whole path, so that its mean is unbiased for Z
however badly the kernels mix [1]; particles know nothing of each other and none is ever copied. It
is the Feynman-Kac model of `samplers.smc.tempered` without resampling.

The variance of log w falls like 1/T, with the resistance of the path on top, where resampling keeps
only the particles that fare well: `TemperedSMC` needs fewer steps for the same error; AIS has
weights that are independent, and so an error that is known.

References
----------
.. [1] R. M. Neal, "Annealed importance sampling", Statistics and Computing 11, 2001,
   arXiv:physics/9803008. Equations 7 to 11.
"""

from typing import Any, ClassVar

import equinox as eqx
import numpy as np
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from ppl.energy import Energy, Position
from ppl.sampler import Exactness, ParticleSampler, size
from samplers.smc import feynman_kac as fk
from samplers.smc.path import Path, as_reference, as_schedule
from samplers.smc.tempered import (
    TemperedInfo,
    TemperedState,
    advance,
    arrived,
    check_annealing,
    check_move,
    collected,
    notes_of,
    start,
    with_move,
)

POWER = 4  # of the schedule: dense near 0, where a likelihood narrows a prior the most


class AIS(ParticleSampler):
    """Annealed importance sampling: asymptotically exact, with weights and the evidence.

    Parameters
    ----------
    num_particles
        Independent paths; at least two.
    num_temperatures
        Length of a path, whose temperatures are ``(t / T)^4``.
    move
        Any Markov kernel. None: `HMC`.
    reference
        Where to start, if not from the prior; see `TemperedSMC`.
    schedule
        Inverse temperatures that rise to 1, in place of ``num_temperatures``.
    num_moves
        Moves at each temperature.
    tune
        Whether the move is tuned to the weighted particles.

    Raises
    ------
    TargetError
        As `TemperedSMC`.

    Notes
    -----
    The evidence is unbiased with ``tune=False``. Tuning lets the particles know of each other
    and leaves it consistent.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"log_density"})
    exactness: ClassVar[Exactness] = "asymptotically exact"

    num_particles: int = size("num_particles", minimum=2, default=1024)
    num_temperatures: int = size("num_temperatures", default=200)
    move: Any = None  # a MarkovKernel
    reference: Any = eqx.field(default=None, converter=as_reference)
    schedule: Any = eqx.field(default=None, converter=as_schedule)
    num_moves: int = size("num_moves", default=1)
    tune: bool = eqx.field(static=True, default=True)

    def __check_init__(self) -> None:
        check_move(self.move)

    def check(self, target: Energy) -> None:
        check_annealing(self, target)

    def resolve(self, target: Energy) -> "AIS":
        return with_move(self, target)

    def init(self, rng_key: PRNGKeyArray, target: Energy) -> TemperedState:
        return start(rng_key, Path(target, self.reference), self.move, self.num_particles)

    def step(
        self, rng_key: PRNGKeyArray, target: Energy, state: TemperedState
    ) -> tuple[TemperedState, TemperedInfo]:
        b = state.inverse_temperature
        if self.schedule is not None:
            next_b = self.schedule[state.step].astype(b.dtype)
        else:
            next_b = ((state.step + 1).astype(b.dtype) / self.num_temperatures) ** POWER
        return advance(
            rng_key, Path(target, self.reference), state, next_b, fk.Resampler(-1.0),
            self.move, self.num_moves, self.num_moves, tune=self.tune,
        )  # fmt: skip

    def done(self, state: TemperedState) -> Bool[Array, ""]:
        return arrived(state)

    def collect(
        self, rng_key: PRNGKeyArray, target: Energy, state: TemperedState, history: Any
    ) -> tuple[Position, Float[Array, " n"], Float[Array, ""]]:
        return collected(Path(target, self.reference), state, type(self).__name__)

    def log_evidence_error(self, history: dict[str, np.ndarray]) -> float | None:
        return float(history["log_evidence_error"][-1])

    def notes(self, history: dict[str, np.ndarray]) -> list[str]:
        return notes_of(history)
