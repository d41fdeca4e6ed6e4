"""A BlackJAX algorithm of the user's own as a Markov kernel.

    BlackJAX(lambda log_density, step_size: blackjax.mala(log_density, step_size), step_size=0.1)

The log-density comes from the target that ``ppl.sample`` is given, not from a closure, and numbers
are arguments: new data and another step size compile nothing.
"""

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from ppl.energy import Energy, Position, TargetError
from ppl.sampler import Exactness, MarkovKernel
from ppl.template import as_data, require_template

# BlackJAX's names of what this library, as ArviZ, calls otherwise.
_RENAMED = {"is_divergent": "diverging", "num_integration_steps": "n_steps"}


class BlackJAXState(NamedTuple):
    """The algorithm's own state, with its position and log-density (nats) under our names."""

    position: PyTree
    log_density: Float[Array, ""]
    inner: Any


class BlackJAX(MarkovKernel):
    """A Markov kernel made of a function that builds a BlackJAX ``SamplingAlgorithm``.

    There is no warm-up but burn-in: give tuned parameters, or use ``samplers.NUTS``. Scalars of the
    algorithm's info appear in ``draws.stats`` under their names; ``is_divergent`` as ``diverging``,
    ``num_integration_steps`` as ``n_steps``.

    Parameters
    ----------
    build
        ``build(log_density, **parameters)``, returning ``blackjax.hmc(log_density, ...)`` or any
        object with ``init(position, rng_key)`` and ``step(rng_key, state) -> (state, info)``.
    parameters
        Numbers and arrays are traced, ints are static. They may be changed with
        ``equinox.tree_at`` or by a new ``BlackJAX(build, ...)`` with the same function.
    exactness
        The user's own claim, see `Sampler`.
    gradient
        Whether the algorithm uses gradients; a target without them is then refused.

    Notes
    -----
    A step is counted as ``n_steps`` evaluations of density and gradient where the info knows them,
    else as one.
    """

    build: Callable
    parameters: Any
    claim: Exactness = eqx.field(static=True)
    gradient: bool = eqx.field(static=True)

    def __init__(
        self,
        build: Any,
        *,
        exactness: Any = "exact",
        gradient: bool = True,
        **parameters: Any,
    ):
        if not callable(build) or hasattr(build, "step"):
            raise TypeError(
                "BlackJAX takes a function that builds the algorithm, such as lambda log_density: "
                f"blackjax.nuts(log_density, ...); got {type(build).__name__}. (An algorithm that "
                "is built already holds its own density, so the target would not be sampled.)"
            )
        if exactness not in ("exact", "asymptotically exact", "biased"):
            raise ValueError(
                f'exactness must be "exact", "asymptotically exact" or "biased"; got {exactness!r}'
            )
        self.build, self.parameters = build, as_data(parameters)
        self.claim, self.gradient = exactness, gradient

    @property
    def exactness(self) -> Exactness:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The user's claim."""
        return self.claim

    @property
    def needs(self) -> frozenset[str]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """A density, and its gradient unless the user says otherwise."""
        return frozenset({"log_density", "gradient"} if self.gradient else {"log_density"})

    def check(self, target: Energy) -> None:
        """Trace one step, so that what does not fit is said before anything is compiled."""
        algorithm = self._algorithm(target)
        missing = [name for name in ("init", "step") if not callable(getattr(algorithm, name, 0))]
        if missing:
            raise TypeError(
                f"build must return a BlackJAX SamplingAlgorithm, with init and step; got "
                f"{type(algorithm).__name__} without {' and '.join(missing)}"
            )
        key = jax.ShapeDtypeStruct((), jax.random.key(0).dtype)
        state = eqx.filter_eval_shape(self.init, key, target, target.template)
        require_template(state.position, target.template, "the position of the algorithm's state")
        eqx.filter_eval_shape(self.step, key, target, state)

    def init(self, rng_key: PRNGKeyArray, target: Energy, position: Position) -> BlackJAXState:
        return _ours(self._algorithm(target).init(position, rng_key), target)

    def step(
        self, rng_key: PRNGKeyArray, target: Energy, state: BlackJAXState
    ) -> tuple[BlackJAXState, Any]:
        inner, info = self._algorithm(target).step(rng_key, state.inner)
        return _ours(inner, target), _info(info)

    def _algorithm(self, target: Energy) -> Any:
        return self.build(target.log_density, **self.parameters)


def _ours(inner: Any, target: Energy) -> BlackJAXState:
    if not hasattr(inner, "position"):
        raise TargetError(
            "the algorithm's state needs a field position (one chain, one point); got "
            f"{type(inner).__name__} with {', '.join(getattr(inner, '_fields', ())) or 'no fields'}"
        )
    known = [getattr(inner, name, None) for name in ("logdensity", "log_density")]
    log_density = next((x for x in known if x is not None), None)
    if log_density is None:
        log_density = target.log_density(inner.position)
    return BlackJAXState(inner.position, log_density, inner)


def _info(info: Any) -> Any:
    """Scalars of an info as a NamedTuple with ``num_evaluations``."""
    names = getattr(info, "_fields", ())
    scalars = {name: jnp.asarray(getattr(info, name)) for name in names if _is_scalar(info, name)}
    scalars: dict[str, Any] = {_RENAMED.get(n, n): value for n, value in scalars.items()}
    steps = jnp.asarray(scalars.get("n_steps", 1), jnp.int32)
    fields: dict[str, Any] = scalars | {"num_evaluations": jnp.stack([steps, steps])}
    return _info_type(tuple(fields))(**fields)


def _is_scalar(info: Any, name: str) -> bool:
    value = getattr(info, name)
    return isinstance(value, int | float | jax.Array) and jnp.ndim(value) == 0


@cache
def _info_type(names: tuple[str, ...]) -> Any:
    """One class for each set of names: another class would be another pytree."""
    return NamedTuple("BlackJAXInfo", [(name, Any) for name in names])  # pyright: ignore
