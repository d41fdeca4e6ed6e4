"""A diffusion prior: a denoiser on a noise path, as a law that can be sampled and conditioned.

    D(x, t) = E[x_0 | x_t = x],    denoise(y, s) = E[x_0 | x_0 + s eps = y]

The denoiser is a network, a closed form, or a user's function of one of the kinds of
`samplers.diffusion.conversions`. Draws are those of a solver of the reverse equation, so they are
as good as solver, path and denoiser are: not exact. With conditions declared the function has a
third argument, and guidance extrapolates [1]:

    D = D_none + w (D_condition - D_none)

which for w other than 1 is a law of its own, not the condition's.

References
----------
.. [1] Ho and Salimans, "Classifier-free diffusion guidance", 2022, arXiv:2207.12598.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import random
from jax.core import Tracer
from jaxtyping import Array, ArrayLike, Float, PRNGKeyArray, PyTree

from ppl.energy import Energy, Position, TargetError
from ppl.template import as_template, describe, float_dtype
from samplers.diffusion import points
from samplers.diffusion.conversions import Prediction
from samplers.diffusion.paths import Level, NoisePath


class DiffusionPrior(Energy):
    """A law given by its denoiser at every noise level.

    Parameters
    ----------
    path
        Noise path that the denoiser was made for: see `samplers.diffusion.paths`.
    denoiser
        ``denoiser(y, sigma) -> D`` for one position y that carries noise of the standard deviation
        sigma and nothing else, as a target's own ``denoise``; or a network in the coordinates of
        the path, ``fn(x, t)``, wrapped by what it predicts: ``PredictsNoise(fn)``, `PredictsV`,
        `PredictsScore`, `PredictsVelocity`, `PredictsDenoised`. With ``conditions`` it takes the
        condition as a third argument, None for none.
    template
        One position: array, ``jax.ShapeDtypeStruct``, or a pytree of them.
    conditions
        What the denoiser may be conditioned on: a number of classes, a tuple of labels (the
        denoiser gets the place in it), or a template of arrays. `given` sets one.
    sampler
        How `sample` draws; `DiffusionSampler` with its defaults.
    density
        How ``log_density`` is computed: a `ProbabilityFlow`. By default there is none, since each
        value costs the solution of a differential equation.

    Raises
    ------
    TargetError
        For a denoiser that does not return a position like the template, and for one that returns
        noise where denoised values were announced, or the reverse: at the highest level of noise
        these are told apart.
    """

    path: NoisePath
    denoiser: Callable[..., Any]
    template: PyTree[jax.ShapeDtypeStruct]
    conditions: Any
    condition: Any
    guidance: Any
    sampler: Any
    density: Any

    def __init__(
        self,
        path: Any,
        denoiser: Any,
        template: PyTree,
        *,
        conditions: Any = None,
        sampler: Any = None,
        density: Any = None,
    ) -> None:
        from samplers.diffusion.sampler import DiffusionSampler

        if not isinstance(path, NoisePath):
            raise TargetError(
                f"the first argument is a noise path such as samplers.EDM(); got {path!r}"
            )
        if not callable(getattr(denoiser, "fn", denoiser)):
            raise TargetError(
                "denoiser must be a function denoiser(y, sigma), or one wrapped by what it "
                f"predicts, such as samplers.PredictsNoise(fn); got {denoiser!r}"
            )
        self.path, self.denoiser, self.template = path, denoiser, as_template(template)
        self.conditions, self.condition, self.guidance = _declared(conditions), None, None
        self.density = density
        self.sampler = (DiffusionSampler() if sampler is None else sampler).on(path)
        _check_output(self)
        _check_kind(self)

    # What it is -----------------------------------------------------------------------------

    @property
    def offers(self) -> frozenset[str]:
        names = ("denoise",) if self.density is None else ("denoise", "log_density")
        return self._with_gradient(*names)

    def refuse(self, capability: str) -> str:
        if capability in ("log_density", "gradient"):
            return (
                "this diffusion prior has no log-density; DiffusionPrior(..., "
                "density=samplers.ProbabilityFlow()) computes it, at the cost of a differential "
                "equation each"
            )
        if capability == "sample":
            return (
                "the draws of a diffusion prior are a solver's, not exact: "
                "use samplers.DiffusionSampler()"
            )
        return Energy.refuse(self, capability)

    def given(self, condition: Any, guidance: ArrayLike | None = None) -> "DiffusionPrior":
        """The same prior under a condition; both arguments are traced.

        ``guidance`` is the w of the module, by default none: one evaluation a call instead of two.
        """
        chosen = _condition(self.conditions, condition)
        weight = None if guidance is None else jnp.asarray(guidance, float_dtype(self.template))
        is_leaf = lambda leaf: leaf is None
        at = lambda prior: (prior.condition, prior.guidance)
        return eqx.tree_at(at, self, (chosen, weight), is_leaf=is_leaf)

    # What it does ---------------------------------------------------------------------------

    def denoised(self, x: Array, level: Level) -> Array:
        """D at a point of the path, as `samplers.diffusion.integrate` calls it.

        The point is an array (`flat`), relative to the path's center, and so is what comes back.
        """
        if self.conditions is None:
            return self._predict(x, level)
        if self.guidance is None or self.condition is None:
            return self._predict(x, level, self.condition)
        without = self._predict(x, level, None)
        return without + self.guidance * (self._predict(x, level, self.condition) - without)

    def _predict(self, x: Array, level: Level, *condition: Any) -> Array:
        center = self.center
        if not isinstance(self.denoiser, Prediction):
            y = self.position(center + x / level.alpha)
            return self.flat(self.denoiser(y, level.sigma / level.alpha, *condition)) - center
        output = self.flat(self.denoiser.fn(self.position(center + x), level.t, *condition))
        if self.denoiser.relative:
            output = output - center
        return self.denoiser.denoised(output, x, level)

    def denoise(self, position: Position, sigma: Any) -> Position:
        """E[x_0 | x_0 + sigma eps = position], whatever the path."""
        y = self.flat(position) - self.center
        sigma = jnp.asarray(sigma, y.dtype)
        level = self.path.level(self.path.time(-jnp.log(sigma)))
        # The ratio is the one asked for to the last digit.
        level = level._replace(sigma=sigma * level.alpha)
        return self.position(self.center + self.denoised(level.alpha * y, level))

    def sample(self, rng_key: PRNGKeyArray, n: int) -> Position:
        """``n`` draws of the solver of this prior."""
        return self.sampler.draw(rng_key, self, n)[0]

    def log_density(self, position: Position) -> Float[Array, ""]:
        if self.density is None:
            raise TargetError(self.refuse("log_density"))
        return self.density.log_density(self, position)

    # Coordinates ----------------------------------------------------------------------------

    @property
    def center(self) -> Array:
        """Where the path's data shrink to, as an array like a point."""
        center = self.path.center
        if isinstance(center, np.ndarray) and center.ndim == 0:
            return jnp.asarray(center, float_dtype(self.template))
        return self.flat(jax.tree.map(lambda x, c: jnp.asarray(c, x.dtype), self.template, center))

    @property
    def point(self) -> jax.ShapeDtypeStruct:
        """Shape and dtype of a point: a position that is an array as it is, others raveled."""
        return jax.eval_shape(lambda: self.flat(points.zeros(self.template)))

    def flat(self, position: Position) -> Array:
        """From a position to a point."""
        return points.flat(position)

    def position(self, point: Array) -> Position:
        """From a point to a position."""
        return points.position(self.template, point)

    def noise(self, rng_key: PRNGKeyArray, n: int) -> Float[Array, "n ..."]:
        """``n`` points of the path's noise, at unit level."""
        point = self.point
        draw = lambda key: self.path.noise(key, point.shape, point.dtype)
        return jax.vmap(draw)(random.split(rng_key, n))


# Conditions -----------------------------------------------------------------------------------


def _declared(conditions: Any) -> Any:
    if conditions is None or isinstance(conditions, int | tuple):
        return conditions
    return as_template(conditions)


def _condition(conditions: Any, condition: Any) -> Any:
    """What the denoiser is called with, checked."""
    if conditions is None:
        raise TargetError(
            f"this prior takes no condition; got {condition!r}. Declare what its denoiser was "
            "trained with: DiffusionPrior(..., conditions=10) for ten classes"
        )
    if condition is None:
        return None
    if isinstance(conditions, tuple):
        if condition not in conditions:
            raise TargetError(
                f"unknown condition {condition!r}; this prior knows "
                + ", ".join(map(str, conditions))
            )
        return jnp.asarray(conditions.index(condition), jnp.int32)
    if isinstance(conditions, int):
        known = isinstance(condition, Tracer) or (
            np.ndim(condition) == 0
            and np.issubdtype(np.asarray(condition).dtype, np.integer)
            and 0 <= condition < conditions
        )
        if not known:
            raise TargetError(
                f"unknown condition {condition!r}; this prior knows the classes 0 to "
                f"{conditions - 1}"
            )
        return jnp.asarray(condition, jnp.int32)
    given = as_template(condition)
    if describe(given) != describe(conditions):
        raise TargetError(
            f"the condition does not fit: expected {describe(conditions)}, got {describe(given)}"
        )
    return jax.tree.map(jnp.asarray, condition)


def _any_condition(prior: DiffusionPrior) -> tuple[Any, ...]:
    if prior.conditions is None:
        return ()
    if isinstance(prior.conditions, int | tuple):
        return (jnp.zeros((), jnp.int32),)
    return (points.zeros(prior.conditions),)


# Checks of a denoiser -------------------------------------------------------------------------


def _check_output(prior: DiffusionPrior) -> None:
    fn = getattr(prior.denoiser, "fn", prior.denoiser)
    t = jax.ShapeDtypeStruct((), float_dtype(prior.template))
    try:
        out = jax.eval_shape(fn, prior.template, t, *_any_condition(prior))
    except (TypeError, ValueError) as error:
        third = ", condition" if prior.conditions is not None else ""
        raise TargetError(
            f"the denoiser failed on (position, noise level{third}) = ({describe(prior.template)}, "
            f"{t.dtype.name}[]{third}): {error}"
        ) from error
    if jax.tree.structure(out) != jax.tree.structure(prior.template):
        raise TargetError(
            f"the denoiser must return a position like the template {describe(prior.template)}; "
            f"got {jax.tree.structure(out)}"
        )
    if describe(out) != describe(prior.template):
        raise TargetError(
            f"the denoiser must return what it is given, {describe(prior.template)}; it returns "
            f"{describe(out)}. It is called with one position at a time, without a batch axis"
        )


def _check_kind(prior: DiffusionPrior) -> None:
    """Tell noise from denoised values where they differ most: at the highest noise."""
    if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(eqx.filter(prior, eqx.is_array))):
        return
    slopes = [_slope(prior, share) for share in (1.0, 0.5)]
    like_noise = all(0.8 < slope < 1.2 and rest < 0.3 for slope, rest in slopes)
    kind = type(prior.denoiser).__name__ if isinstance(prior.denoiser, Prediction) else None
    if like_noise and kind in (None, "PredictsDenoised"):
        raise TargetError(
            "this denoiser returns the noise, not the data: at the highest level of noise its "
            f"values follow the noise with the slope {slopes[0][0]:.2f}. Wrap it: "
            "samplers.PredictsNoise(fn)"
        )
    if kind == "PredictsNoise" and abs(slopes[0][0]) < 0.2:
        raise TargetError(
            "this function is announced as one that predicts the noise, but at the highest level "
            f"of noise its values do not follow the noise (slope {slopes[0][0]:.2f}, expected 1). "
            "If it predicts the data, wrap it: samplers.PredictsDenoised(fn)"
        )


def _slope(prior: DiffusionPrior, share: float) -> tuple[float, float]:
    """Regression of what the function returns on the noise it is given, and the relative rest."""
    path = prior.path
    top = path.level(np.float64(path.t_max))
    t = path.time(-np.log(share * top.kappa))
    level = jax.tree.map(lambda x: jnp.asarray(x, prior.point.dtype), path.level(np.asarray(t)))
    noise = prior.noise(random.key(0), 16)
    given = _any_condition(prior)

    def one(z: Array) -> Array:
        x = level.sigma * z
        if isinstance(prior.denoiser, Prediction):
            return prior.flat(prior.denoiser.fn(prior.position(prior.center + x), level.t, *given))
        y = prior.position(prior.center + x / level.alpha)
        return prior.flat(prior.denoiser(y, level.kappa, *given))

    output = np.asarray(jax.jit(jax.vmap(one))(noise), np.float64)
    output, z = output - output.mean(0), np.asarray(noise, np.float64)
    z = z - z.mean(0)
    slope = np.vdot(output, z) / np.vdot(z, z)
    rest = np.linalg.norm(output - slope * z) / max(np.linalg.norm(z), 1e-30)
    return float(slope), float(rest)
