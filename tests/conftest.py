"""What all tests share.

pytest runs with jaxtyping's import hook (see ``addopts`` in pyproject.toml): shapes and types on
the boundaries of ``ppl``, ``samplers`` and ``models`` are checked when a function is called or
traced. Every fixture acts within one process, so the tests may run in any order on any number of
workers.
"""

import gc
import os
from pathlib import Path

# Programs that a test starts inherit these two.
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR", str(Path(__file__).parents[1] / ".cache" / "jax")
)

import hypothesis  # noqa: E402
import jax  # noqa: E402
import pytest  # noqa: E402

from compilations import count_compilations  # noqa: E402

# A program is compiled once, by one worker, and read from disk from then on, small ones too: there
# are thousands of them, and many are alike. JAX may have been imported before the variable was set.
jax.config.update("jax_compilation_cache_dir", os.environ["JAX_COMPILATION_CACHE_DIR"])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)

# The same examples in every run, and no deadline: the first example compiles.
hypothesis.settings.register_profile("gate", derandomize=True, deadline=None, database=None)
hypothesis.settings.load_profile("gate")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if marked and jax.default_backend() != "gpu":
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="JAX finds no GPU"))


def pytest_collection_finish():
    # Tracing makes small objects by the million, and nearly all die by themselves: Python would
    # look through all there is again and again, for a twentieth of the time.
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 50, 100)


MAPS = Path("/proc/self/maps")
MOST_MAPS = 20_000  # Linux allows a process 65,530 pieces of memory, and each program takes some


@pytest.fixture(scope="module", autouse=True)
def few_programs():
    """Between modules a worker forgets its programs, before there are too many to map one more."""
    yield
    if MAPS.exists() and MAPS.read_bytes().count(b"\n") > MOST_MAPS:
        jax.clear_caches()
        gc.collect()


@pytest.fixture
def compilations():
    """``with compilations() as count: ...``; then ``count.traces`` and ``count.compilations``."""
    return count_compilations


@pytest.fixture
def x64():
    """Arrays are float64 by default inside the test."""
    with jax.enable_x64(True):
        yield


@pytest.fixture
def strict_promotion():
    """No silent promotion of dtype or rank: for our own array modules, BlackJAX and Optax break."""
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        yield


@pytest.fixture
def unoptimized():
    """Programs are compiled fast and run slowly: for tests that compile much and compute little.

    Those of the module's fixtures too, which its first test builds. Tests marked slow compute much:
    they are left alone, where a module asks for this as a whole.

    What is compiled here stays in JAX's memory under the same key as an optimized program: a test
    that compares two runs to the bit uses this fixture for both or for neither.
    """


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item):
    before = jax.config.read("jax_disable_most_optimizations")
    asked = "unoptimized" in getattr(item, "fixturenames", ())
    fast = asked and not item.get_closest_marker("slow")
    jax.config.update("jax_disable_most_optimizations", fast or before)
    try:
        return (yield)
    finally:
        jax.config.update("jax_disable_most_optimizations", before)
