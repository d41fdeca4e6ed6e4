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
from jax import lax, random
from jaxtyping import Array, Float, PRNGKeyArray

from ppl import weights
from ppl.energy import Energy, Position
from ppl.sampler import size
from samplers.mcmc.gibbs import Gibbs
from samplers.smc import feynman_kac as fk
from samplers.smc.along_path import AlongPath, PathInfo, PathState
from samplers.smc.moves import move
from samplers.smc.path import Path, as_reference, as_schedule, increments

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
        next_b = self._temperature(state.step, state.inverse_temperature.dtype)
        never = fk.Resampler(-1.0)
        return self.advance(rng_key, target, state, next_b, never, self.num_moves, self.num_moves)

    def log_evidence_of(self, rng_key: PRNGKeyArray, target: Energy) -> Float[Array, ""]:
        """Log-evidence of one run; its exponential is unbiased with ``tune=False``."""
        return weights.log_mean_exp(self._forward(rng_key, target))

    def log_evidence_given(
        self, rng_key: PRNGKeyArray, target: Energy, exact_draw: Position
    ) -> Float[Array, ""]:
        """Log-evidence of one run of which one path ends in an exact draw: from above on average.

        That path is walked backward, by the same moves: they must be reversible [2], as those of
        all exact kernels are but a scan over blocks in a fixed order.
        """
        kernel: Any = self.move
        if self.tune:
            raise ValueError("bounds need paths that know nothing of each other: AIS(tune=False)")
        if isinstance(kernel, Gibbs) or kernel.exactness != "exact":
            raise ValueError(
                f"a path is walked backward by reversible moves; those of {type(kernel).__name__} "
                "are none"
            )
        path, num = Path(target, self.reference), self._num_steps
        key_forward, key_back = random.split(rng_key)
        log_weights = self._forward(key_forward, target)
        dtype = log_weights.dtype

        def back(carry: Any, t: Array) -> tuple[Any, None]:
            position, log_weight = carry
            b, before = self._temperature(t, dtype), self._temperature(t - 1, dtype)
            key = random.fold_in(key_back, t)
            moved = move(
                key, kernel, path.at(b), position, jnp.zeros(1, dtype), self.num_moves,
                self.num_moves,
            ).positions  # fmt: skip
            return (moved, log_weight + increments(b - before, path.log_ratios(moved))), None

        start = (jax.tree.map(lambda x: x[None], exact_draw), jnp.zeros(1, dtype))
        (_, own), _ = lax.scan(back, start, jnp.arange(num)[::-1])
        return weights.log_mean_exp(log_weights.at[:1].set(own))

    def _forward(self, rng_key: PRNGKeyArray, target: Energy) -> Float[Array, " n"]:
        """Log weights of one run."""
        key_start, key_steps = random.split(rng_key)

        def one(state: PathState, t: Array) -> tuple[PathState, None]:
            return self.step(random.fold_in(key_steps, t), target, state)[0], None

        state, _ = lax.scan(one, self.init(key_start, target), jnp.arange(self._num_steps))
        return state.population.log_weights

    @property
    def _num_steps(self) -> int:
        return self.num_temperatures if self.schedule is None else len(self.schedule)

    def _temperature(self, t: Array, dtype: Any) -> Float[Array, ""]:
        """Inverse temperature after step t; 0 before the first."""
        if self.schedule is not None:
            return jnp.where(t < 0, 0, self.schedule[t]).astype(dtype)
        return ((t + 1).astype(dtype) / self.num_temperatures) ** POWER
