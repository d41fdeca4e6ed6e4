"""What a run says about itself: versions, devices, descriptions, compile time."""

import dataclasses
import platform
import time
from collections import deque
from datetime import UTC, datetime
from functools import cache
from importlib import metadata
from typing import Any, ClassVar

import equinox as eqx
import jax
import numpy as np
from jax import random
from jaxtyping import PRNGKeyArray


@cache
def versions() -> dict[str, str]:
    """Versions of what the draws depend on."""
    found = {"python": platform.python_version()}
    for name in ("ppl", "jax", "numpyro", "blackjax", "optax", "equinox", "arviz"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def device() -> str:
    """The default device, such as ``cpu (x86_64)`` or a GPU's name, and the precision."""
    first = jax.devices()[0]
    name = platform.machine() if first.platform == "cpu" else first.device_kind
    bits = "float64" if jax.config.read("jax_enable_x64") else "float32"
    return f"{jax.device_count()} x {first.platform} ({name}), {bits}"


def now() -> str:
    """ISO time, UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def key_data(rng_key: PRNGKeyArray) -> dict[str, Any]:
    """A typed key as plain data."""
    return {
        "data": np.asarray(random.key_data(rng_key)).tolist(),
        "impl": str(random.key_impl(rng_key)),
    }


def describe(module: Any) -> str:
    """Short form of a sampler: its name and its scalar fields."""
    fields = []
    for name in (field.name for field in dataclasses.fields(module)):
        value = getattr(module, name)
        if eqx.is_array(value):
            if np.ndim(value) == 0:
                fields.append(f"{name}={float(value):.4g}")
        elif isinstance(value, bool | int | float | str):
            fields.append(f"{name}={value}")
        elif isinstance(value, eqx.Module):
            fields.append(f"{name}={type(value).__name__}()")
    return f"{type(module).__name__}({', '.join(fields)})"


def describe_target(target: Any) -> str:
    """Kind of target and the name of the user's function."""
    for field in ("model", "fn", "log_likelihood_fn"):
        fn = getattr(target, field, None)
        if fn is not None:
            return f"{type(target).__name__} {getattr(fn, '__name__', '')}".strip()
    return type(target).__name__


class CompileClock:
    """Seconds that JAX spent tracing and compiling in this process, from its own events.

    A program that is made while another is traced has events of its own, which come first: that of
    the other takes their place.
    """

    seconds: float = 0.0
    _listening = False
    _spans: ClassVar[deque[tuple[float, float]]] = deque(maxlen=1000)

    @classmethod
    def read(cls) -> float:
        """Total so far; listening starts with the first call."""
        if not cls._listening:
            jax.monitoring.register_event_duration_secs_listener(cls._listen)
            cls._listening = True
        return cls.seconds

    @classmethod
    def _listen(cls, event: str, duration_secs: float, **_: Any) -> None:
        if event.startswith("/jax/core/compile/") and event.endswith("_duration"):
            end = time.perf_counter()
            begin = end - duration_secs
            # By the middle of the span: an event may come a little late, and its ends with it.
            while cls._spans and sum(cls._spans[-1]) / 2 >= begin:
                inner_begin, inner_end = cls._spans.pop()
                cls.seconds -= inner_end - inner_begin
            cls._spans.append((begin, end))
            cls.seconds += duration_secs
