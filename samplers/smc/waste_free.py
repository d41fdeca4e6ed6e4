"""Waste-free SMC: tempered particles that are the states of chains, every one of them.

    for each t:   w_i = L(x_i)^(b_t - b_{t-1}),  i = 1..N;   log Z += log mean_i w_i
                  y_1 .. y_M drawn from the N by their weights
                  from each y_m a chain of P states, y_m the first, by K_t, invariant for pi_{b_t}
                  the N = M P states of all chains are the next particles

Tempered SMC moves each particle until it has forgotten where it was, and keeps the last state. Here
the states on the way are particles too, and weights and averages are taken over all of them: more
particles for the same moves. A chain is a particle of a Feynman-Kac model whose potential is the
mean of w over the chain (proposition 1), so that Z is unbiased and averages are consistent for
every P, also where chains are slow.

Resampling leaves M different starts. Where modes have parted, their shares are those of M
particles, not of N: `TemperedSMC` keeps modes better.

References
----------
.. [1] H.-D. Dau, N. Chopin, "Waste-free sequential Monte Carlo", J. R. Stat. Soc. B 84, 2022,
   arXiv:2011.02328. Algorithm 2, proposition 1; section 4 for the variance.
"""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jax import random
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from ppl import weights
from ppl.energy import Energy
from ppl.sampler import fraction, size
from samplers.smc import feynman_kac as fk
from samplers.smc.along_path import AlongPath, PathInfo, PathState
from samplers.smc.moves import chains
from samplers.smc.path import Path, as_reference, as_schedule
from samplers.smc.resampling import SCHEMES

LONGEST_MEMORY = 0.95  # c at most


class WasteFreeSMC(AlongPath):
    """Waste-free sequential Monte Carlo: asymptotically exact, with the evidence.

    Parameters
    ----------
    num_particles
        The N above; a multiple of ``chain_length``, at least twice that.
    chain_length
        The P above: longer than a chain needs to forget its start.
    move
        Any Markov kernel, exact if the draws are to be. None: `HMC`.
    reference
        Where to start, if not from the prior; see `TemperedSMC`.
    schedule
        Inverse temperatures that rise to 1, in place of those found by the weights.
    ess_kept
        Share of the effective sample size that a temperature keeps.
    resampling
        As in `TemperedSMC`.
    tune
        Whether the move is tuned: its metric to the weighted particles, its step size to the
        acceptance along the chains.

    Raises
    ------
    ValueError
        If ``num_particles`` is no multiple of ``chain_length``.
    TargetError
        As `TemperedSMC`.

    Notes
    -----
    The evidence is unbiased with a given ``schedule`` and ``tune=False``. The error of one run is
    that between chains, added up over temperatures,

        var log Z = sum_t v_t (1 + c_t) / (1 - c_t),   v_t = var_m(wbar_m) / (M wbar^2),

    with wbar_m the mean weight of chain m and c_t the slope of wbar_m on the weight of its start:
    what chains remember carries the error of one temperature into the next, as a first-order
    autoregression would. It does not see modes whose shares drift apart; several runs
    (``num_chains=``) do.

    Differences from the paper
    --------------------------
    The paper's variance is v_t alone, which is right as P grows: with 4 to 8 states a chain it has
    been half to two thirds of the variance between runs, the one above 0.7 to 1.3 of it.
    """

    num_particles: int = size("num_particles", minimum=2, default=4096)
    chain_length: int = size("chain_length", minimum=2, default=16)
    move: Any = None  # a MarkovKernel
    reference: Any = eqx.field(default=None, converter=as_reference)
    schedule: Any = eqx.field(default=None, converter=as_schedule)
    ess_kept: Float[Array, ""] = fraction("ess_kept", default=0.5)
    resampling: str = eqx.field(static=True, default="stratified")
    tune: bool = eqx.field(static=True, default=True)

    def __check_init__(self) -> None:
        fk.check_scheme(self.resampling)
        if self.num_particles % self.chain_length or self.num_particles < 2 * self.chain_length:
            raise ValueError(
                "num_particles must be a multiple of chain_length, two chains at least; got "
                f"{self.num_particles} and {self.chain_length}"
            )

    def step(
        self, rng_key: PRNGKeyArray, target: Energy, state: PathState
    ) -> tuple[PathState, PathInfo]:
        key_resample, key_move = random.split(rng_key)
        length, num_chains = self.chain_length, self.num_particles // self.chain_length
        next_b = self.next_temperature(state, self.ess_kept)
        cloud = self.weighed(state, next_b)
        (everywhere, known), log_weights = cloud.particles, cloud.log_weights
        everyone = (everywhere, log_weights, self.densities(known, next_b))

        error = jnp.sqrt(state.error**2 + _variance(log_weights, num_chains, state.step == 0))

        scheme = SCHEMES[self.resampling]
        starts = fk.copies(cloud, scheme(key_resample, log_weights, num_chains))
        positions, known = starts.particles
        moved = chains(
            key_move, self.kernel(state.kernel), Path(target, self.reference).at(next_b),
            positions, length, everyone if self.tune else None,
            self.densities(known, next_b),
        )  # fmt: skip
        population = starts._replace(
            log_weights=jnp.repeat(starts.log_weights, length),
            eves=jnp.repeat(starts.eves, length),
        )
        return self.arrived(target, state, next_b, cloud, population, moved, True, error)


def _variance(
    log_weights: Float[Array, " n"], num_chains: int, is_first: Bool[Array, ""]
) -> Float[Array, ""]:
    """Relative variance of the mean weight, by chains; the first ones are independent draws."""
    shares = weights.probabilities(log_weights).reshape(num_chains, -1)
    means, starts = shares.mean(axis=1), shares[:, 0]
    between = jnp.sum((means / shares.mean() - 1) ** 2) / (num_chains * (num_chains - 1))

    start_deviations = starts - starts.mean()
    square = jnp.sum(start_deviations**2)
    slope = jnp.sum(start_deviations * means) / jnp.where(square > 0, square, 1)
    memory = jnp.where(is_first, 0, jnp.clip(slope, 0, LONGEST_MEMORY))
    return between * (1 + memory) / (1 - memory)
