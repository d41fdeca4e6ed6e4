"""What a run says about itself."""

import time

import jax
import jax.numpy as jnp

from ppl.about import CompileClock


def test_compile_time_is_within_the_wall_time_though_one_program_is_made_within_another():
    told = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, seconds, **_: told.append(seconds) if "/compile/" in event else None
    )

    @jax.jit
    def inner(x):
        time.sleep(0.05)
        return jnp.sin(x)

    @jax.jit
    def outer(x):
        with jax.ensure_compile_time_eval():
            scale = inner(2.0)
        return scale * x

    before, began = CompileClock.read(), time.perf_counter()
    jax.block_until_ready(outer(1.0))
    wall = time.perf_counter() - began
    counted = CompileClock.read() - before
    assert 0.05 < counted <= wall
    # `inner` was compiled while `outer` was traced, and is told twice.
    assert sum(told) > counted + 1e-3


def test_what_is_compiled_twice_counts_twice():
    before = CompileClock.read()
    counted = []
    for size in (3, 4):
        jax.jit(lambda x: time.sleep(0.05) or jnp.cos(x))(jnp.ones(size))
        counted.append(CompileClock.read() - before)
    assert counted[0] > 0.05
    assert counted[1] > counted[0] + 0.05
