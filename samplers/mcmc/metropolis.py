"""The Metropolis-Hastings test, and what no test may accept.

    alpha = min(1, pi(y) q(y, x) / (pi(x) q(x, y)))

A kernel proposes y, says log of the ratio, and hands both states over; what comes back is one of
them. A density may be zero (a log-density of -inf is a plain rejection), but never NaN and never
infinite: such a proposal is rejected and counted as a divergence.

References
----------
.. [1] Metropolis et al., "Equation of state calculations by fast computing machines", J. Chem.
   Phys. 21, 1953, doi:10.1063/1.1699114.
.. [2] Hastings, "Monte Carlo sampling methods using Markov chains and their applications",
   Biometrika 57, 1970, doi:10.1093/biomet/57.1.97.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import random
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree

from ppl.sampler import Exactness, where


class MetropolisState(NamedTuple):
    """A position and its log-density (nats): all that a kernel without a gradient remembers."""

    position: PyTree
    log_density: Float[Array, ""]


class MetropolisInfo(NamedTuple):
    """What the test said; ``diverging`` where the proposal has no density."""

    acceptance_rate: Float[Array, ""]
    is_accepted: Bool[Array, ""]
    diverging: Bool[Array, ""]
    num_evaluations: Int[Array, "2"]


class ExactWithTest:
    """Claim of a kernel whose field ``metropolis`` says whether its steps are tested.

    That of the class is the default's, which is to test.
    """

    def __get__(self, kernel: Any, cls: type) -> Exactness:
        return "exact" if kernel is None or kernel.metropolis else "biased"


def check_flag(metropolis: Any) -> None:
    """Raise unless the field ``metropolis`` is True or False."""
    if not isinstance(metropolis, bool):
        raise ValueError(f"metropolis must be True or False; got {metropolis!r}")


def accept[State](
    rng_key: PRNGKeyArray, log_ratio: Float[Array, ""], proposed: State, current: State
) -> tuple[State, Float[Array, ""], Bool[Array, ""]]:
    """Return ``proposed`` with probability ``min(1, exp(log_ratio))``, else ``current``.

    Returns
    -------
    state
        One of the two.
    acceptance_rate
        The probability; 0 where the ratio is NaN.
    is_accepted
        Which of the two it is.
    """
    rate = jnp.where(jnp.isnan(log_ratio), 0.0, jnp.exp(jnp.minimum(log_ratio, 0.0)))
    # Uniform on [0, 1): a rate of 0 is never accepted, a rate of 1 always.
    is_accepted = random.uniform(rng_key, (), rate.dtype) < rate
    return where(is_accepted, proposed, current), rate, is_accepted


def illegal(log_density: Float[Array, ""], gradient: PyTree[Any] = ()) -> Bool[Array, ""]:
    """Whether this is no density at all: NaN, +inf, or finite without a finite gradient."""
    not_a_density = jnp.isnan(log_density) | (log_density == jnp.inf)
    return not_a_density | (jnp.isfinite(log_density) & ~all_finite(gradient))


def all_finite(tree: PyTree[Any]) -> Bool[Array, ""]:
    """Whether every number in the tree is finite."""
    leaves = [jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)]
    return jnp.all(jnp.array(leaves, bool))
