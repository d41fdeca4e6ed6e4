"""Metropolis, one discrete value at a time: spins, letters or words of an array.

    i ~ U{1, .., d},   v ~ U(values other than x_i),   x' = x but for x'_i = v
    log alpha = log pi(x') - log pi(x)

The oldest chain of all [1], with discrete values for coordinates. A proposal is as likely
as its return, whatever the target, so that none of it enters the ratio. What one site at a time
cannot do is cross a valley between modes: for that it is a move of `samplers.TemperedSMC`, or
improves the objects that a `samplers.GFlowNet` goes back to (`samplers.Revisit`).

References
----------
.. [1] Metropolis et al., "Equation of state calculations by fast computing machines", J. Chem.
   Phys. 21, 1953, doi:10.1063/1.1699114.
"""

from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import random
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Int, PRNGKeyArray

from ppl.energy import Energy, Position, TargetError
from ppl.sampler import Exactness, MarkovKernel
from ppl.template import describe
from samplers.mcmc.metropolis import MetropolisInfo, MetropolisState, accept, illegal


def _values(given: Any) -> Int[Array, " values"]:
    numbers = np.arange(given) if isinstance(given, int) else np.asarray(given)
    right = numbers.ndim == 1 and len(set(numbers.tolist())) == numbers.size >= 2
    if isinstance(given, bool) or not right or not np.issubdtype(numbers.dtype, np.integer):
        raise ValueError(
            "values must be how many there are, 0, 1, .., or a list of them, at least two and none "
            f"twice: SiteMetropolis(4), SiteMetropolis([-1, 1]); got {given!r}"
        )
    return jnp.asarray(numbers, jnp.int32)


class SiteMetropolis(MarkovKernel):
    """Metropolis over discrete values, one site at a time: exact.

    Parameters
    ----------
    values
        That a site may have, all alike: a number, for 0, 1, .. up to it, or a list.

    Raises
    ------
    TargetError
        Before compilation: for a target whose positions are not integers, or a start with other
        values.
    ValueError
        For values of which there is one, or that are not integers.

    Examples
    --------
    >>> import jax.numpy as jnp, ppl, samplers
    >>> spins = ppl.from_log_density(lambda s: 0.3 * jnp.sum(s[1:] * s[:-1]), jnp.ones(4, int))
    >>> draws = ppl.sample(samplers.SiteMetropolis([-1, 1]), spins, num_chains=64,
    ...     init=jnp.ones((64, 4), int), progress=False)
    >>> bool(abs((draws["x"][..., 1:] * draws["x"][..., :-1]).mean() - jnp.tanh(0.3)) < 0.02)
    True
    """

    needs: ClassVar[frozenset[str]] = frozenset({"log_density"})
    exactness: ClassVar[Exactness] = "exact"

    values: Int[Array, " values"] = eqx.field(converter=_values)

    def check(self, target: Energy) -> None:
        leaves = jax.tree.leaves(target.template)
        if not all(jnp.issubdtype(leaf.dtype, jnp.integer) for leaf in leaves):
            raise TargetError(
                "SiteMetropolis moves integers from value to value; this target's positions are "
                f"{describe(target.template)}. For real numbers use samplers.NUTS() or "
                "samplers.RandomWalk()"
            )

    def check_start(self, target: Energy, positions: Position | None) -> None:
        for leaf in jax.tree.leaves(positions):
            wrong = ~np.isin(np.asarray(leaf), np.asarray(self.values))
            if wrong.any():
                raise TargetError(
                    f"SiteMetropolis would never return to {np.asarray(leaf)[wrong][0]}, which is "
                    f"in a start and not among its values, {np.asarray(self.values).tolist()}"
                )

    def init(self, rng_key: PRNGKeyArray, target: Energy, position: Position) -> MetropolisState:
        return MetropolisState(position, target.log_density(position))

    def step(
        self, rng_key: PRNGKeyArray, target: Energy, state: MetropolisState
    ) -> tuple[MetropolisState, MetropolisInfo]:
        key_site, key_value, key_accept = random.split(rng_key, 3)
        sites, back = ravel_pytree(state.position)
        site = random.randint(key_site, (), 0, sites.size)
        # As many places on, round the list, as there are others.
        onward = random.randint(key_value, (), 1, self.values.size)
        now = jnp.argmax(self.values == sites[site])
        value = self.values[(now + onward) % self.values.size].astype(sites.dtype)
        proposed = self.init(rng_key, target, back(sites.at[site].set(value)))

        diverging = illegal(proposed.log_density)
        log_ratio: Any = proposed.log_density - state.log_density
        log_ratio = jnp.where(diverging, -jnp.inf, log_ratio)
        state, rate, is_accepted = accept(key_accept, log_ratio, proposed, state)
        evaluations = jnp.array([1, 0], jnp.int32)
        return state, MetropolisInfo(rate, is_accepted, diverging, evaluations)
