"""Measures of how far draws may be trusted, one a file, and the verdict drawn from them.

``ppl.diagnostics.stein.stein_test`` needs no import of its own: files are loaded on first use.
"""

from importlib import import_module, util
from typing import Any


def __getattr__(name: str) -> Any:
    if not name.startswith("_") and util.find_spec(f"{__name__}.{name}") is not None:
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
