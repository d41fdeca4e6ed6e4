"""A NumPyro model with discrete latent sites as a target of continuous and of discrete parts.

    log_density(z, k) = log p(x, k, y) + log |det dx / dz|,   x = constrain(z)

Its position is a dict from latent site to array: floats, unconstrained, and integers. Few samplers
can move integers (`samplers.Gibbs` does), so it offers no gradient and the others refuse it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import random
from jaxtyping import Array, Float, PRNGKeyArray, PyTree
from numpyro import handlers
from numpyro.distributions import biject_to

from ppl.energy import Energy, Position, TargetError, Values
from ppl.predictive import finite
from ppl.program import Program, from_numpyro
from ppl.sites import Message, run, shapes_of_outputs, start_value
from ppl.structure import listed
from ppl.template import as_data

TRIALS = 4  # of whether the elements of a site depend on each other


@dataclass(frozen=True)
class Given:
    """The model with values of its discrete sites as a first argument: a density on the reals."""

    model: Callable

    def __call__(self, discrete: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        return handlers.condition(self.model, data=dict(discrete))(*args, **kwargs)

    @property
    def __name__(self) -> str:
        return getattr(self.model, "__name__", type(self.model).__name__)


class MixedProgram(Energy):
    """A NumPyro model with its discrete latent sites in the position. Made by `from_numpyro_mixed`.

    Attributes
    ----------
    supports
        Values that each discrete site may take, ``(num_values,)``.
    separable
        Discrete sites whose elements are independent given everything else, as far as trials tell.
    """

    given: Program
    supports: dict[str, Array]
    separable: frozenset[str] = eqx.field(static=True)

    @property
    def template(self) -> PyTree:
        discrete = {
            name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in self.given.args[0].items()
        }
        return self.given.template | discrete

    @property
    def offers(self) -> frozenset[str]:
        return frozenset({"log_density"})

    def refuse(self, capability: str) -> str:
        if capability == "gradient":
            return (
                f"the sites {listed(self.supports)} of model {self.given.structure.name} are "
                "discrete. Use samplers.Gibbs({...}), which moves them and the others in turn"
            )
        return Energy.refuse(self, capability)

    def log_density(self, position: Position) -> Float[Array, ""]:
        return self._at(position).log_density(self._continuous(position))

    def log_density_by_element(self, name: str, position: Position) -> Float[Array, "..."]:
        """Terms of the log-density that lie along the elements of a discrete site.

        Where they are independent given everything else, an element of the sum holds all terms
        that depend on it, for any values of the others.
        """
        shape = position[name].shape
        program = self._at(position)
        terms = program._terms(program._run_at(self._continuous(position)))
        total = jnp.zeros(shape, jnp.result_type(float))
        for term in terms:
            along = _along(jnp.asarray(term.log_prob), shape)
            total = total if along is None else total + along
        return total

    @property
    def prior(self) -> "MixedPrior":
        """What the model says before it sees its data; chains begin there."""
        return MixedPrior(self)  # pyright: ignore[reportCallIssue]

    def constrain(self, position: Position) -> Values:
        return self._at(position).constrain(self._continuous(position)) | self._discrete(position)

    def unconstrain(self, values: Values) -> Position:
        discrete = {name: jnp.asarray(values[name]) for name in self.supports}
        return self._at(discrete).unconstrain(values) | discrete

    def log_jacobian(self, position: Position) -> Float[Array, ""]:
        return self._at(position).log_jacobian(self._continuous(position))

    def outputs(self, position: Position) -> dict[str, Array]:
        return self._at(position).outputs(self._continuous(position)) | self._discrete(position)

    def _at(self, position: Position) -> Program:
        args = (self._discrete(position), *self.given.args[1:])
        return eqx.tree_at(lambda p: p.args, self.given, args)

    def _discrete(self, position: Position) -> dict[str, Array]:
        return {name: position[name] for name in self.supports}

    def _continuous(self, position: Position) -> dict[str, Array]:
        return {name: position[name] for name in self.given.template}


class MixedPrior(Energy):
    """The prior of a `MixedProgram`, as a target of its own that can be sampled exactly."""

    program: MixedProgram

    @property
    def template(self) -> PyTree:
        return self.program.template

    @property
    def offers(self) -> frozenset[str]:
        return frozenset({"log_density", "sample"})

    def refuse(self, capability: str) -> str:
        return self.program.refuse(capability)

    def log_density(self, position: Position) -> Float[Array, ""]:
        program = self.program
        return program._at(position).log_prior(program._continuous(position))

    def sample(self, rng_key: PRNGKeyArray, n: int) -> Position:
        """Draw ``n`` exact positions."""
        return _prior(self.program, rng_key, n)

    def constrain(self, position: Position) -> Values:
        return self.program.constrain(position)

    def unconstrain(self, values: Values) -> Position:
        return self.program.unconstrain(values)

    def log_jacobian(self, position: Position) -> Float[Array, ""]:
        return self.program.log_jacobian(position)

    def outputs(self, position: Position) -> dict[str, Array]:
        return self.program.outputs(position)


def from_numpyro_mixed(model: Any, /, *args: Any, **kwargs: Any) -> MixedProgram:
    """Make a target of a NumPyro model whose discrete latent sites stay part of the position.

    `from_numpyro` sums discrete sites out, where funsor can; here they are sampled, as integers,
    by `samplers.Gibbs`. Chains start from prior draws unless ``init=`` says otherwise.

    Parameters
    ----------
    model
        Function with NumPyro sites, at least one of them continuous and latent, at least one
        discrete and latent with finitely many values.
    args, kwargs
        Arguments of the model, as in `from_numpyro`.

    Raises
    ------
    TargetError
        If there is no discrete latent site, or one with infinitely many values or inside a scan;
        else as `from_numpyro`.
    """
    args, kwargs = as_data(args), as_data(kwargs)
    found = _discrete_sites(model, args, kwargs)
    name = getattr(model, "__name__", type(model).__name__)
    if not found:
        raise TargetError(
            f"model {name} has no discrete latent site; write ppl.from_numpyro(model, ...)"
        )
    if infinite := [site for site, (_, enumerable) in found.items() if not enumerable]:
        raise TargetError(
            f"discrete latent {listed(infinite)} of model {name} has no finite list of values (or "
            "is inside a scan), so its conditional cannot be summed. Truncate it to a Categorical, "
            "or integrate it by hand (Poisson and Gamma give dist.GammaPoisson)"
        )
    if not _has_continuous(model, args, kwargs):
        raise TargetError(
            f"all latent sites of model {name} are discrete ({listed(found)}), and "
            "from_numpyro_mixed needs a continuous one beside them. Their posterior is a table: "
            "evaluate numpyro.infer.util.log_density at every configuration, or put a prior on "
            "one of the model's constants"
        )
    start = {site: jnp.zeros(shape, int) for site, (shape, _) in found.items()}
    supports = _supports(model, args, kwargs, tuple(found))
    given = from_numpyro(Given(model), start, *args, **kwargs).with_prior_factors(*found)
    target = MixedProgram(given, supports, frozenset())  # pyright: ignore[reportCallIssue]
    positions = target.prior.sample(random.key(0), TRIALS)
    separable = frozenset(
        site
        for site, (shape, _) in found.items()
        if shape != () and bool(np.all(np.asarray(_trials(target, site, positions))))
    )
    return MixedProgram(given, supports, separable)  # pyright: ignore[reportCallIssue]


def _sites(model: Callable, args: tuple, kwargs: dict, *inner: Any) -> dict[str, Message]:
    return run(model, args, kwargs, *inner).sites


def _is_discrete_latent(site: Message) -> bool:
    return (
        site["type"] == "sample"
        and not site["is_observed"]
        and bool(site["fn"].support.is_discrete)
    )


def _begun() -> tuple[Any, Any]:
    seed = handlers.seed(rng_seed=random.key(0))
    return seed, handlers.substitute(substitute_fn=start_value)


def _discrete_sites(model: Callable, args: tuple, kwargs: dict) -> dict[str, tuple[tuple, bool]]:
    found: dict[str, tuple[tuple, bool]] = {}

    def look(args: tuple, kwargs: dict) -> Any:
        for name, site in _sites(model, args, kwargs, *_begun()).items():
            if _is_discrete_latent(site):
                fn = site["fn"]
                known = fn.has_enumerate_support and fn.event_dim == 0
                scanned = site.get("_control_flow_done", False)
                found[name] = jnp.shape(site["value"]), bool(known and not scanned)
        return jnp.zeros(())

    shapes_of_outputs(model, args, kwargs, look)
    return found


def _has_continuous(model: Callable, args: tuple, kwargs: dict) -> bool:
    return any(
        site["type"] == "sample" and not site["is_observed"] and not _is_discrete_latent(site)
        for site in _sites(model, args, kwargs, *_begun()).values()
    )


def _supports(model: Callable, args: tuple, kwargs: dict, names: tuple) -> dict[str, Array]:
    sites = _sites(model, args, kwargs, *_begun())
    return {
        name: jnp.ravel(sites[name]["fn"].enumerate_support(expand=False)).astype(int)
        for name in names
    }


@eqx.filter_jit
def _prior(target: MixedProgram, rng_key: PRNGKeyArray, n: int) -> Position:
    given = target.given
    model = given.model.model  # pyright: ignore[reportFunctionMemberAccess]

    def one(key: PRNGKeyArray) -> Position:
        seed = handlers.seed(rng_seed=key)
        sites = _sites(model, given.args[1:], given.kwargs, seed)
        continuous = {
            name: finite(biject_to(sites[name]["fn"].support).inv(sites[name]["value"]))
            for name in given.template
        }
        return continuous | {name: sites[name]["value"].astype(int) for name in target.supports}

    return jax.vmap(one)(random.split(rng_key, n))


@eqx.filter_jit
def _trials(target: MixedProgram, name: str, positions: Position) -> Array:
    """Whether changing some elements changes their own terms only, and these are all terms."""

    def one(key: PRNGKeyArray, position: Position) -> Array:
        key_which, key_value = random.split(key)
        old = position[name]
        which = random.bernoulli(key_which, 0.5, old.shape)
        drawn = random.choice(key_value, target.supports[name], old.shape)
        new = position | {name: jnp.where(which, drawn, old)}
        before, after = (target.log_density_by_element(name, p) for p in (position, new))
        others = jnp.all(which | (before == after))
        whole = target.log_density(new) - target.log_density(position)
        parts = jnp.sum(jnp.where(which, after - before, 0))
        size = jnp.sum(jnp.abs(before)) + jnp.sum(jnp.abs(after)) + 1
        return others & (jnp.abs(whole - parts) < 1e-4 * size)

    keys = random.split(random.key(1), jax.tree.leaves(positions)[0].shape[0])
    return jax.vmap(one)(keys, positions)


def _along(log_prob: Array, shape: tuple[int, ...]) -> Array | None:
    """A term summed over all axes but those of a site of this shape; None: it has not got them."""
    if log_prob.ndim < len(shape):
        return None
    log_prob = jnp.sum(log_prob, axis=tuple(range(log_prob.ndim - len(shape))))
    for axis, length in enumerate(shape):
        if length == 1:
            log_prob = jnp.sum(log_prob, axis=axis, keepdims=True)
        elif log_prob.shape[axis] != length:
            return None
    return log_prob
