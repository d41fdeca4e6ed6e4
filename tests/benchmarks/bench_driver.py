"""The driver against a bare jitted scan of the same kernel, for 100,000 cheap steps."""

import contextlib
import io
import time

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import random

import ppl
from ppl import keys
from samplers.mcmc.random_walk import RandomWalk

STEPS, CHAINS = 100_000, 4


@eqx.filter_jit
def bare(kernel, target, key, positions):
    chain_keys = keys.chain_keys(key, CHAINS)
    states = jax.vmap(kernel.init, (0, None, 0))(chain_keys, target, positions)

    def step(states, t):
        step_keys = jax.vmap(random.fold_in, (0, None))(chain_keys, t)
        states, info = jax.vmap(kernel.step, (0, None, 0))(step_keys, target, states)
        return states, (states.position, states.log_density, info)

    return jax.lax.scan(step, states, jnp.arange(STEPS))[1]


def test_overhead_is_within_five_per_cent():
    kernel = RandomWalk(step_size=0.5)
    target = ppl.from_log_density(lambda x: -0.5 * jnp.sum(x**2), jnp.zeros(10))
    positions = jnp.zeros((CHAINS, 10))

    def scan(i):
        return np.asarray(bare(kernel, target, random.key(i), positions)[0])

    def driver(i):
        with contextlib.redirect_stderr(io.StringIO()):
            draws = ppl.sample(kernel, target, i, STEPS, CHAINS, 0, init=positions, progress=True)
        return draws["x"]

    seconds = {"scan": [], "driver": []}
    for i in range(12):
        for name, run in (("scan", scan), ("driver", driver)):
            began = time.perf_counter()
            x = run(i)
            seconds[name].append(time.perf_counter() - began)
            assert x.size == STEPS * CHAINS * 10
    alone, driven = (float(np.median(seconds[name][1:])) for name in ("scan", "driver"))
    print(f"\n{STEPS} steps of 4 random-walk chains, d = 10: bare scan {alone:.3f} s, "
          f"driver with its bar {driven:.3f} s, overhead {100 * (driven / alone - 1):.1f} %; "
          "compile apart")  # fmt: skip
    assert driven <= 1.05 * alone
