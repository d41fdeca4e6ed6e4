"""Targets made of targets: posteriors, tilts, tempered paths, products and stacks.

The log-Jacobian of a change of variables is in a target once, so it is once in a product too.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer
from jaxtyping import Array, ArrayLike, Float, PyTree
from numpyro.distributions import Distribution

from ppl.energy import Energy, Prior, check_scalar, from_distribution
from ppl.template import Position, TargetError, Values, as_data, describe, float_dtype, named


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
        names += [name for name in ("denoise", "unmask") if hasattr(self.prior, name)]
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
