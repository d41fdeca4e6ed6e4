import jax
import jax.numpy as jnp
import pytest
from jax.experimental.compilation_cache import compilation_cache


@pytest.fixture
def double():
    """A function that no other test has compiled."""
    return jax.jit(lambda x: 2 * x)


def test_the_first_call_is_one_trace_and_one_compilation(compilations, double):
    x = jnp.ones(3)
    with compilations() as count:
        double(x)
    assert (count.traces, count.compilations) == (1, 1)
    assert count.traced == ["<lambda>"]
    assert count.compiled == ["jit(<lambda>)"]
    assert (count.of("<lambda>"), count.of("_draw")) == (1, 0)


def test_a_call_with_new_values_is_neither(compilations, double):
    x, y = jnp.ones(3), jnp.zeros(3)
    double(x)
    with compilations() as count:
        double(y)
    assert (count.traces, count.compilations) == (0, 0)


def test_a_new_shape_is_both_again(compilations, double):
    x, y = jnp.ones(3), jnp.ones(4)
    double(x)
    with compilations() as count:
        double(y)
    assert (count.traces, count.compilations) == (1, 1)


def test_a_value_closed_over_is_caught(compilations):
    def run(data):
        return jax.jit(lambda x: x * data)(1.0)

    run(2.0)
    with compilations() as count:
        run(3.0)
    assert count.compilations == 1


def test_an_abstract_evaluation_is_a_trace_only(compilations):
    with compilations() as count:
        jax.eval_shape(lambda x: x + 1, 1.0)
    assert (count.traces, count.compilations) == (1, 0)


def test_nothing_is_counted_before_or_after(compilations, double):
    x, y = jnp.ones(3), jnp.ones(4)
    double(x)
    with compilations() as count:
        pass
    double(y)
    assert (count.traces, count.compilations) == (0, 0)


def test_counters_nest(compilations, double):
    x, y = jnp.ones(3), jnp.ones(4)
    with compilations() as outer:
        double(x)
        with compilations() as inner:
            double(y)
    assert (outer.compilations, inner.compilations) == (2, 1)


def test_the_disk_cache_is_off_inside_and_as_before_outside(compilations, tmp_path):
    def compile_and_list():
        jax.jit(lambda x: 3 * x)(1.0)
        return [path for path in tmp_path.iterdir() if path.name.endswith("-cache")]

    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = {name: getattr(jax.config, name) for name in names}
    try:
        jax.config.update("jax_compilation_cache_dir", str(tmp_path))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        compilation_cache.reset_cache()
        with compilations() as count:
            assert compile_and_list() == []
        assert count.compilations == 1
        assert len(compile_and_list()) == 1
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()
