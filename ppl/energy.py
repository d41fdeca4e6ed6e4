"""Targets: unnormalised densities as pytrees, and their algebra.

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

import math
from abc import abstractmethod
from collections.abc import Callable
from functools import reduce
from typing import Any, Protocol, runtime_checkable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax, random
from jax.core import Tracer
from jaxtyping import Array, ArrayLike, Float, Int, PRNGKeyArray, PyTree

# ArviZ leaves a NumPyro behind that loads itself when it is used; loaded through its parts, as the
# next line would, it loses some of them.
from numpyro import distributions as distributions
from numpyro.distributions import Distribution, biject_to, constraints

type Position = PyTree
type Values = PyTree


class TargetError(ValueError):
    """A target that cannot be built, or cannot do what a sampler asks of it."""


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
        """Unnormalised log-density in nats, with the log-Jacobian of `constrain`."""

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
        return message

    def _with_gradient(self, *names: str) -> frozenset[str]:
        leaves = jax.tree.leaves(self.template)
        floats = all(jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in leaves)
        extra = ("gradient",) if floats and "log_density" in names else ()
        # Without data an exact draw is the truth, and the target is what it is.
        if "sample" in names and "log_likelihood" not in names:
            extra += ("simulate",)
        return frozenset(names + extra)


# Leaves, templates, names ---------------------------------------------------------------------


def as_data(tree: Any) -> Any:
    """Make data traceable: arrays, floats and lists of numbers become JAX arrays.

    Ints, bools, strings and None stay as they are: they are static, and a new value compiles
    anew (a plate size must).
    """

    def convert(leaf: Any) -> Any:
        if isinstance(leaf, bool | int | str | None.__class__) or callable(leaf):
            return leaf
        if isinstance(leaf, jax.Array):
            return leaf
        if isinstance(leaf, float | complex | np.ndarray | np.generic) or hasattr(
            leaf, "__array__"
        ):
            array = np.asarray(leaf)
            if array.dtype.kind in "OUS":
                raise TargetError(
                    f"data of dtype {array.dtype} cannot enter a density; encode it as numbers"
                )
            return _on_device(array)
        return _on_device(np.asarray(leaf)) if _is_number_list(leaf) else leaf

    converted: Any = jax.tree.map(convert, tree, is_leaf=_is_number_list)
    return converted


def _on_device(array: np.ndarray) -> jax.Array:
    dtype = jax.dtypes.canonicalize_dtype(array.dtype)
    if array.dtype.kind in "iu" and array.size and dtype != array.dtype:
        limits = np.iinfo(dtype)
        if array.min() < limits.min or array.max() > limits.max:
            raise TargetError(
                f"data hold the integer {array.flat[np.argmax(np.abs(array))]}, which {dtype.name} "
                'cannot; write jax.config.update("jax_enable_x64", True), or floats'
            )
    return jnp.asarray(array, dtype=dtype)


def _is_number_list(tree: Any) -> bool:
    if not isinstance(tree, list) or not tree:
        return False
    leaves = jax.tree.leaves(tree)
    if not all(isinstance(x, bool | int | float | np.generic) for x in leaves):
        return False
    try:
        return np.asarray(tree).dtype.kind in "biuf"
    except ValueError:  # ragged
        return False


def as_template(template: PyTree) -> PyTree[jax.ShapeDtypeStruct]:
    """Shapes and dtypes of one position."""

    def convert(leaf: Any) -> jax.ShapeDtypeStruct:
        if isinstance(leaf, jax.ShapeDtypeStruct):
            return jax.ShapeDtypeStruct(leaf.shape, jax.dtypes.canonicalize_dtype(leaf.dtype))
        if isinstance(leaf, float | int | np.ndarray | np.generic | jax.Array):
            array = jnp.asarray(leaf)
            return jax.ShapeDtypeStruct(array.shape, array.dtype)
        raise TargetError(
            "template must be a pytree of arrays or jax.ShapeDtypeStruct, one position of the "
            f"target; got a leaf of type {type(leaf).__name__}. Write jnp.zeros(3) for a vector "
            'of three, {"mu": jnp.zeros(()), "beta": jnp.zeros(5)} for named parts.'
        )

    converted = jax.tree.map(
        convert,
        template,
        is_leaf=lambda x: x is None or isinstance(x, jax.ShapeDtypeStruct),
    )
    if not jax.tree.leaves(converted):
        raise TargetError(
            f"template holds no arrays: got {template!r}; a position needs at least one"
        )
    return converted


def dimension(template: PyTree) -> int:
    """Number of scalars in one position."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(template))


def float_dtype(template: PyTree) -> jnp.dtype:
    """Widest floating dtype of a template, or the default one when it has none."""
    leaves = [leaf.dtype for leaf in jax.tree.leaves(template)]
    floats = [dtype for dtype in leaves if jnp.issubdtype(dtype, jnp.floating)]
    return jnp.result_type(*floats) if floats else jnp.result_type(float)


def named(values: Values) -> dict[str, Any]:
    """Flatten a pytree to names: keys joined by ".", tuple items x0, x1, a bare array "x"."""
    result: dict[str, Any] = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(values)[0]:
        name = ".".join(_entry_name(entry) for entry in path) or "x"
        if name in result:
            raise TargetError(
                f"two parts of the position are called {name!r}; names are the keys joined by "
                '".", so rename one of them'
            )
        result[name] = leaf
    return result


def _entry_name(entry: Any) -> str:
    match entry:
        case jax.tree_util.DictKey(key):
            return str(key)
        case jax.tree_util.GetAttrKey(name):
            return str(name)
        case jax.tree_util.SequenceKey(index):
            return f"x{index}"
        case jax.tree_util.FlattenedIndexKey(index):
            return f"x{index}"
        case _:
            return str(entry)


def describe(template: PyTree) -> str:
    """One line for error messages, such as ``{mu: float32[], beta: float32[5]}``."""
    parts = [
        f"{name}: {leaf.dtype.name}{list(leaf.shape)}" for name, leaf in named(template).items()
    ]
    return "{" + ", ".join(parts) + "}"


def require_template(tree: PyTree, template: PyTree, what: str) -> None:
    """Raise unless ``tree`` has the structure and shapes of ``template``."""
    if jax.tree.structure(tree) != jax.tree.structure(template):
        raise TargetError(
            f"{what} does not fit the target: expected {describe(template)}, "
            f"got {jax.tree.structure(tree)}"
        )
    for (name, expected), leaf in zip(named(template).items(), jax.tree.leaves(tree), strict=True):
        if jnp.shape(leaf) != expected.shape:
            raise TargetError(
                f"{what} does not fit the target: {name!r} should have shape "
                f"{expected.shape}, got {jnp.shape(leaf)}"
            )


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
        ``fn(position, *data) -> scalar``, the unnormalised log-density in nats.
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
    """A NumPyro distribution: normalised and samplable."""

    distribution: Distribution
    template: PyTree[jax.ShapeDtypeStruct]

    @property
    def offers(self) -> frozenset[str]:
        return self._with_gradient("log_density", "sample", "log_normalizer")

    @property
    def log_normalizer(self) -> Float[Array, ""]:
        """Zero: the density is normalised."""
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


# Algebra --------------------------------------------------------------------------------------


class Posterior(Energy):
    """``prior(x) exp(strength * log_likelihood(x, *data))``, in the prior's coordinates."""

    prior: Any
    log_likelihood_fn: Callable[..., Any]
    data: tuple[Any, ...]
    strength: Float[Array, ""]

    @property
    def template(self) -> PyTree[jax.ShapeDtypeStruct]:
        return self.prior.template

    @property
    def offers(self) -> frozenset[str]:
        names = ["log_likelihood"]
        if _has_density(self.prior):
            names += ["log_density", "log_parts"]
        if hasattr(self.prior, "denoise"):
            names += ["denoise"]
        return self._with_gradient(*names)

    def log_likelihood(self, position: Position) -> Any:
        """Log-likelihood (or scaled reward) of a position, in nats."""
        values = self.constrain(position)
        return self.strength * self.log_likelihood_fn(values, *self.data)

    def log_parts(self, position: Position) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """Log prior (with log-Jacobian) and log-likelihood."""
        return self.prior.log_density(position), self.log_likelihood(position)

    def log_density(self, position: Position) -> Float[Array, ""]:
        log_prior, log_likelihood = self.log_parts(position)
        return log_prior + log_likelihood

    def constrain(self, position: Position) -> Values:
        return getattr(self.prior, "constrain", lambda z: z)(position)

    def unconstrain(self, values: Values) -> Position:
        return getattr(self.prior, "unconstrain", lambda x: x)(values)

    def log_jacobian(self, position: Position) -> Float[Array, ""]:
        if hasattr(self.prior, "log_jacobian"):
            return self.prior.log_jacobian(position)
        return Energy.log_jacobian(self, position)

    def outputs(self, position: Position) -> dict[str, Array]:
        return getattr(self.prior, "outputs", named)(position)

    def refuse(self, capability: str) -> str:
        if capability in ("log_density", "gradient"):
            return (
                f"this posterior has no {capability!r}, because its prior "
                f"({type(self.prior).__name__}) has none: it can only be sampled. Use a sampler "
                "that steers the prior's own sampler or weighs its draws"
            )
        if capability == "denoise":
            return (
                f"its prior ({type(self.prior).__name__}) has no denoiser; "
                "samplers.DiffusionPrior(path, denoiser, template) makes a prior of one"
            )
        return Energy.refuse(self, capability)


def _has_density(prior: Any) -> bool:
    if isinstance(prior, Energy):
        return "log_density" in prior.offers
    return hasattr(prior, "log_density")


def posterior(prior: Any, log_likelihood: Callable[..., ArrayLike], *data: Any) -> Posterior:
    """Posterior ``prior(x) exp(log_likelihood(x, *data))``.

    Parameters
    ----------
    prior
        Any `Prior`: a target that can be sampled, a NumPyro distribution, a diffusion prior.
    log_likelihood
        ``log_likelihood(x, *data) -> scalar`` in nats; ``x`` as the user sees it (constrained).
    data
        As in `from_log_density`.
    """
    return _posterior(prior, log_likelihood, data, 1.0, "log_likelihood")


def tilt(
    prior: Any, reward: Callable[..., ArrayLike], *data: Any, strength: ArrayLike = 1.0
) -> Posterior:
    """Tilted law ``prior(x) exp(strength * reward(x, *data))``; ``strength`` is traced."""
    return _posterior(prior, reward, data, strength, "reward")


def _posterior(prior: Any, fn: Any, data: tuple, strength: ArrayLike, name: str) -> Posterior:
    if isinstance(prior, Distribution):
        prior = from_distribution(prior)
    if not isinstance(prior, Prior):
        raise TargetError(
            "the prior must be able to draw: from_distribution(...), from_numpyro(...), a "
            f"diffusion prior, or an object with sample(rng_key, n) and template; got "
            f"{type(prior).__name__}"
        )
    if not callable(fn):
        raise TargetError(f"{name} must be a function {name}(x, *data); got {fn!r}")
    dtype = float_dtype(prior.template)
    target = Posterior(prior, fn, as_data(data), jnp.asarray(strength, dtype))  # pyright: ignore[reportCallIssue]
    check_scalar(target.log_likelihood, prior.template, name=getattr(fn, "__name__", name))
    return target


class Tempered(Energy):
    """Geometric path ``reference^(1 - b) target^b`` at inverse temperature ``b``."""

    reference: Energy
    target: Energy
    inverse_temperature: Float[Array, ""]

    @property
    def template(self) -> PyTree[jax.ShapeDtypeStruct]:
        return self.target.template

    def log_density(self, position: Position) -> Float[Array, ""]:
        b = self.inverse_temperature
        start, end = (
            self.reference.log_density(position),
            self.target.log_density(position),
        )
        # 0 * inf is nan; an endpoint of the path must not see the other end at all.
        start = jnp.where(b < 1, (1 - b) * jnp.where(b < 1, start, 0.0), 0.0)
        end = jnp.where(b > 0, b * jnp.where(b > 0, end, 0.0), 0.0)
        return start + end

    def constrain(self, position: Position) -> Values:
        return self.target.constrain(position)

    def unconstrain(self, values: Values) -> Position:
        return self.target.unconstrain(values)

    def log_jacobian(self, position: Position) -> Float[Array, ""]:
        return self.target.log_jacobian(position)

    def outputs(self, position: Position) -> dict[str, Array]:
        return self.target.outputs(position)


def tempered(reference: Energy, target: Energy, inverse_temperature: ArrayLike) -> Tempered:
    """Target ``reference^(1 - b) target^b``, on the target's coordinates.

    The inverse temperature in [0, 1] is traced: a new one does not compile again.
    """
    _require_same_coordinates((reference, target), "tempered")
    value = np.asarray(inverse_temperature) if not _is_traced(inverse_temperature) else None
    if value is not None and not np.all((value >= 0) & (value <= 1)):
        raise TargetError(f"inverse_temperature must lie in [0, 1]; got {inverse_temperature}")
    dtype = float_dtype(target.template)
    b = jnp.asarray(inverse_temperature, dtype)
    return Tempered(reference, target, b)  # pyright: ignore[reportCallIssue]


class Product(Energy):
    """``prod_i p_i(x)`` of targets on one space."""

    factors: tuple[Energy, ...]

    @property
    def template(self) -> PyTree[jax.ShapeDtypeStruct]:
        return self.factors[0].template

    def log_density(self, position: Position) -> Float[Array, ""]:
        total = sum(factor.log_density(position) for factor in self.factors)
        # Every factor brought the same log-Jacobian along; the product owns it once.
        return total - (len(self.factors) - 1) * self.log_jacobian(position)

    def constrain(self, position: Position) -> Values:
        return self.factors[0].constrain(position)

    def unconstrain(self, values: Values) -> Position:
        return self.factors[0].unconstrain(values)

    def log_jacobian(self, position: Position) -> Float[Array, ""]:
        return self.factors[0].log_jacobian(position)

    def outputs(self, position: Position) -> dict[str, Array]:
        return self.factors[0].outputs(position)


def product(*targets: Energy) -> Product:
    """Product of experts on one space; the log-Jacobian of the space enters once."""
    if not targets:
        raise TargetError("product takes at least one target")
    _require_same_coordinates(targets, "product")
    return Product(tuple(targets))  # pyright: ignore[reportCallIssue]


def _require_same_coordinates(targets: tuple[Energy, ...], what: str) -> None:
    for target in targets:
        if "log_density" not in target.offers:
            raise TargetError(f"{what}: {target.refuse('log_density')}")
    first = targets[0].template
    probe = jax.tree.map(lambda leaf: jnp.full(leaf.shape, 0.3, leaf.dtype), first)
    for other in targets[1:]:
        if jax.tree.structure(other.template) != jax.tree.structure(first) or [
            leaf.shape for leaf in jax.tree.leaves(other.template)
        ] != [leaf.shape for leaf in jax.tree.leaves(first)]:
            raise TargetError(
                f"{what}: the targets live on different spaces: {describe(first)} and "
                f"{describe(other.template)}"
            )
        a, b = (jax.tree.leaves(t.constrain(probe)) for t in (targets[0], other))
        same = len(a) == len(b) and all(
            np.shape(x) == np.shape(y) and np.allclose(x, y) for x, y in zip(a, b, strict=False)
        )
        if not same:
            raise TargetError(
                f"{what}: the targets have different supports; give both the same constraints"
            )


def _is_traced(value: Any) -> bool:
    return isinstance(value, Tracer)


class Stack(eqx.Module):
    """Several targets of one structure, leaves stacked along a leading axis."""

    stacked: Energy
    size: int = eqx.field(static=True)

    def __getitem__(self, index: int) -> Energy:
        return entry(self.stacked, index)

    def __len__(self) -> int:
        return self.size


def entry[T](tree: T, index: int) -> T:
    """One entry of all arrays along their leading axis; ``x[index]`` compiles for every index."""
    arrays, rest = eqx.partition(tree, eqx.is_array)
    at = np.asarray(index, np.int32)
    one = jax.tree.map(lambda x: lax.dynamic_index_in_dim(x, at, keepdims=False), arrays)
    return eqx.combine(one, rest)


def stack(targets: Any) -> Stack:
    """Stack targets that differ only in the values of their data, for `sample_batch`.

    Raises
    ------
    TargetError
        If they differ in structure, in shapes, or in a static argument (an int, a string).
    """
    targets = list(targets)
    if not targets:
        raise TargetError("stack takes at least one target")
    parts = [eqx.partition(target, eqx.is_array) for target in targets]
    first_arrays, first_rest = parts[0]
    for index, (arrays, rest) in enumerate(parts[1:], start=1):
        if jax.tree.structure(arrays) != jax.tree.structure(first_arrays) or not _same(
            rest, first_rest
        ):
            raise TargetError(
                f"target {index} differs from target 0 in structure or in a static argument; "
                "stacked targets share the model and its sizes and differ in data only"
            )
        for x, y in zip(jax.tree.leaves(first_arrays), jax.tree.leaves(arrays), strict=True):
            if x.shape != y.shape or x.dtype != y.dtype:
                raise TargetError(
                    f"target {index} holds an array {y.dtype.name}{list(y.shape)} where target 0 "
                    f"has {x.dtype.name}{list(x.shape)}; pad or mask the data to one shape"
                )
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(arrays for arrays, _ in parts))
    return Stack(eqx.combine(stacked, first_rest), len(targets))


def _same(a: Any, b: Any) -> bool:
    return jax.tree.structure(a) == jax.tree.structure(b) and all(
        x is y or x == y for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    )
