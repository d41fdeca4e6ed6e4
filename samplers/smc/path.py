"""The geometric path from what can be sampled to the target, and how fast to walk it.

    pi_b(x) = r(x) exp(b V(x)),   b from 0 to 1,   V = log target - log r

For a posterior r is the prior and V the log-likelihood, each evaluated once; with a reference of
the user's own, r is that and V the difference. At b = 0 there are exact draws, at b = 1 is the
target; pi_b is a target like any other, whose b is traced.
"""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer
from jaxtyping import Array, ArrayLike, Float, PRNGKeyArray, PyTree
from numpyro.distributions import Distribution

from ppl import weights
from ppl.energy import Energy, Position, TargetError, from_distribution
from ppl.sampler import MarkovKernel
from ppl.template import require_template

CLOSE = 1e-3  # of a step in temperature, at which its length is known
MAX_BISECTIONS = 60


class Known(NamedTuple):
    """The path at one position or at many: V, and what makes of it the density of any pi_b.

    ``slopes``, the gradients of log r and of V, are there for moves that can do with them
    (`MarkovKernel.plain_state`), else None.
    """

    log_ratio: Float[Array, "*n"]
    log_reference: Float[Array, "*n"]
    slopes: tuple[PyTree, PyTree] | None = None

    @property
    def log_density(self) -> Float[Array, "*n"]:
        """That of the target."""
        return self.log_reference + self.log_ratio

    def at(self, b: Float[Array, ""]) -> tuple[Float[Array, "*n"], PyTree]:
        """Log pi_b and its gradient, or None: no evaluation is needed."""
        log_density = self.log_reference + b * self.log_ratio
        if self.slopes is None:
            return log_density, None
        return log_density, jax.tree.map(lambda r, v: r + b * v, *self.slopes)


class Path(eqx.Module):
    """From the reference to the target.

    Parameters
    ----------
    target
        Where it ends. Without a reference it offers ``log_parts`` and its prior can be sampled.
    reference
        Where it starts: normalized and samplable. None: the prior.
    """

    target: Any
    reference: Any = None

    def sample(self, rng_key: PRNGKeyArray, n: int) -> Position:
        """``n`` exact draws at b = 0."""
        if self.reference is not None:
            return self.reference.sample(rng_key, n)
        # A posterior holds its prior; a model is its own, and its `sample` ignores the data.
        return getattr(self.target, "prior", self.target).sample(rng_key, n)

    def log_parts(self, position: Position) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """Log r and V of one position."""
        if self.reference is None:
            return self.target.log_parts(position)
        log_reference = self.reference.log_density(position)
        return log_reference, self.target.log_density(position) - log_reference

    def log_ratios(self, positions: Position) -> Float[Array, " n"]:
        """V of each of many positions."""
        return jax.vmap(lambda position: self.log_parts(position)[1])(positions)

    def log_reference(self, position: Position) -> Float[Array, ""]:
        """Log r; what the compiler finds of the target in it is left out."""
        if self.reference is None:
            return self.target.log_parts(position)[0]
        return self.reference.log_density(position)

    def known(self, positions: Position, move: MarkovKernel) -> Known:
        """What a move by this kernel can start from, at each of many positions."""
        if move.plain_state is None or "gradient" not in move.needs:
            log_references, log_ratios = jax.vmap(self.log_parts)(positions)
            return Known(log_ratios, log_references)

        def one(position: Position) -> Known:
            log_reference, of_reference = jax.value_and_grad(self.log_reference)(position)
            log_ratio, of_ratio = jax.value_and_grad(lambda x: self.log_parts(x)[1])(position)
            return Known(log_ratio, log_reference, (of_reference, of_ratio))

        return jax.vmap(one)(positions)

    def known_from(
        self, positions: Position, b: Float[Array, "*n"], log_densities: Array, gradients: PyTree
    ) -> Known:
        """The same, from log pi_b and its gradient, b one for all or one for each: r is the price.

        Rounding is that of log pi_b in units of b, as seen from any pi_b.
        """

        def one(position: Position, b: Array, log_density: Array, gradient: PyTree) -> Known:
            # A density of zero is that of the target: r has been there.
            def log_ratio(log_reference: Array) -> Array:
                return jnp.where(
                    log_density == -jnp.inf, -jnp.inf, (log_density - log_reference) / b
                )

            if gradient is None:
                log_reference = self.log_reference(position)
                return Known(log_ratio(log_reference), log_reference)
            log_reference, slope = jax.value_and_grad(self.log_reference)(position)
            rest = jax.tree.map(lambda g, r: (g - r) / b, gradient, slope)
            return Known(log_ratio(log_reference), log_reference, (slope, rest))

        bs = jnp.broadcast_to(b, log_densities.shape)
        return jax.vmap(one)(positions, bs, log_densities, gradients)

    def at(self, inverse_temperature: Float[Array, ""]) -> "Rung":
        """Return pi_b as a target."""
        return Rung(self, inverse_temperature)  # pyright: ignore[reportCallIssue]

    def check(self, name: str) -> None:
        """Raise unless the start can be sampled and both densities are there."""
        if self.reference is not None:
            require_template(self.reference.template, self.target.template, "reference")
            for capability in ("log_density", "sample"):
                if capability not in self.reference.offers:
                    refusal = self.reference.refuse(capability)
                    raise TargetError(f"{name} starts from the reference: {refusal}")
            return
        prior = getattr(self.target, "prior", self.target)
        if "log_parts" not in self.target.offers:
            raise TargetError(
                f"{name} walks from a prior to the target, and this {type(self.target).__name__} "
                "does not say which part of it is the prior. Write ppl.posterior(prior, "
                "log_likelihood) or a NumPyro model, or say where to start: "
                f"samplers.{name}(reference=numpyro.distributions.Normal(jnp.zeros(d), "
                "3.0).to_event(1)), in unconstrained space and wider than the target"
            )
        if isinstance(prior, Energy) and "sample" not in prior.offers:
            raise TargetError(f"{name} draws from the prior: {prior.refuse('sample')}")


class Rung(Energy):
    """pi_b, for the kernels that move particles."""

    path: Path
    inverse_temperature: Float[Array, ""]

    @property
    def template(self) -> PyTree[jax.ShapeDtypeStruct]:
        return self.path.target.template

    def log_density(self, position: Position) -> Float[Array, ""]:
        log_reference, log_ratio = self.path.log_parts(position)
        b = self.inverse_temperature.astype(log_reference.dtype)
        # 0 * inf is NaN: the reference must not see the target at all.
        return log_reference + jnp.where(b > 0, b * jnp.where(b > 0, log_ratio, 0), 0)


def as_reference(value: Any) -> Any:
    """Field converter: None, a NumPyro distribution, or a target that can be sampled."""
    if isinstance(value, Distribution):
        return from_distribution(value)
    if value is None or isinstance(value, Energy) or type(value) is object:
        return value
    raise ValueError(
        f"reference must be a NumPyro distribution or a target that can be sampled; got {value!r}"
    )


def as_schedule(value: Any) -> Any:
    """Field converter: inverse temperatures that rise to 1, or None."""
    if value is None or isinstance(value, Tracer) or type(value) is object:
        return value
    expected = "inverse temperatures that rise strictly, from above 0 to 1"
    try:
        numbers = np.asarray(value, np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"schedule must be {expected}; got {value!r}") from error
    if numbers.ndim != 1 or not len(numbers) or isinstance(value, bool):
        raise ValueError(f"schedule must be {expected}, such as (0.01, 0.1, 1.0); got {value!r}")
    if not (numbers[0] > 0 and (np.diff(numbers) > 0).all() and numbers[-1] == 1):
        raise ValueError(f"schedule must be {expected}; got {value}")
    return value if isinstance(value, jax.Array) else jnp.asarray(numbers, jnp.result_type(float))


# Weights along the path -------------------------------------------------------------------------


def increments(step: ArrayLike, log_ratios: Float[Array, " n"]) -> Float[Array, " n"]:
    """``step V``, where a V that is -inf stays so whatever the step."""
    log_ratios = weights.clean(log_ratios)
    finite = jnp.isfinite(log_ratios)
    return jnp.where(finite, step * jnp.where(finite, log_ratios, 0), -jnp.inf)


def next_inverse_temperature(
    log_ratios: Float[Array, " n"],
    log_weights: Float[Array, " n"],
    b: Float[Array, ""],
    kept: Float[Array, ""],
    rule: str = "ess",
) -> Float[Array, ""]:
    """Smallest b' at which no more than the share ``kept`` of the effective size is left, or 1.

    ``"ess"``: of the effective sample size of all weights; ``"cess"``: of the conditional one of
    the increments, with the present weights as masses. Particles of no weight at any b' > b have
    none to lose and do not count.
    """

    def left(middle: Array) -> Array:
        steps = increments(middle - b, log_ratios)
        if rule == "cess":
            return weights.cess(log_weights, steps)
        return weights.ess(log_weights + steps)

    goal = kept * left(b)

    def halve(bracket: tuple[Any, Array, Array]) -> tuple[Any, Array, Array]:
        count, low, high = bracket
        middle = (low + high) / 2
        enough = left(middle) > goal
        return count + 1, jnp.where(enough, middle, low), jnp.where(enough, high, middle)

    def is_wide(bracket: tuple[Any, Array, Array]) -> Any:
        count, low, high = bracket
        return (count < MAX_BISECTIONS) & (high - low > CLOSE * (high - b))

    one = jnp.ones_like(b)
    *_, found = lax.while_loop(is_wide, halve, (jnp.int32(0), b, one))
    # Each step is one that numbers of this precision can tell.
    found = jnp.clip(found, b * (1 + 4 * jnp.finfo(b.dtype).eps), one)
    return jnp.where((goal > 0) & (left(one) <= goal), found, one)


# Nothing to start from ---------------------------------------------------------------------------


def why_dead(
    path: Path, positions: Position, log_ratios: Any, name: str, drawn_by: str | None = None
) -> str:
    """Message for a population of which no particle has any weight, on the host.

    Where the target has a pointwise log-likelihood, the observations that kill the draws are
    named, the most deadly first. ``drawn_by`` names the sampler that made them, if that was not
    the start of the path.
    """
    log_ratios = np.asarray(log_ratios)
    n, not_numbers = len(log_ratios), int(weights.count_illegal(log_ratios))
    deadly = _deadly(path, positions)
    killed = "; killed by " + ", ".join(deadly) if deadly else ""
    if drawn_by is not None:
        return (
            f"{name}: none of {n} draws of start={drawn_by}(...) has a weight above 0{killed}. "
            "Check that it was trained for this target and draws where its density is, raise "
            "num_particles, or leave start= out and walk from the prior or a reference="
        )
    start = "the reference" if path.reference is not None else "the prior"
    illegal = f" ({not_numbers} are NaN or +inf)" if not_numbers else ""
    return (
        f"{name}: none of {n} draws from {start} has a likelihood above 0{illegal}{killed}. Check "
        "the data against the support of the model, raise num_particles, or start nearer to the "
        "target with reference="
    )


def _deadly(path: Path, positions: Position, most: int = 4) -> list[str]:
    if path.reference is not None or "pointwise_log_likelihood" not in path.target.offers:
        return []
    found = []
    for site, values in jax.vmap(path.target.pointwise_log_likelihood)(positions).items():
        shares = (~np.isfinite(np.asarray(values))).mean(axis=0)
        for index, share in np.ndenumerate(shares):
            if share > 0:
                found.append((-share, f"{site}[{', '.join(map(str, index))}]" if index else site))
    found = sorted(found)
    names = [f"{label} (in {-share:.0%} of them)" for share, label in found[:most]]
    return names + ([f"and {len(found) - most} more"] if len(found) > most else [])
