"""Gradients of a posterior from some of its data.

    g(x) = grad log p(x) + N / n sum_{i in B} grad log p(y_i | x),   B: n rows of N

Unbiased for the gradient of the log posterior. Rows are drawn with replacement, which costs n
random numbers whatever N is; the variance of the estimate is (N^2 / n) times that of one row's
gradient over the data. A batch of all N rows is the data itself, each row once: no noise is left.

An evaluation is a pass over the data. Steps that use n of N rows count one for every N rows used.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import random
from jaxtyping import Array, Bool, Int, PRNGKeyArray, PyTree

from ppl.energy import Position, TargetError

NEEDS = frozenset({"log_prior", "log_likelihood_at"})


class MinibatchInfo(NamedTuple):
    """Whether the step led to no finite gradient, and was not taken.

    ``num_evaluations`` counts passes over the data: one for every N rows used.
    """

    diverging: Bool[Array, ""]
    num_evaluations: Int[Array, "2"]


def check_batch(name: str, batch_size: int, target: Any) -> None:
    """Raise unless a batch is at most as large as the data."""
    if batch_size > target.num_data:
        raise TargetError(
            f"{name}(batch_size={batch_size}): the data of this target have {target.num_data} rows "
            f"only; write batch_size={target.num_data} or less"
        )


def estimated_gradient(
    rng_key: PRNGKeyArray, target: Any, position: Position, batch_size: int
) -> PyTree:
    """Gradient of the log posterior, estimated from ``batch_size`` rows."""
    num_data = target.num_data
    if batch_size == num_data:
        rows = jnp.arange(num_data)
    else:
        rows = random.randint(rng_key, (batch_size,), 0, num_data)

    def log_posterior(position: Position) -> Any:
        log_likelihood = target.log_likelihood_at(position, rows)
        return target.log_prior(position) + num_data / batch_size * log_likelihood

    return jax.grad(log_posterior)(position)


def count_passes(
    rows: Int[Array, ""], batch_size: int, target: Any
) -> tuple[Int[Array, ""], Int[Array, "2"]]:
    """Rows used since the last whole pass, and the passes that this step completes."""
    used = rows + batch_size
    passes = used // target.num_data
    return used % target.num_data, jnp.stack([passes, passes]).astype(jnp.int32)
