"""Parameters and path of a state-space model, jointly."""

import warnings
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import random
from jaxtyping import Array, Float, PRNGKeyArray, PyTree
from numpyro.distributions import Distribution

from ppl.energy import Energy, Position, TargetError, Values, from_distribution
from ppl.program import from_numpyro
from ppl.state_space import StateSpaceModel, why_not
from ppl.template import as_data, describe


class StateSpacePosterior(Energy):
    """Law of the parameters of a state-space model and of its path, given the data.

    Positions are ``{"parameters": ..., "path": ...}``; draws have the names of the parameters, and
    those of the parts of a state ("x" for a bare array). As a density of all of them it runs under
    any sampler; particle methods use what it is made of.

    Parameters
    ----------
    prior
        Of the parameters: a NumPyro model without arguments and without data, a NumPyro
        distribution, or a target that can be sampled.
    model
        ``model(parameters, *data) -> ppl.StateSpaceModel``; ``parameters`` as the user sees them,
        for a NumPyro model a dict by site.
    data
        Further arguments of ``model``, traced: the observations and what else is data.

    Raises
    ------
    TargetError
        If the prior cannot be sampled, if ``model`` fails or returns something else.

    Examples
    --------
    >>> import jax.numpy as jnp, numpyro, numpyro.distributions as dist, ppl
    >>> def walk(scale, y):
    ...     return ppl.StateSpaceModel(
    ...         lambda scale: dist.Normal(0.0, 1.0),
    ...         lambda t, x, scale: dist.Normal(x, scale),
    ...         lambda t, x, scale: dist.Normal(x, 1.0),
    ...         y, scale)
    >>> target = ppl.StateSpacePosterior(dist.HalfNormal(1.0), walk, jnp.array([0.3, -0.2, 1.1]))
    >>> target.template["path"].shape
    (3,)
    """

    prior: Any
    model: Callable[..., Any]
    data: tuple[Any, ...]
    simulated: Any  # data in the place of the model's own, or None
    template: PyTree[jax.ShapeDtypeStruct]
    has_density: bool = eqx.field(static=True)
    draws_data: bool = eqx.field(static=True)

    def __init__(self, prior: Any, model: Any, *data: Any):
        self.prior, self.model, self.data = _as_prior(prior), model, as_data(data)
        self.simulated = None
        one = _try_out(self)
        self.template = {"parameters": self.prior.template, "path": one.template}
        self.has_density, self.draws_data = one.has_density, one.draws_data

    def at(self, parameters: Values) -> StateSpaceModel:
        """The model at parameters as the user sees them: a target of its own, on the path."""
        model = self.model(parameters, *self.data)
        return model if self.simulated is None else model.with_data(self.simulated)

    def state_space(self, position: Position) -> tuple[StateSpaceModel, Position]:
        """The model at a position, and the path there."""
        return self.at(self.prior.constrain(position["parameters"])), position["path"]

    def with_path(self, position: Position, path: Position) -> Position:
        """The position with another path in it."""
        return position | {"path": path}

    # The density --------------------------------------------------------------------------------

    @property
    def offers(self) -> frozenset[str]:
        names = ["state_space", "sample", "log_likelihood"]
        names += ["log_density", "log_parts", "log_prior"] if self.has_density else []
        names += ["simulate"] if self.draws_data else []
        return self._with_gradient(*names)

    def refuse(self, capability: str) -> str:
        return why_not(self, capability) or Energy.refuse(self, capability)

    def log_density(self, position: Position) -> Float[Array, ""]:
        log_prior, log_likelihood = self.log_parts(position)
        return log_prior + log_likelihood

    def log_parts(self, position: Position) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """Log prior of parameters and path (with log-Jacobian), and log-likelihood."""
        return self.log_prior(position), self.log_likelihood(position)

    def log_prior(self, position: Position) -> Float[Array, ""]:
        """Log-density of parameters and path before any data, with log-Jacobian."""
        model, path = self.state_space(position)
        return self.prior.log_density(position["parameters"]) + model.log_prior(path)

    def log_likelihood(self, position: Position) -> Float[Array, ""]:
        """Log-density of the data given parameters and path."""
        model, path = self.state_space(position)
        return model.log_likelihood(path)

    # Spaces and draws ---------------------------------------------------------------------------

    def constrain(self, position: Position) -> Values:
        parameters = self.prior.constrain(position["parameters"])
        path = self.at(parameters).constrain(position["path"])
        return {"parameters": parameters, "path": path}

    def unconstrain(self, values: Values) -> Position:
        path = self.at(values["parameters"]).unconstrain(values["path"])
        return {"parameters": self.prior.unconstrain(values["parameters"]), "path": path}

    def log_jacobian(self, position: Position) -> Float[Array, ""]:
        model, path = self.state_space(position)
        return self.prior.log_jacobian(position["parameters"]) + model.log_jacobian(path)

    def outputs(self, position: Position) -> dict[str, Array]:
        model, path = self.state_space(position)
        return _joined(self.prior, position["parameters"], model.outputs(path))

    def sample(self, rng_key: PRNGKeyArray, n: int) -> Position:
        """Draw ``n`` positions before any data."""
        key_parameters, key_path = random.split(rng_key)
        parameters = self.prior.sample(key_parameters, n)

        def path(key: PRNGKeyArray, z: Position) -> Position:
            drawn = self.at(self.prior.constrain(z)).sample(key, 1)
            return jax.tree.map(lambda x: x[0], drawn)

        paths = jax.vmap(path)(random.split(key_path, n), parameters)
        return {"parameters": parameters, "path": paths}

    def simulate(self, rng_key: PRNGKeyArray) -> tuple[Position, "StateSpacePosterior"]:
        """Draw parameters, path and data, and return the target of these data."""
        key_parameters, key_rest = random.split(rng_key)
        z = jax.tree.map(lambda x: x[0], self.prior.sample(key_parameters, 1))
        path, model = self.at(self.prior.constrain(z)).simulate(key_rest)
        target = eqx.tree_at(
            lambda t: t.simulated, self, model.data, is_leaf=lambda leaf: leaf is None
        )
        return {"parameters": z, "path": path}, target


def _joined(prior: Energy, z: Position, states: dict[str, Array]) -> dict[str, Array]:
    """Parameters and states by name; a bare array of parameters is called "parameters"."""
    parameters = prior.outputs(z)
    if jax.tree_util.treedef_is_leaf(jax.tree.structure(prior.template)):
        parameters = {"parameters": parameters["x"]}
    if clash := sorted(set(parameters) & set(states)):
        raise TargetError(
            f"{clash[0]!r} is the name of a parameter and of a part of the state; rename one of "
            "them (states that are bare arrays are called 'x')"
        )
    return {**parameters, **states}


# Before anything is compiled ----------------------------------------------------------------------


def _as_prior(given: Any) -> Energy:
    if isinstance(given, Distribution):
        return from_distribution(given)
    prior: Any = given
    if callable(given) and not isinstance(given, Energy):
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*observes nothing")
            prior = from_numpyro(given)
    if getattr(prior, "observes_nothing", False):
        prior = prior.prior
    if not isinstance(prior, Energy):
        raise TargetError(
            "the prior of the parameters must be a NumPyro model without arguments, a NumPyro "
            f"distribution, or a target that can be sampled; got {type(prior).__name__}"
        )
    for capability in ("log_density", "sample"):
        if capability not in prior.offers:
            raise TargetError(f"the prior of the parameters: {prior.refuse(capability)}")
    if "log_likelihood" in prior.offers:
        raise TargetError(
            "the prior of the parameters has data of its own; give the prior alone, such as "
            "target.prior"
        )
    return prior


def _try_out(target: StateSpacePosterior) -> StateSpaceModel:
    """The model at some parameters: shapes alone are meant."""
    if not callable(target.model):
        raise TargetError(
            "model must be a function (parameters, *data) -> ppl.StateSpaceModel; got "
            f"{type(target.model).__name__}"
        )
    found: list[StateSpaceModel] = []

    def build(z: Position) -> None:
        values = target.prior.constrain(z)
        try:
            model = target.model(values, *target.data)
        except TargetError:
            raise
        except (TypeError, ValueError, KeyError, IndexError, AttributeError) as error:
            raise TargetError(
                f"model fails on parameters {describe(values)}: {type(error).__name__}: {error}"
            ) from error
        if not isinstance(model, StateSpaceModel):
            raise TargetError(
                f"model must return a ppl.StateSpaceModel; got {type(model).__name__}"
            )
        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), model.template)
        _joined(target.prior, z, model.outputs(zeros))
        found.append(model)

    jax.eval_shape(build, target.prior.template)
    return found[0]
