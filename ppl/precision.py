"""Matrix products in all the digits of float32.

A GPU with tensor cores multiplies float32 matrices in TF32, with ten bits of mantissa, unless it
is told not to. A density that is a difference of large squares does not survive that: NUTS on a
regression of posteriordb (``sblrc-blr``) ends hundreds of standard errors from its reference on
such a GPU, without a divergence. So the library runs its own programs in full precision; whoever
has set ``jax_default_matmul_precision`` keeps what was set. On a CPU nothing changes.
"""

from collections.abc import Callable
from functools import wraps

import jax


def full_precision[**P, R](function: Callable[P, R]) -> Callable[P, R]:
    """Run ``function`` with float32 products in full, unless the user has chosen otherwise."""

    @wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        if jax.config.jax_default_matmul_precision is not None:
            return function(*args, **kwargs)
        with jax.default_matmul_precision("highest"):
            return function(*args, **kwargs)

    return run
