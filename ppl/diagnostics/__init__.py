"""Measures of how far draws may be trusted, one a file, and the verdict drawn from them.

``ppl.diagnostics.stein.stein_test`` needs no import of its own: files are loaded on first use. So
are the functions that are known by their own names, such as ``ppl.diagnostics.preserves_measure``.
"""

from importlib import import_module, util
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ppl.diagnostics.bounds import log_evidence_bounds as log_evidence_bounds
    from ppl.diagnostics.bridge import bridge_evidence as bridge_evidence
    from ppl.diagnostics.measure import preserves_measure as preserves_measure

_HOMES = {
    "bridge_evidence": "bridge",
    "log_evidence_bounds": "bounds",
    "preserves_measure": "measure",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    if not name.startswith("_") and util.find_spec(f"{__name__}.{name}") is not None:
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
