"""Maximum a posteriori estimate (MAP): the mode of a density.

    x* = argmax pi(x)                by L-BFGS from several starts              [1]

A mode depends on the coordinates. Where values are constrained, ``x = constrain(z)``, the density
of ``x`` and that of the unconstrained ``z`` differ by the Jacobian, and so do their modes:

    jacobian=False   argmax p(x),                 the mode of the density as the user wrote it
    jacobian=True    argmax p(x) |dx / dz|,       the mode of what samplers move in

The first is Stan's default for ``optimize``, the penalized maximum likelihood of textbooks; the
second is where `Laplace` expands. The first may not exist where the second does: a density that
grows without bound as a scale falls to zero has a finite integral and no mode.

A mode is no draw: it is biased, says nothing of the spread, and in many dimensions it lies far from
where the mass is.

References
----------
.. [1] Liu and Nocedal, "On the limited memory BFGS method for large scale optimization", Math.
   Program. 45, 1989, doi:10.1007/BF01589116.
"""

from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from ppl.energy import Energy, Position
from ppl.sampler import Exactness, ParticleSampler, positive, size
from samplers.variational import lbfgs
from samplers.variational.lbfgs import Descent, Objective


class MAPInfo(NamedTuple):
    """The best start so far.

    log_density
        What is maximized, in nats; with the log-Jacobian or without, as was asked.
    gain
        Estimate of how far below its maximum it was before the step, in nats.
    converged
        Nothing left to gain.
    starts_in_agreement
        Starts whose density is within a tenth of a nat of the best.
    """

    log_density: Float[Array, ""]
    gain: Float[Array, ""]
    converged: Bool[Array, ""]
    starts_in_agreement: Int[Array, ""]
    num_evaluations: Int[Array, "2"]


class MAP(ParticleSampler):
    """Maximum a posteriori estimate: one draw a run, the highest mode found; biased.

    ``draws.history["log_density"][:, -1]`` is the density at the mode, in nats.

    Parameters
    ----------
    num_starts
        Jittered starts, of which the best counts.
    max_iterations
        Of L-BFGS.
    tolerance
        Nats below the maximum at which a start has arrived. Rounding may forbid so small a
        number; then as near as it allows.
    jacobian
        Whether the log-Jacobian of the support counts; see above.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"log_density", "gradient"})
    exactness: ClassVar[Exactness] = "biased"

    num_starts: int = size("num_starts", default=8)
    max_iterations: int = size("max_iterations", default=500)
    tolerance: Float[Array, ""] = positive("tolerance", default=1e-6)
    jacobian: bool = eqx.field(static=True, default=False)

    def init(self, rng_key: PRNGKeyArray, target: Energy) -> Descent:
        return lbfgs.begin(rng_key, target, self._objective(target), self.num_starts)

    def step(
        self, rng_key: PRNGKeyArray, target: Energy, state: Descent
    ) -> tuple[Descent, MAPInfo]:
        objective = self._objective(target)
        new = jax.vmap(lambda d: lbfgs.advance(objective, d, self.tolerance))(state)
        top, spent = lbfgs.best(new), lbfgs.spent(state, new)
        agreeing = jnp.sum(new.value < top.value + 0.1).astype(jnp.int32)
        return new, MAPInfo(-top.value, top.gain, top.converged, agreeing, spent)

    def done(self, state: Descent) -> Bool[Array, ""]:
        return jnp.all(state.ended | (state.iterations >= self.max_iterations))

    def collect(
        self, rng_key: PRNGKeyArray, target: Energy, state: Descent, history: Any
    ) -> tuple[Position, None, None]:
        unravel, _ = lbfgs.flat(target)
        return jax.tree.map(lambda x: x[None], unravel(lbfgs.best(state).position)), None, None

    def notes(self, history: dict[str, np.ndarray]) -> list[str]:
        said = lbfgs.notes("MAP", history)
        agreeing = int(history["starts_in_agreement"][-1])
        if agreeing < self.num_starts / 2:
            said.append(
                f"MAP: only {agreeing} of {self.num_starts} starts reached the highest mode; there "
                "may be a higher one. Raise num_starts"
            )
        return said

    def _objective(self, target: Energy) -> Objective:
        unravel, objective = lbfgs.flat(target)
        if self.jacobian:
            return objective
        return lambda x: objective(x) + target.log_jacobian(unravel(x))
