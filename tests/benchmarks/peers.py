"""Targets and peers that several cases share."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from arviz_stats import ess
from jax import random
from numpyro.infer import NUTS as NumPyroNUTS
from numpyro.infer.util import initialize_model

import ppl
from models.programs import breast_cancer, eight_schools

CHAINS = 4
DIM = 100


def rotated_precision(dim: int = DIM, condition: float = 1e4) -> jax.Array:
    """Precision of a Gaussian with log-spaced variances 1 / condition .. 1, randomly rotated."""
    rotation = np.linalg.qr(np.random.default_rng(0).normal(size=(dim, dim)))[0]
    variances = np.logspace(-np.log10(condition), 0, dim)
    return jnp.asarray((rotation / variances) @ rotation.T, jnp.float32)


def quadratic(x: jax.Array, precision: jax.Array) -> jax.Array:
    """Log-density of the rotated Gaussian."""
    return -0.5 * x @ (precision @ x)


def rotated_gaussian() -> Any:
    """Return the 100-d Gaussian of condition number 10^4 as a target."""
    return ppl.from_log_density(quadratic, jnp.zeros(DIM), rotated_precision())


def smallest_ess(draws: dict[str, Any]) -> float:
    """Smallest bulk-ESS over all scalars of arrays (chain, draw, ...)."""
    smallest = np.inf
    for x in draws.values():
        x = np.asarray(x, np.float64)
        flat = x.reshape(*x.shape[:2], -1)
        smallest = min(smallest, *(float(ess(flat[..., i])) for i in range(flat.shape[-1])))
    return smallest


PROGRAMS = {"eight schools": eight_schools, "breast cancer": breast_cancer}


def unconstrained_density(name: str) -> tuple[Callable[[Any], Any], Any, Any]:
    """Log-density, a start and the constraining function, as a BlackJAX user takes them."""
    if name not in PROGRAMS:
        precision = rotated_precision()
        return lambda x: quadratic(x, precision), jnp.zeros(DIM), lambda x: {"x": x}
    module = PROGRAMS[name]
    info = initialize_model(random.key(0), module.model, model_kwargs=module.data())
    return lambda z: -info.potential_fn(z), info.param_info.z, info.postprocess_fn


def numpyro_nuts(name: Any, num_warmup: int, num_samples: int) -> Callable[[int], dict[str, Any]]:
    """NumPyro's NUTS with vectorized chains, at its fastest: start and loop compiled once.

    On a target by its name, or on what `unconstrained_density` would return.

    ``MCMC.run`` compiles its loop again on every call, also of the same object; that is what
    `bench_refit` measures. Here its kernel runs in a loop of ours, and only running is timed.
    """
    known = unconstrained_density(name) if isinstance(name, str) else name
    density, start, constrain = known
    leaves, treedef = jax.tree.flatten(start)

    @jax.jit
    def run_chains(key: Any) -> Any:
        key_start, key_run = random.split(key)
        starts = [
            random.uniform(k, (CHAINS, *jnp.shape(x)), minval=-2.0, maxval=2.0)
            for k, x in zip(random.split(key_start, len(leaves)), leaves, strict=True)
        ]
        kernel = NumPyroNUTS(potential_fn=lambda z: -density(z))
        state = kernel.init(
            random.split(key_run, CHAINS), num_warmup, jax.tree.unflatten(treedef, starts), (), {}
        )

        def step(state: Any, _: Any) -> Any:
            state = kernel.sample(state, (), {})
            return state, state.z

        state, _ = jax.lax.scan(lambda s, i: (step(s, i)[0], None), state, length=num_warmup)
        _, draws = jax.lax.scan(step, state, length=num_samples)
        return jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), jax.vmap(jax.vmap(constrain))(draws))

    return lambda i: run_chains(random.key(i))


def blackjax_nuts(
    name: str, num_warmup: int, num_samples: int, adaptation: Any = None
) -> Callable[[int], dict[str, Any]]:
    """BlackJAX as its documentation has it: window adaptation, then a vmapped loop; compiled."""
    import blackjax

    density, start, constrain = unconstrained_density(name)
    adaptation = adaptation or blackjax.window_adaptation

    def one_chain(key: Any) -> Any:
        key_start, key_warm, key_run = random.split(key, 3)
        leaves, treedef = jax.tree.flatten(start)
        keys = random.split(key_start, len(leaves))
        position = jax.tree.unflatten(
            treedef,
            [
                random.uniform(k, jnp.shape(x), minval=-2.0, maxval=2.0)
                for k, x in zip(keys, leaves, strict=True)
            ],
        )
        (state, parameters), warm = adaptation(blackjax.nuts, density).run(
            key_warm, position, num_warmup
        )
        kernel = blackjax.nuts(density, **parameters).step

        def step(state: Any, key: Any) -> Any:
            state, info = kernel(key, state)
            return state, (state.position, info.num_integration_steps)

        _, (positions, steps) = jax.lax.scan(step, state, random.split(key_run, num_samples))
        warm_steps = jnp.sum(warm.info.num_integration_steps)
        return positions, jnp.sum(steps), warm_steps

    @jax.jit
    def run_chains(key: Any) -> Any:
        positions, steps, warm_steps = jax.vmap(one_chain)(random.split(key, CHAINS))
        return jax.vmap(jax.vmap(constrain))(positions), jnp.sum(steps), jnp.sum(warm_steps)

    def run(i: int) -> dict[str, Any]:
        values, run.steps, run.warm_steps = run_chains(random.key(i))
        return values

    return run
