"""Targets: unnormalized densities as pytrees. What is made of several is in `ppl.algebra`.

An `Energy` is an Equinox module. The data it holds are its leaves, so it is *passed into*
compiled functions and new data of equal shape neither trace nor compile again. Kernels see one
sign only, ``target.log_density(position)``; a user's energy is negated in `LogDensity`, here.

Two spaces appear:

- the *position* is unconstrained, a pytree shaped like ``target.template``; kernels move it;
- the *values* are what the user sees: constrained, ``target.constrain(position)``.

With ``x = constrain(z)`` the density that kernels see is ``log p(x) + log |det dx/dz|``; the
second term is ``target.log_jacobian(z)`` and is added exactly once, also in products and
tempered paths.
"""

from abc import abstractmethod
from collections.abc import Callable
from functools import reduce
from typing import Any, Protocol, runtime_checkable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import random
from jaxtyping import Array, ArrayLike, Float, Int, PRNGKeyArray, PyTree

# ArviZ leaves a NumPyro behind that loads itself when it is used; loaded through its parts, as the
# next line would, it loses some of them.
from numpyro import distributions as distributions
from numpyro.distributions import Distribution, biject_to, constraints

from ppl.template import (
    Position,
    TargetError,
    Values,
    as_data,
    as_template,
    describe,
    float_dtype,
    named,
)


@runtime_checkable
class Prior(Protocol):
    """What `posterior` and `tilt` ask of a prior: exact draws, in the unconstrained space.

    A prior may also offer ``log_density(position)`` and ``denoise(x, sigma)``.
    """

    @property
    def template(self) -> PyTree[jax.ShapeDtypeStruct]:
        """Shapes and dtypes of one position."""
        ...

    def sample(self, rng_key: PRNGKeyArray, n: int) -> Position:
        """Draw ``n`` positions, stacked along a new leading axis."""
        ...


class Energy(eqx.Module):
    """Abstract target. Subclasses are final and give at least ``template`` and ``log_density``.

    What else a target can do is listed in `offers`, so that a sampler can be refused before
    anything is compiled:

    ======================  ====================================================================
    ``log_density``         ``log_density(position)``
    ``gradient``            the same, and every leaf of the position is a float
    ``log_parts``           ``log_parts(position) -> (log_prior, log_likelihood)``
    ``log_prior``           ``log_prior(position)``, also where the density needs more data
    ``sample``              ``sample(rng_key, n)``: exact draws
    ``simulate``            ``simulate(rng_key) -> (position, target)``: a draw from the prior, and
                            the target of data drawn given it
    ``replicate``           ``replicate(rng_key, position)``: the target of its own data and of
                            data drawn given a position
    ``log_likelihood_at``   ``log_likelihood_at(position, indices)`` and ``num_data``
    ``log_normalizer``      the known log Z of ``log_density``
    ``proximal_map``        ``smooth`` and ``prox(position, step)`` (see `ppl.proximal`)
    ``denoise``             ``denoise(x, sigma)``: the mean given x, which carries noise
    ``unmask``              ``unmask(tokens)``: log-probabilities of the tokens of each place, given
                            those that are not masked; the mask is one more than the last token
    ``state_space``         ``state_space(position) -> (model, path)``, a `ppl.StateSpaceModel` and
                            the part of the position that is its path, and ``with_path(position,
                            path)``
    ``data``                a data set to learn from
    ``environment``         a `ppl.environment.Environment`: objects that are built move by move
    ======================  ====================================================================
    """

    template: eqx.AbstractVar[PyTree[jax.ShapeDtypeStruct]]

    @abstractmethod
    def log_density(self, position: Position) -> Float[Array, ""]:
        """Unnormalized log-density in nats, with the log-Jacobian of `constrain`."""

    @property
    def offers(self) -> frozenset[str]:
        """Names of what this target can do."""
        return self._with_gradient("log_density")

    def constrain(self, position: Position) -> Values:
        """From the kernels' space to the user's."""
        return position

    def unconstrain(self, values: Values) -> Position:
        """From the user's space to the kernels'; the inverse of `constrain`."""
        return values

    def log_jacobian(self, position: Position) -> Float[Array, ""]:
        """``log |det d constrain / d position|``, already part of `log_density`."""
        return jnp.zeros((), float_dtype(self.template))

    def simulate(self, rng_key: PRNGKeyArray) -> tuple[Position, "Energy"]:
        """Where there are no data: an exact draw, and this target."""
        drawn = self.sample(rng_key, 1)  # pyright: ignore[reportAttributeAccessIssue]
        return jax.tree.map(lambda x: x[0], drawn), self

    def outputs(self, position: Position) -> dict[str, Array]:
        """Named values of one draw, as they appear in ``draws[name]``."""
        return named(self.constrain(position))

    @property
    def outputs_are_positions(self) -> bool:
        """Whether `outputs` only names the parts of the position: then nothing is computed."""
        return False

    def refuse(self, capability: str) -> str:
        """Why ``capability`` is not in `offers`, and what to write instead."""
        message = f"{type(self).__name__} has no {capability!r}; it offers {sorted(self.offers)}"
        if capability == "gradient" and "log_density" in self.offers:
            message += (
                f". Its positions are discrete, {describe(self.template)}: use a sampler of such, "
                "as samplers.Gibbs and samplers.SequenceMetropolis are, or floating positions"
            )
        if capability == "proximal_map":
            message += ". Write ppl.composite(smooth, regularizer) with, say, samplers.L1(1.0)"
        if capability == "state_space":
            message += ". Write ppl.StateSpaceModel(initial, transition, observation, data)"
        if capability == "unmask":
            message += (
                ". It is a law of sequences of tokens that tells masked ones from the others: a "
                "network makes one, samplers.MaskedPrior(network, length, num_tokens), and "
                "samplers.MaskedDiffusion() learns one from data"
            )
        return message

    def _with_gradient(self, *names: str) -> frozenset[str]:
        leaves = jax.tree.leaves(self.template)
        floats = all(jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in leaves)
        extra = ("gradient",) if floats and "log_density" in names else ()
        # Without data an exact draw is the truth, and the target is what it is.
        if "sample" in names and "log_likelihood" not in names:
            extra += ("simulate",)
        return frozenset(names + extra)


# A user's function ----------------------------------------------------------------------------


class LogDensity(Energy):
    """A user's function of a position, optionally on a constrained support.

    The one sign change of the library: ``sign = -1`` when the function is an energy.
    """

    fn: Callable[..., Any]
    data: tuple[Any, ...]
    support: PyTree | None
    template: PyTree[jax.ShapeDtypeStruct]
    sign: int = eqx.field(static=True)

    # A user's function may return anything until `check_scalar` has seen it: no shape is claimed.
    def log_density(self, position: Position) -> Any:
        log_density: Any = jnp.asarray(self.sign * self.fn(self.constrain(position), *self.data))
        return log_density if self.support is None else log_density + self.log_jacobian(position)

    @property
    def outputs_are_positions(self) -> bool:
        return self.support is None

    def constrain(self, position: Position) -> Values:
        if self.support is None:
            return position
        return jax.tree.map(
            lambda c, z: biject_to(c)(z), self.support, position, is_leaf=_is_constraint
        )

    def unconstrain(self, values: Values) -> Position:
        if self.support is None:
            return values
        return jax.tree.map(
            lambda c, x: biject_to(c).inv(x),
            self.support,
            values,
            is_leaf=_is_constraint,
        )

    def log_jacobian(self, position: Position) -> Float[Array, ""]:
        if self.support is None:
            return Energy.log_jacobian(self, position)
        return _log_jacobian(self.support, position)


def _is_constraint(leaf: Any) -> bool:
    return isinstance(leaf, constraints.Constraint)


def _log_jacobian(support: PyTree, position: Position) -> Float[Array, ""]:
    def one(constraint: constraints.Constraint, z: Array) -> Array:
        transform = biject_to(constraint)
        return jnp.sum(transform.log_abs_det_jacobian(z, transform(z)))

    terms = jax.tree.leaves(jax.tree.map(one, support, position, is_leaf=_is_constraint))
    return reduce(jnp.add, terms)


def _unconstrained_template(support: PyTree, template: PyTree) -> PyTree:
    if jax.tree.structure(support, is_leaf=_is_constraint) != jax.tree.structure(template):
        raise TargetError(
            "support must be a pytree of NumPyro constraints shaped like the template "
            f"{describe(template)}; got {jax.tree.structure(support, is_leaf=_is_constraint)}"
        )

    def one(constraint: Any, leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        if not isinstance(constraint, constraints.Constraint):
            raise TargetError(
                f"support holds {constraint!r}; write a NumPyro constraint such as "
                "numpyro.distributions.constraints.positive, or constraints.real for none"
            )
        try:
            shape = biject_to(constraint).inverse_shape(leaf.shape)
        except NotImplementedError as error:
            raise TargetError(
                f"no bijection from the reals onto {constraint!r}: a discrete or exotic support "
                "cannot be unconstrained; leave support out and write a density that is -inf "
                "outside it"
            ) from error
        return jax.ShapeDtypeStruct(shape, leaf.dtype)

    return jax.tree.map(one, support, template, is_leaf=_is_constraint)


def from_log_density(
    fn: Callable[..., ArrayLike],
    template: PyTree,
    *data: Any,
    support: PyTree | None = None,
) -> LogDensity:
    """Make a target of a log-density function.

    Parameters
    ----------
    fn
        ``fn(position, *data) -> scalar``, the unnormalized log-density in nats.
    template
        One position: a pytree of arrays or ``jax.ShapeDtypeStruct``. Values are not used.
    data
        Arguments of ``fn``. Arrays, floats and lists of numbers are traced (new values of equal
        shape do not compile again); ints, bools, strings and None are static.
    support
        Pytree of NumPyro constraints like ``template``. ``fn`` is then the density of the
        constrained values, the log-Jacobian is added once, and draws come back constrained.

    Returns
    -------
    LogDensity

    Raises
    ------
    TargetError
        If the template is no pytree of arrays, if ``fn`` fails on it, or does not return a
        floating scalar.

    Examples
    --------
    >>> import jax.numpy as jnp, ppl
    >>> target = ppl.from_log_density(lambda x, scale: -0.5 * jnp.sum((x / scale) ** 2),
    ...                               jnp.zeros(2), 3.0)
    >>> float(target.log_density(jnp.array([3.0, 0.0])))
    -0.5
    """
    return _from_function(fn, template, data, support, sign=1)


def from_energy(
    fn: Callable[..., ArrayLike],
    template: PyTree,
    *data: Any,
    support: PyTree | None = None,
) -> LogDensity:
    """Make a target of an energy, ``E = -log density``; otherwise as `from_log_density`."""
    return _from_function(fn, template, data, support, sign=-1)


def _from_function(
    fn: Callable[..., Any],
    template: PyTree,
    data: tuple,
    support: PyTree | None,
    *,
    sign: int,
) -> LogDensity:
    if not callable(fn):
        raise TargetError(f"the density must be a function fn(position, *data); got {fn!r}")
    template = as_template(template)
    if support is not None:
        template = _unconstrained_template(support, template)
    target = LogDensity(fn=fn, data=as_data(data), support=support, template=template, sign=sign)
    check_scalar(target.log_density, template, name=getattr(fn, "__name__", "fn"))
    return target


def check_scalar(fn: Callable[[Position], Any], template: PyTree, *, name: str) -> None:
    """Raise unless ``fn`` maps one position to a floating scalar; nothing is compiled."""
    try:
        out = jax.eval_shape(fn, template)
    except jax.errors.TracerBoolConversionError as error:
        raise TargetError(
            f"{name} branches in Python on a traced value; write jnp.where or jax.lax.cond"
        ) from error
    except TargetError:
        raise
    except (TypeError, ValueError, KeyError, IndexError, AttributeError) as error:
        raise TargetError(
            f"{name} fails on a position of shape {describe(template)}: {error}"
        ) from error
    leaves = jax.tree.leaves(out)
    if len(leaves) != 1 or not hasattr(leaves[0], "shape"):
        raise TargetError(f"{name} must return one scalar log-density; got {out!r}")
    if leaves[0].shape != ():
        raise TargetError(
            f"{name} must return a scalar log-density; got shape {leaves[0].shape}. Sum over the "
            "data and the components: jnp.sum(...)."
        )
    if not jnp.issubdtype(leaves[0].dtype, jnp.floating):
        raise TargetError(
            f"{name} must return a floating log-density; got dtype {leaves[0].dtype.name}"
        )


# Distributions and data sets ------------------------------------------------------------------


class DistributionEnergy(Energy):
    """A NumPyro distribution: normalized and samplable."""

    distribution: Distribution
    template: PyTree[jax.ShapeDtypeStruct]

    @property
    def offers(self) -> frozenset[str]:
        return self._with_gradient("log_density", "sample", "log_normalizer")

    @property
    def log_normalizer(self) -> Float[Array, ""]:
        """Zero: the density is normalized."""
        return jnp.zeros((), float_dtype(self.template))

    @property
    def _discrete(self) -> bool:
        return _is_discrete(self.distribution)

    def log_density(self, position: Position) -> Float[Array, ""]:
        log_prob = jnp.sum(self.distribution.log_prob(self.constrain(position)))
        return log_prob if self._discrete else log_prob + self.log_jacobian(position)

    def constrain(self, position: Position) -> Values:
        return position if self._discrete else biject_to(self.distribution.support)(position)

    def unconstrain(self, values: Values) -> Position:
        return values if self._discrete else biject_to(self.distribution.support).inv(values)

    def log_jacobian(self, position: Position) -> Float[Array, ""]:
        if self._discrete:
            return Energy.log_jacobian(self, position)
        return _log_jacobian(self.distribution.support, position)

    def sample(self, rng_key: PRNGKeyArray, n: int) -> Position:
        """Draw ``n`` exact positions."""
        return jax.vmap(self.unconstrain)(self.distribution.sample(rng_key, (n,)))


def _is_discrete(distribution: Distribution) -> bool:
    support = distribution.support
    return support is not None and bool(support.is_discrete)


def from_distribution(distribution: Distribution) -> DistributionEnergy:
    """Make a target, prior or reference of a NumPyro distribution.

    Raises
    ------
    TargetError
        If it is no NumPyro distribution, or has no sampler.
    """
    if not isinstance(distribution, Distribution):
        raise TargetError(
            "from_distribution takes a NumPyro distribution such as "
            f"numpyro.distributions.Normal(0, 1); got {type(distribution).__name__}. For a NumPyro "
            "model write from_numpyro, for a function from_log_density."
        )
    distribution = as_data(distribution)
    try:
        shaped = jax.eval_shape(lambda key: distribution.sample(key), random.key(0))
    except NotImplementedError as error:
        raise TargetError(
            f"{type(distribution).__name__} cannot be sampled, so it is no prior or reference; "
            "use from_log_density for its density alone"
        ) from error
    shape = shaped.shape
    if not _is_discrete(distribution):
        shape = biject_to(distribution.support).inverse_shape(shape)
    template = jax.ShapeDtypeStruct(shape, shaped.dtype)
    return DistributionEnergy(distribution=distribution, template=template)


class Samples(Energy):
    """A data set: the target of samplers that learn from data. It has no density."""

    rows: PyTree
    template: PyTree[jax.ShapeDtypeStruct]

    @property
    def offers(self) -> frozenset[str]:
        return frozenset({"data"})

    @property
    def num_data(self) -> int:
        """Number of rows."""
        return jax.tree.leaves(self.rows)[0].shape[0]

    def log_density(self, position: Position) -> Float[Array, ""]:
        raise TargetError("a data set has no log-density; " + self.refuse("log_density"))

    def at(self, indices: Int[Array, "*n"]) -> PyTree:
        """Rows of a minibatch."""
        return jax.tree.map(lambda x: x[indices], self.rows)


def from_samples(rows: PyTree) -> Samples:
    """Make a target of a data set, for samplers that learn from data.

    Parameters
    ----------
    rows
        Array or pytree of arrays; the leading axis counts the data.
    """
    rows = as_data(rows)
    sizes = {np.shape(leaf)[:1] for leaf in jax.tree.leaves(rows)}
    if len(sizes) != 1 or () in sizes or (0,) in sizes:
        raise TargetError(
            "from_samples takes arrays with one common, non-empty leading axis; got leading "
            f"axes {sorted(sizes)}"
        )
    template = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), rows)
    return Samples(rows=rows, template=template)
