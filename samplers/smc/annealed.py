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

from typing import Any

import equinox as eqx
from jaxtyping import PRNGKeyArray

from ppl.energy import Energy
from ppl.sampler import size
from samplers.smc import feynman_kac as fk
from samplers.smc.along_path import AlongPath, PathInfo, PathState
from samplers.smc.path import as_reference, as_schedule

POWER = 4  # of the schedule: dense near 0, where a likelihood narrows a prior the most


class AIS(AlongPath):
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

    num_particles: int = size("num_particles", minimum=2, default=1024)
    num_temperatures: int = size("num_temperatures", default=200)
    move: Any = None  # a MarkovKernel
    reference: Any = eqx.field(default=None, converter=as_reference)
    schedule: Any = eqx.field(default=None, converter=as_schedule)
    num_moves: int = size("num_moves", default=1)
    tune: bool = eqx.field(static=True, default=True)

    def step(
        self, rng_key: PRNGKeyArray, target: Energy, state: PathState
    ) -> tuple[PathState, PathInfo]:
        b = state.inverse_temperature
        if self.schedule is not None:
            next_b = self.schedule[state.step].astype(b.dtype)
        else:
            next_b = ((state.step + 1).astype(b.dtype) / self.num_temperatures) ** POWER
        never = fk.Resampler(-1.0)
        return self.advance(rng_key, target, state, next_b, never, self.num_moves, self.num_moves)
