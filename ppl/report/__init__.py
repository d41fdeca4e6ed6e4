"""``ppl.report(draws, path)``: the page; its parts are in the modules of this package."""

import sys
from types import ModuleType
from typing import Any


class _Callable(ModuleType):
    """``ppl.report`` names this package and the function: importing one must not hide the other."""

    def __call__(self, draws: Any, path: Any) -> Any:
        from ppl.report.page import report

        return report(draws, path)


sys.modules[__name__].__class__ = _Callable
