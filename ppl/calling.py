"""Modules that are called: a module and its main function share one public name."""

import inspect
from types import ModuleType
from typing import Any


class CallableModule(ModuleType):
    """A module that is called like its function of the same name.

    ``ppl.calibrate`` is a function to its users, and importing the module of that name puts the
    module in its place: Python does so whenever the module is first imported. Being both, it does
    not matter which one a user finds. A module sets its own class at its end:
    ``sys.modules[__name__].__class__ = CallableModule``.
    """

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return _function(self)(*args, **kwargs)

    @property
    def __signature__(self) -> inspect.Signature:
        return inspect.signature(_function(self))


def _function(module: ModuleType) -> Any:
    return getattr(module, module.__name__.rpartition(".")[2])
