"""A Stan model as a target, through BridgeStan (``pip install bridgestan``, and a C++ compiler).

    target = ppl.adapters.from_stan("model.stan", "data.json")
    draws = ppl.sample(samplers.NUTS(), target)

**Slow, and on the CPU only**: every density and every gradient leaves the compiled program for a
call of Stan, one chain after the other, and on an accelerator the whole position travels to the
host and back. It is a bridge for models that exist already: to compare with, or to move over from.

The position is Stan's vector of unconstrained parameters; ``draws[name]`` are parameters and
transformed parameters. Generated quantities, which need Stan's own random numbers, are left to
Stan. The density is Stan's with its log-Jacobian, up to a constant. Where Stan raises an exception
(a value out of its domain), the density is zero, as in Stan.
"""

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ppl.energy import Energy, Position, TargetError, Values

SLOW = (
    "a Stan model is evaluated by calls out of the compiled program, on the CPU, one chain after "
    "the other: expect it to be slow. The same model in NumPyro runs compiled."
)


class StanEnergy(Energy):
    """Stan's posterior on its unconstrained space. Made by `from_stan`."""

    model: Any = eqx.field(static=True)
    template: jax.ShapeDtypeStruct

    @property
    def offers(self) -> frozenset[str]:
        return self._with_gradient("log_density")

    def log_density(self, position: Position) -> Float[Array, ""]:
        return _log_density(self.model, position)

    def log_jacobian(self, position: Position) -> Float[Array, ""]:
        """Not differentiable: no sampler asks for its gradient."""

        def difference(x: Any) -> np.ndarray:
            x = np.asarray(x, np.float64)
            with_jacobian, without = (
                self.model.log_density(x, propto=False, jacobian=j) for j in (True, False)
            )
            return np.asarray(with_jacobian - without, position.dtype)

        return _call(difference, jax.ShapeDtypeStruct((), position.dtype), position)

    def constrain(self, position: Position) -> Values:
        return self._constrained(position, transformed=False)

    def outputs(self, position: Position) -> dict[str, Array]:
        return self._constrained(position, transformed=True)

    def unconstrain(self, values: Values) -> Position:
        names = self.model.param_names(include_tp=False, include_gq=False)
        places = [_place(name) for name in names]
        flat = jnp.stack([jnp.asarray(values[base])[index] for base, index in places])

        def inverse(theta: Any) -> np.ndarray:
            theta = np.asarray(theta, np.float64)
            return np.asarray(self.model.param_unconstrain(theta), self.template.dtype)

        return _call(inverse, self.template, flat)

    def _constrained(self, position: Position, *, transformed: bool) -> dict[str, Array]:
        names = self.model.param_names(include_tp=transformed, include_gq=False)
        shaped = jax.ShapeDtypeStruct((len(names),), position.dtype)

        def forward(x: Any) -> np.ndarray:
            x = np.asarray(x, np.float64)
            try:
                values = self.model.param_constrain(x, include_tp=transformed, include_gq=False)
            except RuntimeError:  # a transformed parameter that is out of its domain
                values = np.full(len(names), np.nan)
            return np.asarray(values, position.dtype)

        return _arrays(names, _call(forward, shaped, position))


def from_stan(model: Any, data: Any = None) -> StanEnergy:
    """Make a target of a Stan model.

    Parameters
    ----------
    model
        Path of a ``.stan`` file, which BridgeStan compiles, or a ``bridgestan.StanModel``.
    data
        Of a path: a dict, a JSON string, or the path of a JSON file.

    Raises
    ------
    TargetError
        If BridgeStan is not installed, or the model has no parameters.
    FileNotFoundError
        If there is no such file.

    Warns
    -----
    UserWarning
        That this is slow.
    """
    if isinstance(model, str | Path):
        model = _compiled(Path(model), data)
    elif data is not None:
        raise TargetError("a StanModel holds its data already: leave data= out")
    missing = [
        name
        for name in ("param_unc_num", "param_names", "log_density_gradient", "param_constrain")
        if not callable(getattr(model, name, None))
    ]
    if missing:
        raise TargetError(
            "from_stan takes the path of a .stan file or a bridgestan.StanModel; got "
            f"{type(model).__name__} without {', '.join(missing)}"
        )
    size = int(model.param_unc_num())
    if size == 0:
        raise TargetError("this Stan model has no parameters, so there is nothing to sample")
    warnings.warn(SLOW, stacklevel=2)
    return StanEnergy(model, jax.ShapeDtypeStruct((size,), jnp.result_type(float)))  # pyright: ignore


def _compiled(path: Path, data: Any) -> Any:
    if not path.exists():
        raise FileNotFoundError(f"no Stan model at {path}")
    try:
        import bridgestan  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise TargetError(
            "BridgeStan is not installed: pip install bridgestan. It needs a C++ compiler, and "
            "downloads Stan's sources on first use"
        ) from error
    if isinstance(data, Mapping):
        plain = {name: np.asarray(value).tolist() for name, value in data.items()}
        data = json.dumps(plain)
    return bridgestan.StanModel(str(path), data=None if data is None else str(data))


# The density ----------------------------------------------------------------------------------


def _call(function: Any, result: Any, x: Any) -> Any:
    return jax.pure_callback(function, result, x, vmap_method="sequential")


def _log_density(model: Any, x: Any) -> Any:
    """Stan's log-density; its derivative, forward or backward, is Stan's gradient."""

    def value(x: Any) -> np.ndarray:
        try:
            found = model.log_density(np.asarray(x, np.float64), propto=True, jacobian=True)
        except RuntimeError:
            found = -np.inf
        return np.asarray(found, dtype)

    def value_and_gradient(x: Any) -> tuple[np.ndarray, np.ndarray]:
        x = np.asarray(x, np.float64)
        try:
            found, gradient = model.log_density_gradient(x, propto=True, jacobian=True)
        except RuntimeError:
            found, gradient = -np.inf, np.zeros_like(x)
        return np.asarray(found, dtype), np.asarray(gradient, dtype)

    dtype = x.dtype
    scalar, vector = jax.ShapeDtypeStruct((), dtype), jax.ShapeDtypeStruct(x.shape, dtype)

    @jax.custom_jvp
    def density(x: Any) -> Any:
        return _call(value, scalar, x)

    @density.defjvp
    def _(primals: tuple, tangents: tuple) -> tuple[Any, Any]:
        found, gradient = _call(value_and_gradient, (scalar, vector), primals[0])
        return found, jnp.vdot(gradient, tangents[0])

    return density(x)


# Names ----------------------------------------------------------------------------------------


def _place(name: str) -> tuple[str, tuple[int, ...]]:
    """``Sigma.2.1`` is entry (1, 0) of ``Sigma``; parts that are no numbers belong to the name."""
    parts = name.split(".")
    cut = len(parts)
    while cut > 1 and parts[cut - 1].isdigit():
        cut -= 1
    return ".".join(parts[:cut]), tuple(int(part) - 1 for part in parts[cut:])


def _arrays(names: list[str], flat: Float[Array, " n"]) -> dict[str, Array]:
    """Stan's flat values by name, each of its own shape."""
    places: dict[str, dict[tuple[int, ...], int]] = {}
    for i, name in enumerate(names):
        base, index = _place(name)
        places.setdefault(base, {})[index] = i
    arrays = {}
    for base, entries in places.items():
        shape = tuple(np.max(list(entries), axis=0) + 1) if () not in entries else ()
        order = np.zeros(shape, int)
        for index, i in entries.items():
            order[index] = i
        arrays[base] = flat[order]
    return arrays
