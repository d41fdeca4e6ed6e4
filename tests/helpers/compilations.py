"""How often JAX traced and compiled, counted through its own monitoring events."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import jax
from jax.experimental.compilation_cache import compilation_cache

# Emitted with these names by JAX 0.11 and 0.12. The second one is also emitted for a program that
# comes from the disk cache, which is why the cache is off while we count.
TRACE = "/jax/core/compile/jaxpr_trace_duration"
COMPILE = "/jax/core/compile/backend_compile_duration"


@dataclass
class Compilations:
    """The names of the functions traced and of the programs compiled, in order."""

    traced: list[str] = field(default_factory=list)
    compiled: list[str] = field(default_factory=list)

    @property
    def traces(self) -> int:
        """Calls of jit, eval_shape or make_jaxpr that ran Python; nested functions count too."""
        return len(self.traced)

    @property
    def compilations(self) -> int:
        """Programs handed to XLA; an array operation outside jit is a program of its own."""
        return len(self.compiled)

    def of(self, name: str) -> int:
        """Programs of a function: JAX calls them ``jit(name)``, older versions ``jit_name``."""
        return sum(name in program for program in self.compiled)


@contextmanager
def count_compilations() -> Iterator[Compilations]:
    """Count what happens inside, in every thread of this process, without the disk cache."""
    count = Compilations()

    def listen(event: str, duration: float, **metadata: str | int) -> None:
        del duration
        if event == TRACE:
            count.traced.append(str(metadata.get("fun_name", "?")))
        elif event == COMPILE:
            count.compiled.append(str(metadata.get("fun_name", "?")))

    cached = jax.config.jax_enable_compilation_cache
    jax.config.update("jax_enable_compilation_cache", False)
    compilation_cache.reset_cache()  # JAX decides once whether it uses the cache; decide anew.
    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield count
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
        jax.config.update("jax_enable_compilation_cache", cached)
        compilation_cache.reset_cache()
