"""To and from other libraries: NumPyro's MCMC loop, BlackJAX algorithms, Stan models."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ppl.adapters.blackjax import BlackJAX as BlackJAX
    from ppl.adapters.numpyro import NumPyroKernel as NumPyroKernel
    from ppl.adapters.stan import from_stan as from_stan

_HOMES = {"BlackJAX": "blackjax", "NumPyroKernel": "numpyro", "from_stan": "stan"}

__all__ = sorted(_HOMES)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {__all__}")
