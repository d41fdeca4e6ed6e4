"""Simulated data: a draw from the prior, and the target whose data were drawn given it.

    theta* ~ p(theta),   y* ~ p(y | theta*),   target: p(theta | y*)

What simulation-based calibration rests on. A target that can do it offers ``"simulate"``:
``simulate(rng_key) -> (position, target)``, written in JAX, so that a batch of targets is one
compiled function and one pytree with a leading axis. Every new target has the structure of every
other one: new data are leaves, so fitting them compiles nothing.

Where a NumPyro model's data go
-------------------------------
Observed sites draw anew, and the model is given the new data as its user would give it new data:

- an argument that *is* what a site observes (``obs=y``) is replaced, wherever the model uses it. A
  model that looks at its data a second time (a prior centered at ``y.mean()``, two sites observing
  ``y``) does so with the new data, and calibration sees what that does to its posterior;
- what a site observes otherwise (``obs=jnp.log(y)``, ``obs=y[1:]``), and data from which the
  likelihood itself is computed (the lags of an autoregression), are replaced at the site alone.
  Such a model is calibrated given the rest of its data: new values are drawn given the *old* lags.
"""

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Protocol, runtime_checkable

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.core import Tracer
from jax.extend.core import Literal
from jaxtyping import Array, Float, PRNGKeyArray, PyTree
from numpyro import handlers
from numpyro.primitives import Messenger

from ppl.algebra import Stack
from ppl.energy import Energy, Position, TargetError
from ppl.keys import Keys
from ppl.predictive import finite
from ppl.sites import Forget, Message, model_name, run

type Sites = dict[str, Array]


@runtime_checkable
class Simulator(Protocol):
    """What calibration asks of something that is no NumPyro model: draws with targets.

    ``simulate(rng_key)`` draws a position from the prior and data given it, and returns the
    position (unconstrained, as ``target.template`` has it) with the target of these data. It is
    traced by JAX: the data go into the target as arguments, ``ppl.from_log_density(fn, template,
    y)``, not through a closure.
    """

    def simulate(self, rng_key: PRNGKeyArray) -> tuple[Position, Energy]:
        """One draw from the prior and its target."""
        ...


def simulate_batch(simulator: Any, rng_keys: Keys) -> tuple[Position, Stack]:
    """One draw and one target a key, from one compiled function.

    Raises
    ------
    TargetError
        If ``simulate`` fails, returns something else than a position and a target, or a target that
        holds simulated data where they cannot be batched.
    """
    try:
        positions, targets = _batch(simulator, rng_keys)
    except TargetError:
        raise
    except (TypeError, ValueError, AttributeError) as error:
        raise TargetError(f"simulate(rng_key) fails: {type(error).__name__}: {error}") from error
    return positions, Stack(targets, len(rng_keys))


@eqx.filter_jit
def _batch(simulator: Any, rng_keys: Keys) -> tuple[Position, Energy]:
    return _vmapped(simulator.simulate, rng_keys)


def replicate_batch(target: Any, positions: Position, rng_keys: Keys) -> Stack:
    """One target of old and replicated data for each position (leading axis) and key."""
    return Stack(_replicated(target, positions, rng_keys), len(rng_keys))


@eqx.filter_jit
def _replicated(target: Any, positions: Position, rng_keys: Keys) -> Energy:
    def one(operands: tuple[PRNGKeyArray, Position]) -> tuple[tuple, Energy]:
        return (), target.replicate(*operands)

    return _vmapped(one, (rng_keys, positions))[1]


def _vmapped(fn: Callable[[Any], Any], operands: PyTree) -> tuple[Position, Energy]:
    """``vmap`` of a function to (position, target): arrays are batched, the rest is common."""
    static: list[Any] = []

    def one(operand: Any) -> tuple[Position, PyTree]:
        drawn = fn(operand)
        if not isinstance(drawn, tuple) or len(drawn) != 2 or not isinstance(drawn[1], Energy):
            raise TargetError(
                "simulate(rng_key) must return (position, target), the target made by "
                f"ppl.from_log_density, ppl.posterior or the like; got {_kind(drawn)}"
            )
        position, target = drawn
        arrays, rest = eqx.partition(target, eqx.is_array)
        if "log_density" in target.offers:
            _check_closed(rest, arrays)
        static.append(rest)
        return position, arrays

    positions, arrays = jax.vmap(one)(operands)
    return positions, eqx.combine(arrays, static[0])


def _check_closed(rest: Energy, arrays: PyTree) -> None:
    """Raise if the density closes over what was simulated: it would not be a leaf."""
    shapes = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), arrays)
    closed = jax.make_jaxpr(lambda a, z: eqx.combine(a, rest).log_density(z))(shapes, rest.template)
    if any(isinstance(constant, Tracer) for constant in closed.consts):
        raise TargetError(
            "simulate(rng_key): the density closes over simulated data, which must be arguments of "
            "it: ppl.from_log_density(fn, template, y) with fn(position, y)"
        )


def _kind(value: Any) -> str:
    if isinstance(value, tuple):
        return f"({', '.join(type(x).__name__ for x in value)})"
    return type(value).__name__


# NumPyro models -------------------------------------------------------------------------------


def simulate(program: Any, rng_key: PRNGKeyArray, generator: Any = None) -> tuple[Position, Any]:
    """Draw from the joint law of ``generator`` (by default the program itself), and refit."""
    generator = program if generator is None else generator
    forget = Forget(frozenset(generator.observed_names))
    seed = handlers.seed(rng_seed=rng_key)
    sites = run(generator.model, generator.args, generator.kwargs, seed, forget).sites
    values = {name: site["value"] for name, site in sites.items() if site["type"] != "plate"}
    data = {name: values[name] for name in generator.observed_names}
    fitted = with_data(program, data, generator)
    position = jax.tree.map(finite, fitted.unconstrain(values))
    if generator is program:
        return position, fitted
    return position, Fitted(fitted, with_data(generator, data, generator))  # pyright: ignore[reportCallIssue]


class Generated(eqx.Module):
    """A program to fit to what another program of the same arguments generates."""

    fitted: Any
    generator: Any

    def simulate(self, rng_key: PRNGKeyArray) -> tuple[Position, Any]:
        """Draw position and data from the generator."""
        return simulate(self.fitted, rng_key, self.generator)


def replicate(program: Any, rng_key: PRNGKeyArray, position: Position) -> "Replicated":
    """The program with its data, and new data drawn given a position, together."""
    sites = program.predict(rng_key, program.constrain(position))
    return Replicated(program, with_data(program, sites, program))  # pyright: ignore[reportCallIssue]


def with_data(program: Any, data: Sites, generator: Any) -> Any:
    """The program with other data at its observed sites; ``generator`` says where they come from.

    Raises
    ------
    TargetError
        If the data have no place in the program.
    """
    leaves, treedef = jax.tree.flatten((program.args, program.kwargs))
    places = observed_arguments(generator)
    at_sites: Sites = {}
    replaced: set[int] = set()
    for name, value in data.items():
        place = places.get(name)
        if place is None:
            at_sites[name] = value
        elif place not in replaced:  # two sites that observe one array are given one array
            leaves[place] = _like(value, leaves[place], name)
            replaced.add(place)
    if unknown := [name for name in at_sites if name not in program.observed_names]:
        raise TargetError(
            f"simulated data of {', '.join(map(repr, unknown))} have no place in model "
            f"{program.structure.name}: it has no such observed site, and no argument is observed "
            "there as it is (obs=y)"
        )
    args, kwargs = jax.tree.unflatten(treedef, leaves)
    model = Observing(program.model, at_sites) if at_sites else program.model
    return replace(program, model=model, args=args, kwargs=kwargs)


def _like(value: Array, old: Any, name: str) -> Array:
    if jnp.shape(value) != jnp.shape(old):
        raise TargetError(
            f"site {name!r}: simulated data have the shape {jnp.shape(value)}, the observed ones "
            f"{jnp.shape(old)}"
        )
    return jnp.asarray(value, old.dtype)


class Observing(eqx.Module):
    """A model that observes other values at some of its sites; the values are leaves."""

    model: Callable
    data: Sites

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with Observe(self.data):
            return self.model(*args, **kwargs)

    @property
    def __name__(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        return model_name(self.model)


class Observe(Messenger):
    """Replaces the values of observed sites."""

    def __init__(self, data: Mapping[str, Array]) -> None:
        super().__init__()
        self.data = data

    def process_message(self, msg: Message) -> None:
        """Replace the value, in the dtype the model had it."""
        if msg["type"] == "sample" and msg["is_observed"] and msg["name"] in self.data:
            new = self.data[msg["name"]]
            msg["value"] = jnp.asarray(new, jnp.result_type(msg["value"]))


class Wrapped(Energy):
    """Abstract: a target on the space of a model. Subclasses are final and give ``log_parts``."""

    program: eqx.AbstractVar[Any]

    @property
    def template(self) -> PyTree[jax.ShapeDtypeStruct]:
        return self.program.template

    @property
    def offers(self) -> frozenset[str]:
        return self._with_gradient("log_density", "log_parts", "log_likelihood")

    @abstractmethod
    def log_parts(self, position: Position) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """Log prior and log likelihood."""

    def log_likelihood(self, position: Position) -> Float[Array, ""]:
        """Log likelihood of a position."""
        return self.log_parts(position)[1]

    def log_density(self, position: Position) -> Float[Array, ""]:
        log_prior, log_likelihood = self.log_parts(position)
        return log_prior + log_likelihood

    def constrain(self, position: Position) -> Sites:
        return self.program.constrain(position)

    def unconstrain(self, values: Sites) -> Position:
        return self.program.unconstrain(values)

    def log_jacobian(self, position: Position) -> Float[Array, ""]:
        return self.program.log_jacobian(position)

    def outputs(self, position: Position) -> Any:
        return self.program.outputs(position)

    def sample(self, rng_key: PRNGKeyArray, n: int) -> Position:
        """Draw from the model's prior, where it has one."""
        return self.program.sample(rng_key, n)

    @property
    def dims(self) -> dict[str, list[str]]:
        """As the model's."""
        return self.program.dims

    @property
    def coords(self) -> dict[str, Any]:
        """As the model's."""
        return self.program.coords


class Replicated(Wrapped):
    """A model with its data and a replication of them: ``p(theta) p(y | theta) p(y* | theta)``."""

    program: Any
    replica: Any

    @property
    def programs(self) -> tuple[Any, Any]:
        """The model of either set of data."""
        return self.program, self.replica

    def log_parts(self, position: Position) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """Log prior, and log likelihood of both sets of data."""
        log_prior, log_likelihood = self.program.log_parts(position)
        return log_prior, log_likelihood + self.replica.log_likelihood(position)


class Fitted(Wrapped):
    """A model fitted to data, beside the model that generated them."""

    program: Any
    origin: Any

    @property
    def offers(self) -> frozenset[str]:
        prior = ("sample",) if "sample" in self.program.offers else ()
        return self._with_gradient("log_density", "log_parts", "log_likelihood", *prior)

    def log_parts(self, position: Position) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """Log prior and log likelihood as they are fitted."""
        return self.program.log_parts(position)

    def log_parts_of_origin(self, position: Position) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """Log prior and log likelihood of the same values as they were generated."""
        return self.origin.log_parts(self.origin.unconstrain(self.constrain(position)))


# Where data come from -------------------------------------------------------------------------


def observed_arguments(program: Any) -> dict[str, int]:
    """Observed sites whose data are an argument as it is: the number of the leaf.

    Sites are left out where the law of some observed site depends on that argument: with it, the
    likelihood would be computed from data that it has not simulated.
    """
    leaves, treedef = jax.tree.flatten((program.args, program.kwargs))
    arrays = {i: x for i, x in enumerate(leaves) if eqx.is_array(x)}

    def of_data(arrays: dict[int, Array], position: Position) -> tuple[list, list]:
        given = [arrays.get(i, leaf) for i, leaf in enumerate(leaves)]
        args, kwargs = jax.tree.unflatten(treedef, given)
        sites = replace(program, args=args, kwargs=kwargs)._run_at(position)
        observed = [sites[name] for name in program.observed_names]
        laws = [x for site in observed for x in jax.tree.leaves(site["fn"]) if eqx.is_array(x)]
        return [jnp.asarray(site["value"]) for site in observed], laws

    shapes = {i: jax.ShapeDtypeStruct(x.shape, x.dtype) for i, x in arrays.items()}
    jaxpr = jax.make_jaxpr(of_data)(shapes, program.template).jaxpr
    places = dict(zip(jaxpr.invars, sorted(arrays), strict=False))  # the position comes after
    number = len(program.observed_names)
    values, laws = jaxpr.outvars[:number], jaxpr.outvars[number:]
    in_laws = _origins(jaxpr, laws)
    return {
        name: places[value]
        for name, value in zip(program.observed_names, values, strict=True)
        if not isinstance(value, Literal) and value in places and value not in in_laws
    }


def _origins(jaxpr: Any, outputs: list[Any]) -> set[Any]:
    """Inputs on which some outputs depend; of a nested call every output on every input."""
    wanted = {x for x in outputs if not isinstance(x, Literal)}
    for equation in reversed(jaxpr.eqns):
        if any(x in wanted for x in equation.outvars):
            wanted.update(x for x in equation.invars if not isinstance(x, Literal))
    return wanted & set(jaxpr.invars)
