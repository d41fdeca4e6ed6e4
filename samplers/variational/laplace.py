"""Laplace approximation: the Gaussian that fits a density at its mode.

    x* = argmax pi(x),   H = -d^2 log pi(x*),   q = N(x*, H^-1)
    log Z ~ log pi(x*) + d/2 log(2 pi) - 1/2 log det H                       (eq. 2.2 of [1])

``x`` is the unconstrained position and ``pi`` has the log-Jacobian, so that constrained supports
are met by transformed Gaussians. Draws come from q with log-weights ``log pi - log q``: weighted,
they are asymptotically exact, their mean weight is an unbiased estimate of Z, and k-hat says
whether either may be trusted. Unweighted they are as biased as the Gaussian: q has lighter tails
than many posteriors, and it sees one mode only.

The mode is found by L-BFGS from several starts and finished by Newton's method. The Hessian is a
``d x d`` matrix, for up to some thousands of dimensions, and the density is differentiated twice.

References
----------
.. [1] Tierney and Kadane, "Accurate approximations for posterior moments and marginal densities",
   JASA 81, 1986, doi:10.1080/01621459.1986.10478240.
"""

from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax, random
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from ppl.energy import Energy, Position, TargetError
from ppl.sampler import Exactness, LearnedSampler, positive, size
from samplers.mcmc.metropolis import illegal
from samplers.variational import lbfgs
from samplers.variational.lbfgs import Descent

FLATTEST = 1e-6  # smallest curvature as a share of the largest, once the diagonal is one
NEWTON_STEPS = 2


class Gaussian(NamedTuple):
    """N(m, A A') on flat positions."""

    mean: Float[Array, " d"]
    factor: Float[Array, "d d"]
    log_det: Float[Array, ""]  # of A

    def move(self, noise: Float[Array, "n d"]) -> Float[Array, "n d"]:
        """From standard normal rows to rows of this law."""
        return self.mean + noise @ self.factor.T

    def log_density(self, noise: Float[Array, "n d"]) -> Float[Array, " n"]:
        """Normalized log-density, in nats, of the rows that ``noise`` was moved to."""
        return -0.5 * jnp.sum(noise**2 + jnp.log(2 * jnp.pi), axis=1) - self.log_det


class LaplaceState(NamedTuple):
    """The descents, and the Gaussian once it ``is_fitted``."""

    descents: Descent
    law: Gaussian
    is_fitted: Bool[Array, ""]


class LaplaceInfo(NamedTuple):
    """The search for the mode; the last step is that of the Gaussian.

    log_density
        Highest one so far, in nats.
    gain
        Estimate of how far that was below the mode before the step, in nats.
    converged
        Nothing left to gain.
    log_evidence
        The closed form above; NaN before the last step.
    num_repaired
        Directions whose curvature was not positive.
    """

    log_density: Float[Array, ""]
    gain: Float[Array, ""]
    converged: Bool[Array, ""]
    log_evidence: Float[Array, ""]
    num_repaired: Int[Array, ""]
    num_evaluations: Int[Array, "2"]


class Laplace(LearnedSampler):
    """Laplace approximation with importance weights: asymptotically exact through them.

    ``draws.history["log_evidence"][:, -1]`` is the Laplace estimate of the evidence,
    ``draws.log_evidence`` the one by importance sampling.

    Parameters
    ----------
    num_starts
        Jittered starts, of which the highest mode counts.
    max_iterations
        Of L-BFGS.
    tolerance
        Nats below the mode at which a start has arrived, before Newton's steps.

    Raises
    ------
    TargetError
        If the density cannot be differentiated twice.

    Differences from the paper
    --------------------------
    [1] expands numerator and denominator of each expectation; here there is one Gaussian, and
    importance weights in place of higher terms. A curvature ``h`` that is not positive (in units
    that make the diagonal of H one) becomes ``|h|``, at least 1e-6 of the largest, and the run
    says so.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"log_density", "gradient"})
    exactness: ClassVar[Exactness] = "asymptotically exact"

    num_starts: int = size("num_starts", default=4)
    max_iterations: int = size("max_iterations", default=500)
    tolerance: Float[Array, ""] = positive("tolerance", default=1e-4)

    @property
    def num_updates(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Iterations at most, and the step that fits the Gaussian."""
        return self.max_iterations + 1

    def check(self, target: Energy) -> None:
        _, objective = lbfgs.flat(target)
        flat = jax.eval_shape(lambda p: lbfgs.ravel_pytree(p)[0], target.template)
        try:
            jax.eval_shape(jax.hessian(objective), flat)
        except TypeError as error:
            raise TargetError(
                "Laplace differentiates the log-density twice, which this one does not allow "
                f"({str(error).partition(chr(10))[0]}). Use samplers.Pathfinder() or "
                "samplers.GaussianVI(), which need a gradient only"
            ) from error

    def init(self, rng_key: PRNGKeyArray, target: Energy) -> LaplaceState:
        _, objective = lbfgs.flat(target)
        descents = lbfgs.begin(rng_key, target, objective, self.num_starts)
        dtype, d = descents.value.dtype, descents.position.shape[1]
        empty = Gaussian(jnp.zeros(d, dtype), jnp.zeros((d, d), dtype), jnp.zeros((), dtype))
        return LaplaceState(descents, empty, jnp.zeros((), bool))

    def step(
        self, rng_key: PRNGKeyArray, target: Energy, state: LaplaceState
    ) -> tuple[LaplaceState, LaplaceInfo]:
        descents = state.descents
        arrived = jnp.all(descents.ended | (descents.iterations >= self.max_iterations))
        # Descents are not vmapped over runs: only one branch is computed.
        return lax.cond(
            arrived, lambda s: self._fit(target, s), lambda s: self._descend(target, s), state
        )

    def done(self, state: LaplaceState) -> Bool[Array, ""]:
        return state.is_fitted

    def draw(
        self, rng_key: PRNGKeyArray, target: Energy, state: LaplaceState, n: int
    ) -> tuple[Position, Float[Array, " n"]]:
        unravel, objective = lbfgs.flat(target)
        law = state.law
        noise = random.normal(rng_key, (n, law.mean.size), law.mean.dtype)
        x = law.move(noise)
        log_density = -jax.vmap(objective)(x)
        log_density = jnp.where(jax.vmap(illegal)(log_density), -jnp.inf, log_density)
        return jax.vmap(unravel)(x), log_density - law.log_density(noise)

    def evaluations(self, n: int) -> tuple[int, int]:
        return (n, 0)

    def notes(self, history: dict[str, np.ndarray]) -> list[str]:
        said = lbfgs.notes("Laplace", history)
        if repaired := int(history["num_repaired"][-1]):
            said.append(
                f"Laplace: in {repaired} direction(s) the log-density does not curve downward "
                "at the best point found: it is no proper maximum there, and the Gaussian is made "
                "up along them. The weights correct for it as far as k-hat allows; else "
                "reparametrize, or use NUTS"
            )
        return said

    def _descend(self, target: Energy, state: LaplaceState) -> tuple[LaplaceState, LaplaceInfo]:
        _, objective = lbfgs.flat(target)
        old = state.descents
        new = jax.vmap(lambda d: lbfgs.advance(objective, d, self.tolerance))(old)
        top = lbfgs.best(new)
        info = LaplaceInfo(
            -top.value,
            top.gain,
            top.converged,
            jnp.full_like(top.value, jnp.nan),
            jnp.int32(0),
            lbfgs.spent(old, new),
        )
        return state._replace(descents=new), info

    def _fit(self, target: Energy, state: LaplaceState) -> tuple[LaplaceState, LaplaceInfo]:
        _, objective = lbfgs.flat(target)
        top = lbfgs.best(state.descents)
        slope, d = jax.grad(objective), top.position.size

        def newton(_: Any, x: Float[Array, " d"]) -> Float[Array, " d"]:
            factor = _gaussian(objective, x)[0].factor
            slant = factor.T @ slope(x)
            moved = x - factor @ slant
            # The gradient is known better than the density: judge by it, in units of the Gaussian.
            shorter = jnp.linalg.norm(factor.T @ slope(moved)) < jnp.linalg.norm(slant)
            return jnp.where(shorter & jnp.isfinite(objective(moved)), moved, x)

        mean = lax.fori_loop(0, NEWTON_STEPS, newton, top.position)
        law, num_repaired = _gaussian(objective, mean)
        value = objective(mean)
        log_evidence = -value + d / 2 * jnp.log(2 * jnp.pi) + law.log_det
        gain = jnp.sum((law.factor.T @ slope(mean)) ** 2) / 2
        evaluations = NEWTON_STEPS * (d + 3) + d + 2
        info = LaplaceInfo(
            -value,
            gain,
            top.converged | (gain <= self.tolerance),
            log_evidence.astype(value.dtype),
            num_repaired,
            jnp.full(2, evaluations, jnp.int32),
        )
        return LaplaceState(state.descents, law, jnp.ones((), bool)), info


def _gaussian(objective: lbfgs.Objective, x: Float[Array, " d"]) -> tuple[Gaussian, Int[Array, ""]]:
    """The Gaussian of the curvature at x, and in how many directions that had to be repaired."""
    hessian = jax.hessian(objective)(x)
    diagonal = jnp.abs(jnp.diagonal(hessian))
    # In units in which the diagonal is one, so that rounding hides no small scale.
    units = 1 / jnp.sqrt(jnp.where(diagonal > 0, diagonal, 1))
    curvatures, axes = jnp.linalg.eigh(units[:, None] * hessian * units)
    largest = jnp.max(jnp.abs(curvatures))
    smallest = FLATTEST * jnp.where(largest > 0, largest, 1)
    scales = 1 / jnp.sqrt(jnp.maximum(jnp.abs(curvatures), smallest))
    log_det = jnp.sum(jnp.log(units)) + jnp.sum(jnp.log(scales))
    law = Gaussian(x, units[:, None] * axes * scales, log_det)
    return law, jnp.sum(curvatures <= smallest).astype(jnp.int32)
