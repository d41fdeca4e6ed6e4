"""Draws from a NumPyro model: its prior, and data given draws, in batches of bounded memory.

The functions behind `ppl.program.Program`; ``program`` is one.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import random
from jaxtyping import Array, Int, PRNGKeyArray
from numpyro import handlers

from ppl.energy import Position, TargetError
from ppl.sites import Forget, run
from ppl.structure import missing_values

type Sites = dict[str, Array]

BATCH_NUMBERS = 2**22  # numbers that one batch holds by default


@eqx.filter_jit
def prior_positions(program: Any, rng_key: PRNGKeyArray, n: int) -> Position:
    """Positions drawn from the prior."""

    def one(key: PRNGKeyArray) -> Position:
        seed = handlers.seed(rng_seed=key)
        position = program._position(run(program.model, program.args, program.kwargs, seed).sites)
        return jax.tree.map(finite, position)

    return jax.vmap(one)(random.split(rng_key, n))


def finite(z: Array) -> Array:
    """Move a value that rounding put on the edge of its support to the nearest finite position."""
    edge = -math.log(jnp.finfo(z.dtype).tiny) - 1  # exp(-edge) is not yet flushed to zero
    return jnp.nan_to_num(z, nan=jnp.nan, posinf=edge, neginf=-edge)


def prior_draws(program: Any, rng_key: PRNGKeyArray, n: int) -> Sites:
    """Values of all sites drawn from their joint law."""
    draws = _prior_draws(program, rng_key, n)
    # Compiled functions return dicts sorted by name.
    return {name: draws[name] for name in _predicted(program)}


def _predicted(program: Any) -> tuple[str, ...]:
    return program.structure.named("latent", "deterministic", "observed")


@eqx.filter_jit
def _prior_draws(program: Any, rng_key: PRNGKeyArray, n: int) -> Sites:
    forget = Forget(frozenset(program.observed_names))
    names = _predicted(program)

    def one(key: PRNGKeyArray) -> Sites:
        seed = handlers.seed(rng_seed=key)
        sites = run(program.model, program.args, program.kwargs, seed, forget).sites
        return {name: sites[name]["value"] for name in names}

    return jax.vmap(one)(random.split(rng_key, n))


@eqx.filter_jit
def data(program: Any, rng_key: PRNGKeyArray, index: Int[Array, " batch"], values: Sites) -> Sites:
    """Observed sites drawn anew, given the values of some draws; ``index`` counts the draws."""
    return jax.vmap(lambda i, v: program.predict(random.fold_in(rng_key, i), v))(index, values)


@eqx.filter_jit
def pointwise(program: Any, rng_key: None, index: Int[Array, " batch"], values: Sites) -> Sites:
    """Log likelihood of every row, given the values of some draws."""
    del rng_key, index
    return jax.vmap(lambda v: program._pointwise(program._run_with(v)))(values)


def in_batches(
    fn: Callable[..., Sites],
    program: Any,
    rng_key: PRNGKeyArray | None,
    values: Mapping[str, Any],
    batch_size: int | None,
) -> dict[str, np.ndarray]:
    """Apply one of the two functions above to all draws, moving every batch to the host."""
    latent = _latent(program, values)
    if batch_size is None:
        batch_size = BATCH_NUMBERS // sum(math.prod(site.shape) for site in program.structure.sites)
    return over_draws(lambda index, batch: fn(program, rng_key, index, batch), latent, batch_size)


def over_draws(
    fn: Callable[[Array, Sites], Sites], values: Mapping[str, Any], batch_size: int
) -> dict[str, np.ndarray]:
    """``fn(index, values)`` of all draws (chain, draw), moving every batch to the host."""
    lead = next(iter(values.values())).shape[:2]
    total = math.prod(lead)
    flat = {name: x.reshape(total, *x.shape[2:]) for name, x in values.items()}
    batch_size = min(max(batch_size, 1), total)
    parts: dict[str, list[np.ndarray]] = {}
    for start in range(0, total, batch_size):
        # The last batch repeats its last draw: one shape, one compilation.
        index = np.minimum(np.arange(start, start + batch_size), total - 1)
        batch = {name: jnp.asarray(x[index]) for name, x in flat.items()}
        for name, x in fn(jnp.asarray(index), batch).items():
            parts.setdefault(name, []).append(np.asarray(x)[: total - start])
    whole = {name: np.concatenate(part) for name, part in parts.items()}
    return {name: x.reshape(*lead, *x.shape[1:]) for name, x in whole.items()}


def _latent(program: Any, values: Mapping[str, Any]) -> dict[str, np.ndarray]:
    if missing := [name for name in program.latent_names if name not in values]:
        raise TargetError(missing_values(program.structure, missing, values))
    shapes = {site.name: site.shape for site in program.structure.sites}
    latent = {name: np.asarray(values[name]) for name in program.latent_names}
    lead = next(iter(latent.values())).shape[:2]
    for name, x in latent.items():
        if len(lead) != 2 or 0 in lead or x.shape != (*lead, *shapes[name]):
            raise TargetError(
                f"draws of {name!r} should have the shape (chain, draw) + {shapes[name]}, with the "
                f"same chains and draws at every site; got {x.shape}"
            )
    return latent
