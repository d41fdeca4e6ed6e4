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
.. [2] R. B. Grosse, Z. Ghahramani, R. P. Adams, "Sandwiching the marginal likelihood using
   bidirectional Monte Carlo", 2015, arXiv:1511.02543. Section 3.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from ppl.energy import Energy, Position, float_dtype
from ppl.sampler import size
from samplers.smc import feynman_kac as fk
from samplers.smc.along_path import AlongPath, PathInfo, PathState
from samplers.smc.frozen import FrozenWalk, log_evidence_given
from samplers.smc.path import Path, as_reference, as_schedule

NEVER = -1.0  # the share of the effective size at which paths are resampled
FEW = 100  # equal weights, below which the error is itself hardly known
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
    and leaves it consistent. Its error is that of a mean of independent weights: too small where
    the weights have a heavy tail, of which a run has mostly not seen the end (the estimate is then
    low as well). A run whose weights are worth fewer than `FEW` equal ones says so.
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
        next_b = self._temperature(state.step, state.inverse_temperature.dtype)
        never = fk.Resampler(NEVER)
        return self.advance(rng_key, target, state, next_b, never, self.num_moves)

    def notes(self, history: dict[str, np.ndarray]) -> list[str]:
        notes, ess = super().notes(history), float(np.append(np.inf, history["ess"])[-1])
        if ess < FEW:
            notes.append(
                f"the weights of {self.num_particles} paths are worth {ess:.3g} equal ones: log Z "
                "is likely to be low, by more than its error. Raise num_temperatures or "
                "num_particles, or use samplers.TemperedSMC(), which resamples on the way"
            )
        return notes

    @property
    def bounds_evidence(self) -> bool:
        return not self.tune

    def log_evidence_of(self, rng_key: PRNGKeyArray, target: Energy) -> Float[Array, ""]:
        """Log-evidence of one run; its exponential is unbiased with ``tune=False``."""
        return fk.log_evidence(self.walk(rng_key, target, self._num_steps))

    def log_evidence_given(
        self, rng_key: PRNGKeyArray, target: Energy, exact_draw: Position
    ) -> Float[Array, ""]:
        """Log-evidence of one run of which one path ends in an exact draw: from above on average.

        That path is walked backward, by the same moves: they must be reversible [2], as those of
        all exact kernels are but a scan over blocks in a fixed order.
        """
        if self.tune:
            raise ValueError("bounds need paths that know nothing of each other: AIS(tune=False)")
        temperatures = self._temperatures(float_dtype(target.template))
        path = Path(target, self.reference)
        walk = FrozenWalk(path, self.move, self.num_moves, temperatures)
        return log_evidence_given(rng_key, walk, self.num_particles, exact_draw, NEVER)

    def _temperatures(self, dtype: Any) -> Float[Array, " t"]:
        return jax.vmap(lambda t: self._temperature(t, dtype))(jnp.arange(self._num_steps))

    @property
    def _num_steps(self) -> int:
        return self.num_temperatures if self.schedule is None else len(self.schedule)

    def _temperature(self, t: Array, dtype: Any) -> Float[Array, ""]:
        """Inverse temperature after step t."""
        if self.schedule is not None:
            return self.schedule[t].astype(dtype)
        return ((t + 1).astype(dtype) / self.num_temperatures) ** POWER
