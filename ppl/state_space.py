"""State-space models: a hidden path that is observed in noise, as targets.

    x_0 ~ initial(),   x_t ~ transition(t, x_{t-1}),   y_t ~ observation(t, x_t),   t = 0, 1, ...

The three are functions that return NumPyro distributions. The model is a density of its path, whose
leading axis is time, and gives particle methods what they need: draws and densities of one step.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax, random
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree
from numpyro.distributions import Distribution
from numpyro.distributions.transforms import Transform

from ppl import laws
from ppl.energy import Energy, Position, TargetError, Values
from ppl.template import as_data, describe, float_dtype


class StateSpaceModel(Energy):
    """A state-space model and its data: the law of the path given the data.

    Parameters
    ----------
    initial
        ``initial(*parameters)``: law of the state x_0. States are arrays or pytrees of them.
    transition
        ``transition(t, x, *parameters)``: law of x_t given x_{t-1} = ``x``.
    observation
        ``observation(t, x, *parameters)``: law of the data of time t given x_t = ``x``.
    data
        Array or pytree of arrays whose leading axis is time. NaN is missing: an entry, or the whole
        vector where a law is one of vectors.
    parameters
        Further arguments of the three functions, traced as the data are.

    Notes
    -----
    A law is a NumPyro distribution, or a pytree of independent ones. In its place `initial` and
    `transition` may return a function ``rng_key -> x`` that can only draw, and `observation` a
    function ``y -> log-density``. Without densities of the transitions there is no density of the
    path, but particle filters need none.

    Regressors of time are parameters: ``transition = lambda t, x, u: dist.Normal(x + u[t], 1)``.

    Raises
    ------
    TargetError
        Before compilation, for a function that fails or returns something else than a law, for
        states or data of shapes that do not fit; it says which function and what shape.

    Examples
    --------
    >>> import jax.numpy as jnp, numpyro.distributions as dist, ppl
    >>> walk = ppl.StateSpaceModel(
    ...     lambda scale: dist.Normal(0.0, 1.0),
    ...     lambda t, x, scale: dist.Normal(x, scale),
    ...     lambda t, x, scale: dist.Normal(x, 1.0),
    ...     jnp.array([0.3, jnp.nan, 1.1]), 0.5)
    >>> walk.template.shape
    (3,)
    """

    initial: Callable[..., Any]
    transition: Callable[..., Any]
    observation: Callable[..., Any]
    data: Any
    parameters: tuple[Any, ...]
    template: PyTree[jax.ShapeDtypeStruct]
    state_template: PyTree[jax.ShapeDtypeStruct]  # one state, as the user sees it
    has_density: bool = eqx.field(static=True)  # of initial and transition
    draws_data: bool = eqx.field(static=True)

    def __init__(
        self,
        initial: Any,
        transition: Any,
        observation: Any,
        data: Any,
        *parameters: Any,
    ):
        self.initial, self.transition, self.observation = initial, transition, observation
        self.data, self.parameters = as_data(data), as_data(parameters)
        self.state_template, self.has_density, self.draws_data = _try_out(self)

        def over_time(law: Any, leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
            shape = (self.num_times, *laws.transform_of(law).inverse_shape(leaf.shape))
            return jax.ShapeDtypeStruct(shape, leaf.dtype)

        self.template = laws.each(over_time, initial(*self.parameters), self.state_template)

    # What particle methods ask for: one state, as the user sees it ------------------------------

    @property
    def num_times(self) -> int:
        """Number of times, those without data included."""
        return jax.tree.leaves(self.data)[0].shape[0]

    def draw_initial(self, rng_key: PRNGKeyArray) -> PyTree:
        """x_0."""
        return laws.draw(rng_key, self.initial(*self.parameters), self.state_template)

    def draw_transition(self, rng_key: PRNGKeyArray, t: Int[Array, ""], x: PyTree) -> PyTree:
        """x_t given x_{t-1} = ``x``."""
        return laws.draw(rng_key, self.transition(t, x, *self.parameters), self.state_template)

    def log_initial(self, x: PyTree) -> Float[Array, ""]:
        """Log-density of x_0."""
        return laws.log_prob(self.initial(*self.parameters), x)

    def log_transition(self, t: Int[Array, ""], before: PyTree, x: PyTree) -> Float[Array, ""]:
        """Log-density of x_t = ``x`` given x_{t-1} = ``before``."""
        return laws.log_prob(self.transition(t, before, *self.parameters), x)

    def log_observation(self, t: Int[Array, ""], x: PyTree, y: PyTree) -> Float[Array, ""]:
        """Log-density of the data ``y`` of time t; what is missing counts as 0."""
        return laws.log_observed(self.observation(t, x, *self.parameters), y)

    @property
    def rows(self) -> tuple[Int[Array, " time"], PyTree]:
        """Times and their data."""
        return jnp.arange(self.num_times, dtype=jnp.int32), self.data

    def state_space(self, position: Position) -> tuple["StateSpaceModel", Position]:
        """The model at a position, and the path there."""
        return self, position

    def with_path(self, position: Position, path: Position) -> Position:
        """The position with another path in it."""
        return path

    # The density of a path ----------------------------------------------------------------------

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
        """Log prior of the path (with log-Jacobian), and log-likelihood."""
        return self.log_prior(position), self.log_likelihood(position)

    def log_prior(self, position: Position) -> Float[Array, ""]:
        """Log-density of the path before any data, with log-Jacobian."""
        path = self.constrain(position)
        times, _ = self.rows
        first, before, after = (_at(path, at) for at in (0, slice(-1), slice(1, None)))
        steps = jax.vmap(self.log_transition)(times[1:], before, after)
        return self.log_initial(first) + jnp.sum(steps) + self.log_jacobian(position)

    def log_likelihood(self, position: Position) -> Float[Array, ""]:
        """Log-density of the data given the path."""
        times, data = self.rows
        return jnp.sum(jax.vmap(self.log_observation)(times, self.constrain(position), data))

    # Spaces -------------------------------------------------------------------------------------

    def constrain(self, position: Position) -> Values:
        return self._through(lambda transform, z: transform(z), position)

    def unconstrain(self, values: Values) -> Position:
        return self._through(lambda transform, x: transform.inv(x), values)

    def log_jacobian(self, position: Position) -> Float[Array, ""]:
        def one(transform: Any, z: Array) -> Array:
            return jnp.sum(transform.log_abs_det_jacobian(z, transform(z)))

        terms = jax.tree.leaves(self._through(one, position))
        return jnp.sum(jnp.stack(terms)).astype(float_dtype(self.template))

    def _through(self, fn: Callable[[Transform, Array], Any], tree: PyTree) -> PyTree:
        def one(law: Any, leaf: Array) -> Array:
            return fn(laws.transform_of(law), leaf)

        return laws.each(one, self.initial(*self.parameters), tree)

    # Draws --------------------------------------------------------------------------------------

    def sample(self, rng_key: PRNGKeyArray, n: int) -> Position:
        """Draw ``n`` paths before any data."""
        keys = random.split(rng_key, n)
        return jax.vmap(lambda key: self.unconstrain(self._draw_path(key)))(keys)

    def simulate(self, rng_key: PRNGKeyArray) -> tuple[Position, "StateSpaceModel"]:
        """Draw a path, and the model of data drawn given it; missing where these are missing."""
        key_path, key_data = random.split(rng_key)
        path = self._draw_path(key_path)
        return self.unconstrain(path), self.with_data(self.draw_data(key_data, path))

    def draw_data(self, rng_key: PRNGKeyArray, path: Values) -> PyTree:
        """Data of a path as the user sees it; missing where the model's are."""

        def one(key: PRNGKeyArray, t: Int[Array, ""], x: PyTree, y: PyTree) -> PyTree:
            new = laws.draw(key, self.observation(t, x, *self.parameters), y)
            return jax.tree.map(lambda new, y: jnp.where(jnp.isnan(y), y, new), new, y)

        times, data = self.rows
        return jax.vmap(one)(random.split(rng_key, self.num_times), times, path, data)

    def with_data(self, data: Any) -> "StateSpaceModel":
        """Same model of other data, of the same shapes."""
        return eqx.tree_at(lambda model: model.data, self, data)

    def _draw_path(self, rng_key: PRNGKeyArray) -> Values:
        key_start, key_steps = random.split(rng_key)
        start = self.draw_initial(key_start)

        def one(x: PyTree, at: Any) -> tuple[PyTree, PyTree]:
            key, t = at
            x = self.draw_transition(key, t, x)
            return x, x

        keys = random.split(key_steps, self.num_times - 1)
        _, later = lax.scan(one, start, (keys, self.rows[0][1:]))
        return jax.tree.map(lambda x, xs: jnp.concatenate([x[None], xs]), start, later)


def _at(path: PyTree, index: Any) -> PyTree:
    return jax.tree.map(lambda x: x[index], path)


def why_not(target: Any, capability: str) -> str:
    """Why a target with a path lacks what its path could give; empty: that is not the reason."""
    if capability == "simulate":
        return "observation returns a log-density, from which no data can be drawn"
    if capability not in ("log_density", "gradient", "log_parts", "log_prior"):
        return ""
    why = (
        "its states are integers"
        if target.has_density
        else "initial or transition returns a function that only draws, no distribution"
    )
    return (
        f"this state-space model has no {capability!r}: {why}. Use a particle method, such as "
        "samplers.ParticleFilter()"
    )


# Before anything is compiled ----------------------------------------------------------------------


def _try_out(model: StateSpaceModel) -> tuple[PyTree, bool, bool]:
    """Shape of a state, whether it has a density, whether data can be drawn; by tracing alone."""
    for name in ("initial", "transition", "observation"):
        fn = getattr(model, name)
        if not callable(fn) or isinstance(fn, Distribution):
            raise TargetError(
                f"{name} must be a function that returns a NumPyro distribution; got "
                f"{type(fn).__name__}"
            )
    sizes = {np.shape(leaf)[:1] for leaf in jax.tree.leaves(model.data)}
    if len(sizes) != 1 or sizes & {(), (0,)}:
        raise TargetError(
            "data must be arrays with one common, non-empty leading axis, time; got leading axes "
            f"{sorted(sizes)}"
        )
    key, t = jax.eval_shape(lambda: (random.key(0), jnp.int32(0)))
    row = jax.tree.map(lambda y: jax.ShapeDtypeStruct(y.shape[1:], y.dtype), model.data)
    dense = {}

    def of(name: str, *args: Any) -> PyTree:
        found = laws.laws_of(name, getattr(model, name), *args, *model.parameters)
        dense[name] = laws.are_distributions(found)
        return found

    def moved(key: PRNGKeyArray, t: Array, x: PyTree) -> PyTree:
        law = of("transition", t, x)
        laws.require_values("transition", law, x, "a state, as initial gives it,")
        _require_one_space(model.initial(*model.parameters), law)
        return laws.draw(key, law)

    def observed(t: Array, x: PyTree, y: PyTree) -> Any:
        law = of("observation", t, x)
        laws.require_values("observation", law, y, "the data of one time")
        return laws.log_observed(law, y)

    state = jax.eval_shape(lambda key: laws.draw(key, of("initial")), key)
    after = jax.eval_shape(moved, key, t, state)
    if jax.tree.map(jnp.shape, after) != jax.tree.map(jnp.shape, state):
        raise TargetError(
            f"transition draws {describe(after)} from a state {describe(state)}: they must be of "
            "one shape"
        )
    out = jax.eval_shape(observed, t, state, row)
    if jnp.shape(out) != () or not jnp.issubdtype(out.dtype, jnp.floating):
        raise TargetError(
            "observation must give one log-density for the data of one time; got "
            f"{out.dtype.name}{list(out.shape)}"
        )
    return state, dense["initial"] and dense["transition"], dense["observation"]


def _require_one_space(initial: PyTree, transition: PyTree) -> None:
    """Raise where states move to another kind of space than that of the first."""

    def one(first: Any, later: Any) -> None:
        if type(laws.transform_of(first)) is not type(laws.transform_of(later)):
            raise TargetError(
                f"initial lives on {first.support}, transition on {later.support}; a path lives on "
                "one space"
            )

    jax.tree.map(one, initial, transition, is_leaf=laws.is_law)
